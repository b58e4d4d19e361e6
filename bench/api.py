"""The Python API: the same words as the command line, for notebooks and scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.experiments.run import CommandResult, RunRequest
from bench.experiments.run import run as run_request
from bench.experiments.settings import Overrides
from bench.messages import split_commas
from bench.store.records import RunRecord
from bench.store.results import Store

if TYPE_CHECKING:
    import pandas as pd


def run(
    models: str | Sequence[str],
    dataset: str | Sequence[str] = "ml-100k",
    *,
    seeds: int | Sequence[int] = 0,
    tasks: str | Sequence[str] | None = None,
    candidates: str | Sequence[str] = "uniform",
    set: Mapping[str, Mapping[str, Any]] | None = None,
    quiet: bool = False,
    **options: Any,
) -> CommandResult:
    """Fit and rank models; what is there already is not repeated.

    Args:
        models: names or groups, as a comma string or a list.
        dataset: names of data sets, as a comma string or a list.
        seeds: seed or seeds of the fits.
        tasks: "rec", "search" or both; by default those of the data.
        candidates: kinds of candidates, as a comma string or a list.
        set: settings by name, e.g. `{"unisar": {"lr": 1e-3}, "train": {"epochs": 3}}`.
        quiet: say nothing but warnings.
        options: the other options of `bench run` with `_` for `-`: split, mode, budget, device, candidate_seed, force,
            trivial, top_lists, out, data, threads, tracking_uri.

    Raises:
        bench.errors.UsageError: a wrong request; nothing has been started.
    """
    known = RunRequest.__dataclass_fields__
    for name in options:
        if name not in known or name in ("overrides",):
            raise UsageError(f"bench.run has no option '{name}'; known: {', '.join(sorted(known))}")
    from bench.experiments.progress import PlainReporter, Reporter

    request = RunRequest(
        models=models if isinstance(models, str) else ",".join(models),
        dataset=_names(dataset),
        tasks=_names(tasks) if tasks else None,
        candidates=_names(candidates),
        seeds=(seeds,) if isinstance(seeds, int) else tuple(seeds),
        overrides=Overrides({name: dict(values) for name, values in (set or {}).items()}),
        **options,
    )
    from bench.report.table import markdown

    return run_request(request, Reporter() if quiet else PlainReporter(), markdown)


def evaluate(runs: str | Sequence[str], candidates: str | Sequence[str], **options: Any) -> list[RunRecord]:
    """Rank finished runs on further candidates, without training.

    Args:
        runs: ids, starts of ids or folders, as a comma string or a list.
        candidates: kinds of candidates, as a comma string or a list.
        options: the other options of `bench evaluate`: candidate_seed, top_lists, out, data, device, tracking_uri.

    Raises:
        bench.errors.UsageError: an unknown run or kind of candidates.
        bench.errors.RunError: a run cannot be read or ranked.
    """
    from bench.experiments.evaluate import evaluate as evaluate_runs

    return evaluate_runs(_names(runs), _names(candidates), **options)


def table(out: str | Path = "results/local", **options: Any) -> "pd.DataFrame":
    """The comparison table as flat records: one row per data set, candidates, task, model and metric.

    Args:
        out: the results folder.
        options: as `bench table`: from_dirs, dataset, candidates, budget, metrics, tasks, seeds, models.

    Raises:
        bench.errors.UsageError: nothing fits the options, or what fits must not be compared.
        bench.errors.RunError: ranks that cannot be right.
    """
    from bench.report.table import table as compare

    return compare(Store(out), **options).frame()


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a comma string or a list."""
    return tuple(split_commas(value if isinstance(value, str) else ",".join(value)))
