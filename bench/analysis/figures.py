"""The figures of the analyses, drawn with matplotlib from their tables: axes named, units given, a caption below each."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.data.log import TASKS
from bench.ranker import registry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LETTERS = 17  # of a caption, per inch
COLORS = {"rec": "#1f77b4", "search": "#d95f02"}
_NAMES = {"rec": "recommendation", "search": "search"}


def draw(
    name: str, tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any], caption: str
) -> dict[str, "Figure"]:
    """All figures of an analysis by name, from its tables alone, with a caption below each.

    Args:
        name: of the analysis.
        tables: as it wrote them.
        settings: as it wrote them.
        caption: what is shown, and of which data and fits.

    Raises:
        KeyError: a table or a column is missing.
    """
    if name == "space":
        points, seeds = tables["space-points"], tables["space-seeds"]
        several = points["dataset"].nunique() > 1
        out = {}
        for (dataset, model), part in points.groupby(["dataset", "name"], sort=False):
            drawn = part.iloc[0][["dataset", "model", "seed"]]
            about = seeds[(seeds[["dataset", "model", "seed"]] == drawn).all(axis=1)]
            words = ["space", model, dataset] if several else ["space", model]
            out["-".join(words).replace(":", "-").replace("/", "-")] = space(part, about)
    elif name == "gradients":
        out = {name: gradients(tables["gradients-steps"])}
    elif name in ("ablation", "sweep"):
        out = {name: {"ablation": variants, "sweep": sweep}[name](tables[name], settings["metric"])}
    else:
        out = {name: {"mi": information, "lemma": lemma}[name](tables[name])}
    for drawn in out.values():
        width = int(drawn.get_figwidth() * _LETTERS)
        drawn.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8, x=0.01, ha="left")
    return out


def figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple["Figure", np.ndarray]:
    """A figure without a window, and its axes, (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def _labels(table: pd.DataFrame) -> pd.Series:
    """What names a row: its model's title, and its data set where there are several."""
    known = registry.entries()
    titles = table["model"].map(lambda name: known[name].title if name in known else name)
    return titles + " on " + table["dataset"] if table["dataset"].nunique() > 1 else titles


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
        axis.set_xticks(at, _labels(part), rotation=20, ha="right")
        axis.set_title(_NAMES[task])
        axis.set_ylabel("mutual information I(X; Y) [nats]")
        axis.set_ylim(0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    out.legend(handles, labels, fontsize=7, ncols=3, loc="outside upper center")
    return out


def space(points: pd.DataFrame, about: pd.DataFrame) -> "Figure":
    """t-SNE of the views of one model and two components of its hidden states.

    Args:
        points: of one fit: `space`, `task`, `x`, `y`.
        about: a row per space of that fit: `overlap`, `share 1`, `share 2`.
    """
    titles = {"views": "views of history and candidate", "hidden": "hidden states"}
    panels = list(points.groupby("space", sort=False))
    out, axes = figure(3.6 * len(panels), 3.9, columns=len(panels))
    for axis, (name, panel) in zip(axes[0], panels, strict=True):
        for task in TASKS:
            of_task = panel[panel["task"] == task]
            _contours(axis, of_task[["x", "y"]].to_numpy(), COLORS[task], _NAMES[task])
        line = about[about["space"] == name].iloc[0]
        axis.set_title(f"{line['model']}: {titles[str(name)]}\noverlap of the tasks {line['overlap']:.2f}", fontsize=9)
        layout = pd.notna(line["t-SNE"])
        shares = [f"component {n} ({line[f'share {n}']:.0%} of variance)" for n in (1, 2)]
        axis.set_xlabel("t-SNE 1" if layout else shares[0])
        axis.set_ylabel("t-SNE 2" if layout else shares[1])
    for handle in axes[0][0].legend(fontsize=8, markerscale=5).legend_handles:
        handle.set_alpha(1)
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
    """Cosine against the training step per model, each batch and the smoothed mean; and its distribution."""
    out, axes = figure(9, 3.6, columns=2)
    frame = frame.assign(label=_labels(frame))
    for number, (model, group) in enumerate(frame.groupby("label", sort=False)):
        color = f"C{number}"
        axes[0][0].plot(group["step"], group["between"], ".", color=color, alpha=0.15, markersize=3)
        axes[0][0].plot(_smooth(group, "between"), color=color, label=f"{model}: between the tasks")
        within = group.assign(within=group[["within rec", "within search"]].mean(axis=1))
        axes[0][0].plot(_smooth(within, "within"), color=color, linestyle=":", label=f"{model}: within a task")
        values = group["between"].dropna()
        label = f"{model}: {(values < 0).mean():.0%} below 0"
        axes[0][1].hist(values, bins=np.linspace(-1, 1, 41), color=color, alpha=0.5, label=label)
    axes[0][0].axhline(0, color="grey", linewidth=0.8)
    axes[0][0].set_xlabel("training step")
    axes[0][0].set_ylabel("cosine of gradients")
    axes[0][1].axvline(0, color="grey", linewidth=0.8)
    axes[0][1].set_xticks(np.linspace(-1, 1, 5))
    axes[0][1].set_xlabel("cosine between the tasks' gradients")
    axes[0][1].set_ylabel("batches")
    for axis in axes[0]:
        axis.legend(fontsize=7)
    return out


def _smooth(group: pd.DataFrame, column: str) -> pd.Series:
    """The mean over batches and seeds at each step, smoothed over three checks."""
    return group.groupby("step")[column].mean().rolling(3, center=True, min_periods=1).mean()


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

    table = table.assign(label=_labels(table))
    models = list(dict.fromkeys(table["label"]))
    lines = table.groupby("label")["variant"].nunique().sum()
    out, axes = figure(9, 0.32 * lines + 2.3, columns=len(TASKS))
    for axis, task in zip(axes[0], TASKS, strict=True):
        part = table[(table["task"] == task) & table["difference"].notna()].reset_index(drop=True)
        at = np.arange(len(part))[::-1]
        error = np.abs(part[["low", "high"]].to_numpy() - part[["difference"]].to_numpy()).T
        axis.errorbar(part["difference"], at, xerr=error if len(part) else None, fmt="o", color=COLORS[task], capsize=3)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_yticks(at, part["variant"] if len(models) == 1 else part["label"] + ": " + part["variant"])
        defaults = table[(table["task"] == task) & (table["variant"] == "default")]
        shown = []
        for _, line in defaults.iterrows():
            spread = line["spread over seeds"]
            rows = at[(part["label"] == line["label"]).to_numpy()]
            if pd.notna(spread) and len(rows):
                axis.fill_betweenx([rows.min() - 0.4, rows.max() + 0.4], -spread, spread, color="grey", alpha=0.2, lw=0)
            shown.append(f"{line['label']} {line['mean']:.3f}")
        axis.set_title(f"{_NAMES[task]}; default: {', '.join(shown)}", fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_xlabel(
            f"{metric}, variant minus default\n(bars: 95 % over users;\ngrey: the default's deviation over seeds)"
        )
    return out


def sweep(table: pd.DataFrame, metric: str) -> "Figure":
    """Per model and key the metric against the value, both tasks, the model's default as a line."""
    table = table.assign(label=_labels(table))
    asked = table[table["variant"] != "default"]
    panels = list(dict.fromkeys(zip(asked["label"], asked["key"], strict=True)))
    out, axes = figure(max(3.8 * len(panels), 5), 3.6, columns=len(panels))
    for axis, (model, key) in zip(axes[0], panels, strict=True):
        for task in TASKS:
            of_task = table[(table["task"] == task) & (table["label"] == model)]
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
