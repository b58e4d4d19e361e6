"""The figures of the analyses, drawn with matplotlib: axes named, units given, readable without the text."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.data.log import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"rec": "#1f77b4", "search": "#d95f02"}
_NAMES = {"rec": "recommendation", "search": "search"}


def figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple["Figure", np.ndarray]:
    """A figure without a window, and its axes, (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def information(table: pd.DataFrame) -> "Figure":
    """Bars of MINE with intervals over seeds, the exact value and the entropy of the answer beside them."""
    out, axes = figure(7, 3.2, columns=len(TASKS))
    for axis, task in zip(axes[0], TASKS, strict=True):
        part = table[table["task"] == task].reset_index(drop=True)
        at = np.arange(len(part))
        bounds = part[["mine low", "mine high"]].to_numpy()
        error = np.abs(bounds - part[["mine"]].to_numpy()).T
        axis.bar(at, part["mine"], color=COLORS[task], alpha=0.7, label="MINE (bars: 95 % interval over seeds)")
        shown = np.isfinite(error).all(0)
        axis.errorbar(at[shown], part["mine"][shown], error[:, shown], fmt="none", color="black", capsize=3)
        axis.plot(at, part["exact"], "kD", label="exact: H(mean p) - mean H(p)")
        axis.plot(at, part["entropy"], "k_", markersize=24, label="entropy of the answer (upper bound)")
        axis.set_xticks(at, part["model"], rotation=20, ha="right")
        axis.set_title(_NAMES[task])
        axis.set_ylabel("mutual information I(X; Y) [nats]")
        axis.set_ylim(0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    out.legend(handles, labels, fontsize=7, ncols=3, loc="outside lower center")
    return out


def space(
    planes: dict[str, tuple[np.ndarray, np.ndarray, str, tuple[str, str]]],
) -> "Figure":
    """A panel per plane: title -> points (R, 2), task (R,), a line under the title, names of both axes."""
    out, axes = figure(3.6 * len(planes), 3.6, columns=len(planes))
    for axis, (title, (points, task, line, names)) in zip(axes[0], planes.items(), strict=True):
        for code, name in enumerate(TASKS):
            _contours(axis, points[task == code], COLORS[name], _NAMES[name])
        axis.set_title(f"{title}\n{line}", fontsize=9)
        axis.set_xlabel(names[0])
        axis.set_ylabel(names[1])
    axes[0][0].legend(fontsize=8)
    return out


def _contours(axis: "Axes", points: np.ndarray, color: str, label: str) -> None:
    """Points with contours of their kernel density; points alone where they have no area."""
    from scipy.stats import gaussian_kde

    axis.plot(*points.T, ".", color=color, alpha=0.25, markersize=2, label=label, rasterized=True)
    try:
        density = gaussian_kde(points.T.astype(np.float64))
    except np.linalg.LinAlgError:
        return
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low)
    x, y = np.meshgrid(*(np.linspace(low[i] - margin[i], high[i] + margin[i], 60) for i in range(2)))
    values = density(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    # Regions that hold 80, 50 and 20 % of the mass.
    ordered = np.sort(values.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    levels = sorted({float(ordered[np.searchsorted(mass, share)]) for share in (0.8, 0.5, 0.2)})
    axis.contour(x, y, values, levels=levels, colors=color, linewidths=1)


def gradients(frame: pd.DataFrame) -> "Figure":
    """Cosine against the training step per model, the mean over batches and seeds; and its distribution."""
    out, axes = figure(8, 3.2, columns=2)
    for number, (model, group) in enumerate(frame.groupby("model", sort=False)):
        color = f"C{number}"
        of_step = group.groupby("step")
        axes[0][0].plot(of_step["between"].mean(), color=color, label=f"{model}: between the tasks")
        within = group[["within rec", "within search"]].mean(axis=1)
        axes[0][0].plot(
            within.groupby(group["step"]).mean(), color=color, linestyle=":", label=f"{model}: within a task"
        )
        axes[0][1].hist(group["between"].dropna(), bins=np.linspace(-1, 1, 41), color=color, alpha=0.5, label=model)
    axes[0][0].axhline(0, color="grey", linewidth=0.8)
    axes[0][0].set_xlabel("training step")
    axes[0][0].set_ylabel("cosine of gradients")
    axes[0][0].legend(fontsize=7)
    axes[0][1].set_xlabel("cosine between the tasks' gradients")
    axes[0][1].set_ylabel("batches")
    axes[0][1].legend(fontsize=7)
    return out


def lemma(table: pd.DataFrame) -> "Figure":
    """Error of each estimate against its information, a line per pair; the lemma claims that every line falls."""
    out, axes = figure(6, 3.6)
    axis = axes[0][0]
    for number, (_, row) in enumerate(table.iterrows()):
        holds = "holds" if row["smaller error"] == row["more information"] else "fails"
        x = [row["generative error"], row["discriminative error"]]
        y = [row["generative information"], row["discriminative information"]]
        axis.plot(
            x,
            y,
            "o-",
            color=f"C{number}",
            linestyle="-" if holds == "holds" else "--",
            label=f"{row['case']} ({holds})",
        )
    axis.set_xlabel("error of the estimate, |estimate - truth|")
    axis.set_ylabel("I(X; Y) [nats]")
    axis.legend(fontsize=7)
    return out


def variants(table: pd.DataFrame, metric: str) -> "Figure":
    """Per task the difference of each variant to its model's default with its 95 % interval over users.

    The grey band is the standard deviation of the default over seeds: what another training changes.
    """
    from matplotlib.ticker import MaxNLocator

    models = list(dict.fromkeys(table["model"]))
    lines = table.groupby("model")["variant"].nunique().sum()
    out, axes = figure(9, 0.32 * lines + 1.9, columns=len(TASKS))
    for axis, task in zip(axes[0], TASKS, strict=True):
        part = table[(table["task"] == task) & table["difference"].notna()].reset_index(drop=True)
        at = np.arange(len(part))[::-1]
        error = np.abs(part[["low", "high"]].to_numpy() - part[["difference"]].to_numpy()).T
        axis.errorbar(part["difference"], at, xerr=error if len(part) else None, fmt="o", color=COLORS[task], capsize=3)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_yticks(at, part["variant"] if len(models) == 1 else part["model"] + ": " + part["variant"])
        defaults = table[(table["task"] == task) & (table["variant"] == "default")]
        shown = []
        for _, line in defaults.iterrows():
            spread = line["spread over seeds"]
            rows = at[(part["model"] == line["model"]).to_numpy()]
            if pd.notna(spread) and len(rows):
                axis.fill_betweenx([rows.min() - 0.4, rows.max() + 0.4], -spread, spread, color="grey", alpha=0.2, lw=0)
            shown.append(f"{line['model']} {line['mean']:.3f}")
        axis.set_title(f"{_NAMES[task]}; default: {', '.join(shown)}", fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlabel(
            f"{metric}, variant minus default\n(bars: 95 % over users;\ngrey: the default's deviation over seeds)"
        )
    return out


def sweep(table: pd.DataFrame, metric: str) -> "Figure":
    """Per model and key the metric against the value, both tasks, the model's default as a line."""
    panels = [pair for pair in dict.fromkeys(zip(table["model"], table["key"], strict=True)) if pair[1]]
    out, axes = figure(3.8 * len(panels), 3.2, columns=len(panels))
    for axis, (model, key) in zip(axes[0], panels, strict=True):
        for task in TASKS:
            of_task = table[(table["task"] == task) & (table["model"] == model)]
            part = of_task[of_task["key"] == key]
            if not len(part):
                continue
            at = np.arange(len(part))
            error = part["spread over seeds"].to_numpy(dtype=float)
            axis.errorbar(
                at, part["mean"], np.nan_to_num(error), fmt="o-", color=COLORS[task], capsize=3, label=_NAMES[task]
            )
            default = of_task[of_task["variant"] == "default"]["mean"]
            axis.axhline(float(default.iloc[0]), color=COLORS[task], linestyle=":", linewidth=1)
            axis.set_xticks(at, [f"{value:g}" if isinstance(value, float) else str(value) for value in part["value"]])
        axis.set_title(model, fontsize=10)
        axis.set_xlabel(key)
        axis.set_ylabel(f"{metric} (bars: deviation over seeds)")
    axes[0][0].legend(fontsize=8, title="dotted: default")
    return out
