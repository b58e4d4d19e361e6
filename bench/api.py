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


def report(
    to: str | Path = "", out: str | Path = "results/local", *, data: str | Path | None = None, **options: Any
) -> Path:
    """Write everything behind a table as one HTML file; returns its path.

    Args:
        to: the file; report.html in the results folder by default.
        out: the results folder.
        data: folder of the prepared data, for texts, histories and strata.
        options: as `bench report`: from_dirs, dataset, candidates, budget, metrics, tasks, seeds.

    Raises:
        bench.errors.UsageError: nothing fits the options, or what fits must not be compared.
        bench.errors.RunError: files of a run are damaged, or the place cannot be written.
    """
    from bench.report.html.page import Report
    from bench.report.table import table as compare

    path = Path(to) if to else Path(out) / "report.html"
    Report(compare(Store(out), **options), data, "bench.api.report").save(path)
    return path


def audit(
    runs: str | Sequence[str] = "",
    dataset: str = "",
    out: str | Path = "results/local",
    *,
    data: str | Path | None = None,
    candidates: str | Sequence[str] | None = None,
    **options: Any,
) -> "pd.DataFrame":
    """What makes finished runs, a data set, or (with neither) the table of a results folder doubtful: one row a finding.

    Args:
        runs: ids, starts of ids or folders, as a comma string or a list.
        dataset: name of a data set.
        out: the results folder.
        data: folder of raw and prepared data.
        candidates: of the data set, "uniform" by default; of the table, as `bench table`.
        options: the other options of `bench audit`: of runs rows, device and tracking_uri; of a data set split, mode, set
            and candidate_seed; of the table from_dirs, budget, tasks and seeds.

    Raises:
        bench.errors.UsageError: both are given, something is unknown, or nothing fits.
        bench.errors.RunError: files are missing, damaged or changed.
    """
    import pandas as pd

    from bench.evaluation.finding import Finding

    if runs and dataset:
        raise UsageError("bench.api.audit takes runs or a data set, not both")
    if runs:
        from bench.audit.run import audit_runs

        found = audit_runs(_names(runs), out=out, data=data, **options)
    elif dataset:
        from bench.audit.data import audit_data
        from bench.experiments.prepared_data import open_candidates, open_data

        seed = options.pop("candidate_seed", 0)
        overrides = Overrides({name: dict(values) for name, values in options.pop("set", {}).items()})
        prepared = open_data(dataset, root=data, split_name=options.pop("split", None), overrides=overrides, **options)
        (kind,) = _names(candidates or "uniform")
        found = audit_data(prepared, open_candidates(prepared, kind, prepared.tasks, seed))
    else:
        from bench.report.findings import of_table
        from bench.report.table import table as compare

        found = of_table(compare(Store(out), candidates=candidates, **options).blocks)
    columns = list(Finding.__dataclass_fields__)
    return pd.DataFrame([finding.record() for finding in found], columns=columns)


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Names from a comma string or a list."""
    return tuple(split_commas(value if isinstance(value, str) else ",".join(value)))
