"""What a search found: in lines, and as figures."""

import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import one_line
from bench.store.studies import FAILED, STOPPED, Study, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def describe(study: Study) -> list[str]:
    """A study in lines: what was searched, what it cost, what was found, and how large the noise of seeds is."""
    record, spent, best = study.record, study.spent(), study.best
    by = f"{record.search}, scheduler {record.scheduler}, seed {record.seed}"
    by += f", at most {record.time_limit:g} s a trial" if record.time_limit else ""
    lines = [
        f"{record.title} on {record.dataset.get('title', record.dataset['name'])} ({record.budget}; {by}): {record.id}",
        f"  spent {spent['trials']} of {record.trials} trials, {spent['steps']:,} steps, {spent['seconds']:,.0f} s",
    ]
    if best is not None and best.value is not None:
        lines.append(f"  best N@10 on validation {best.value:.4f} in trial {best.number + 1}: {_settings(best)}")
        lines.append(f"  {noise(study)}")
    shares = importance(study)
    if shares:
        listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        lines.append(f"  variance of the trials that a setting explains alone: {listed}")
    for trial in study.searched:
        value = "  -   " if trial.value is None else f"{trial.value:.4f}"
        how = f"failed: {trial.reason}" if trial.status == FAILED else _settings(trial)
        lines.append(f"  {trial.number + 1:>3} {value} {'stopped ' if trial.status == STOPPED else ''}{how}")
    return [one_line(line) if not line.startswith("  ") else f"  {one_line(line)}" for line in lines]


def noise(study: Study) -> str:
    """The best trial beside the default config over its seeds: whether the search found more than another seed does."""
    values, best = study.of_default, study.best
    if best is None or best.value is None or not values:
        return "no finished trial of the default settings to compare with"
    if best.number == 0:
        return f"no trial beats the default settings (seeds: {_values(values)})"
    if len(values) < 2:
        return f"the default settings have {values[0]:.4f}; one seed does not show how much chance moves it (--spread)"
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    gain = best.value - mean
    apart = f", {gain / spread:.1f} times their standard deviation" if spread else ""
    verdict = "" if best.value > max(values) else "; a seed of the default settings does as well"
    return f"default settings over {len(values)} seeds: {_values(values)}; the best is {gain:+.4f} from their mean{apart}{verdict}"


def importance(study: Study) -> dict[str, float]:
    """Share of the variance of the trials' values that each setting explains alone, largest first.

    For settings from a list the correlation ratio, for ranges the squared correlation of ranks. Empty below five trials:
    with few trials such shares are mostly chance, and they say nothing of settings that act together.
    """
    trials, rows = _valued(study), []
    if len(trials) < 5:
        return {}
    value = np.asarray([trial.value for trial in trials], dtype=float)
    if value.std() == 0:
        return {}
    for name, choice in study.record.space.items():
        given = [_setting(study, trial, name) for trial in trials]
        if _is_range(choice):
            ranks = np.argsort(np.argsort(given)), np.argsort(np.argsort(value))
            share = float(np.corrcoef(*ranks)[0, 1] ** 2)
        else:
            groups = [value[[each == one for each in given]] for one in {json.dumps(g): g for g in given}.values()]
            share = float(sum(len(g) * (g.mean() - value.mean()) ** 2 for g in groups) / (len(value) * value.var()))
        rows.append((name, 0.0 if math.isnan(share) else share))
    return dict(sorted(rows, key=lambda row: -row[1]))


def write_figures(study: Study) -> list[Path]:
    """Write history.png, importance.png and parallel.png into the study's folder; those that there is something for.

    Raises:
        RunError: the folder cannot be written.
    """
    if not _valued(study):
        return []
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RunError("figures need matplotlib: pip install matplotlib, or leave them out with --no-figures") from None
    drawn = {"history": _history, "parallel": _parallel} | ({"importance": _importance} if importance(study) else {})
    paths = []
    for name, draw in drawn.items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(study, axes)
        axes.set_title(f"{study.record.title}, {study.record.dataset['name']}, {study.record.budget}")
        path = study.folder / f"{name}.png"
        write_atomically(path, partial(figure.savefig, format="png", dpi=130))
        paths.append(path)
    return paths


def _history(study: Study, axes: "Axes") -> None:
    """Value of each trial, the best so far, and the band of the default settings over seeds."""
    trials = _valued(study)
    number, value = [trial.number + 1 for trial in trials], [trial.value or 0.0 for trial in trials]
    ended = [trial.status == STOPPED for trial in trials]
    for early, mark, label in ((False, "o", "finished"), (True, "x", "stopped early")):
        points = [(n, v) for n, v, e in zip(number, value, ended, strict=True) if e == early]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=mark, label=label, color="tab:blue")
    axes.step(number, np.maximum.accumulate(value), where="post", color="tab:orange", label="best so far")
    of_default = study.of_default
    if of_default:
        axes.axhspan(
            min(of_default), max(of_default), color="tab:gray", alpha=0.3, label=f"default, {len(of_default)} seeds"
        )
    axes.set(xlabel="trial (1 = default settings)", ylabel="N@10 on validation")
    axes.legend(fontsize="small")


def _importance(study: Study, axes: "Axes") -> None:
    shares = importance(study)
    axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="tab:blue")
    axes.set(xlabel="share of the variance that the setting explains alone", xlim=(0, 1))


def _parallel(study: Study, axes: "Axes") -> None:
    """One line per trial across the settings, each scaled to its space, and across the value; dark is good."""
    trials, names = _valued(study), list(study.record.space)
    value = np.asarray([trial.value for trial in trials], dtype=float)
    scaled = (value - value.min()) / (np.ptp(value) or 1)
    for trial, height in sorted(zip(trials, scaled, strict=True), key=lambda pair: pair[1]):
        places = [_place(study.record.space[name], _setting(study, trial, name)) for name in names]
        axes.plot([*places, height], color=str(0.85 - 0.85 * height), linewidth=1 + height)
    axes.set_xticks(range(len(names) + 1), [*names, "N@10"], rotation=30, ha="right")
    axes.set_yticks([0, 1], ["low / first", "high / last"])


def _place(choice: Any, value: Any) -> float:
    """Where a value stands in its choice, 0 to 1; what lies outside is put at the nearer end."""
    if not _is_range(choice):
        return choice.index(value) / max(len(choice) - 1, 1) if value in choice else 0.0
    kind, low, high = choice
    if kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _is_range(choice: list[Any]) -> bool:
    return len(choice) == 3 and choice[0] in ("loguniform", "uniform")


def _valued(study: Study) -> list[TrialRecord]:
    return [trial for trial in study.searched if trial.value is not None and trial.status != FAILED]


def _setting(study: Study, trial: TrialRecord, name: str) -> Any:
    return trial.values.get(name, study.record.default[name])


def _settings(trial: TrialRecord) -> str:
    listed = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.values.items()
    ]
    return ", ".join(listed) or "default settings"


def _values(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
