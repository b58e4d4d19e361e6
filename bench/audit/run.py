"""`bench audit run`: a finished run opened again and examined, from its records to its scores."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.audit import inputs, invariances
from bench.audit.fitted_run import FittedRun
from bench.data.log import TASKS
from bench.errors import RunError, UsageError
from bench.evaluation.finding import Finding, in_order
from bench.evaluation.metrics import DEFAULT
from bench.evaluation.ranks import Ranks
from bench.experiments import settings
from bench.experiments.evaluate import open_run
from bench.experiments.progress import Reporter
from bench.messages import first_line
from bench.report.findings import of_table
from bench.report.marks import compared
from bench.report.rows import ComparableRuns, RankedRun, Row
from bench.store.records import Evaluation, RunRecord, now
from bench.store.results import CURVE, Store, checked_file, read_ranks

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting
    from bench.experiments.prepared_data import PreparedData
    from bench.ranker.ranker import Ranker

ROWS = 500  # of each task
_FALL = 0.01  # of the training loss, relative


def audit_runs(
    runs: Sequence[str],
    *,
    out: str | Path = "results/local",
    data: str | Path | None = None,
    device: str = "auto",
    rows: int = ROWS,
    tracking_uri: str | None = None,
    reporter: Reporter | None = None,
) -> list[Finding]:
    """Examine finished runs; what their models show is kept in their records, where tables and MLflow read it.

    Args:
        runs: ids, starts of ids or folders.
        out: the results folder.
        data: folder of raw and prepared data.
        device: where the models shall be.
        rows: test rows of each task that are ranked again, at most.
        tracking_uri: of MLflow.
        reporter: hears what is examined.

    Returns:
        all findings, the gravest first.

    Raises:
        UsageError: no such run.
        RunError: its files or its data are not those of the record.
    """
    if not runs:
        raise UsageError("no runs given; `bench runs list` shows those that exist")
    from bench.store.mlflow_view import Tracker

    reporter, store = reporter or Reporter(), Store(out)
    chosen, used = [store.find(run) for run in dict.fromkeys(runs)], settings.device(device)
    opened: dict[str, PreparedData] = {}
    tracker, found = Tracker(store, tracking_uri), []
    for folder, record in chosen:
        reporter.note(f"{record.id}: records and ranks")
        found += of_records(store, folder, record)
        if record.kind != "fit":
            reporter.note(f"{record.id}: scores made elsewhere, there is no model to examine")
            continue
        fitting = open_run(folder, record, opened, data=data, device=used, reporter=reporter)
        reporter.note(f"{record.id}: the model")
        of_model = in_order(examined(fitting, fitting.load(), record, rows))
        found += of_model
        with store.locked(folder.parent.name, record.id, lambda line: reporter.note(f"{line}; waiting for it")):
            record = store.read(folder)
            record.audit = {"made": now(), "rows": rows, "findings": [each.record() for each in of_model]}
            store.write(folder, record)
        place = f"{record.dataset['name']}/{record.id}"
        for command in [each for each in store.commands() if place in each.runs][-1:]:
            tracker.log_run(folder, record, command)
    return in_order(found)


def of_records(store: Store, folder: Path, record: RunRecord) -> list[Finding]:
    """What the records and ranks of a run and of its other seeds say, on each of its candidate sets."""
    own, found = RankedRun(folder, record, _first(record)), []
    siblings = [
        (place, other)
        for place, other in store.runs()
        if other.model == record.model and other.dataset["fingerprint"] == record.dataset["fingerprint"]
    ]
    for evaluation in record.evaluations.values():
        by_seed = {
            other.seed: RankedRun(place, other, other.evaluations[evaluation.fingerprint])
            for place, other in siblings
            if evaluation.fingerprint in other.evaluations
            and RankedRun(place, other, evaluation).settings == own.settings
            and other.dataset["split"] == record.dataset["split"]
            and other.budget == record.budget
        } | {record.seed: RankedRun(folder, record, evaluation)}
        row = Row(record.model, record.title, record.group, tuple(by_seed[seed] for seed in sorted(by_seed)))
        group = ComparableRuns(record.dataset, evaluation, record.budget, (row,))
        found += of_table([compared(group, DEFAULT, TASKS)], audits=False)
    return in_order(found)


def examined(fitting: "Fitting", model: "Ranker", record: RunRecord, rows: int) -> Iterator[Finding]:
    """What a fitted model shows on its data.

    Args:
        fitting: the opened run.
        model: with its trained weights.
        record: of the run.
        rows: test rows of each task that are ranked again, at most.
    """
    label, run, evaluation = record.title, FittedRun(fitting, model), _first(record)
    yield from _training(fitting, record)
    broken = False
    for finding in invariances.findings(run, label):
        broken = broken or finding.check in ("shape", "dtype", "finite")
        yield finding
    drawn = evaluation.strategy not in ("full", "given") and evaluation.label.endswith("-99")
    strategy = evaluation.strategy if drawn else "uniform"
    if strategy in ("same-query", "shown"):
        strategy, drawn = "uniform", False
    measured = inputs.Measured(fitting, model, rows, strategy, evaluation.seed if drawn else 0)
    try:
        if drawn and measured.strategy == strategy:
            yield from _reproduced(measured, fitting.folder, evaluation, label)
        yield from inputs.findings(measured, label, run.reads)
    except RunError as error:
        if not broken:
            yield Finding(
                "severe", "scores", label, "cannot be ranked again", first_line(error), "repair the model", (label,)
            )


def _first(record: RunRecord) -> Evaluation:
    """The evaluation that is examined: on uniform candidates where there is one."""
    return sorted(record.evaluations.values(), key=lambda one: one.strategy != "uniform")[0]


def _reproduced(measured: inputs.Measured, folder: Path, evaluation: Evaluation, label: str) -> Iterator[Finding]:
    """The stored ranks must be those that the weights give."""
    stored = read_ranks(folder, evaluation)
    for task in measured.fitting.tasks:
        again = measured.true(task)
        before = _matching(stored.only(task), again)
        if len(before) != len(again):
            return
        moved = abs(before.better + before.tied / 2 - again.better - again.tied / 2) > 1
        if moved.mean() > 0.01:
            yield Finding(
                "severe",
                "reproduced",
                label,
                "the stored ranks are not those that the stored weights give",
                f"{moved.mean():.1%} of {len(again):,} {task} rows have another place",
                "look for randomness at scoring time; else repeat the run with --force",
                (label,),
            )


def _matching(ranks: Ranks, like: Ranks) -> Ranks:
    """The rows of `ranks` that are in `like`, in its order."""
    import pandas as pd

    known = pd.MultiIndex.from_arrays([ranks.event_id, ranks.item])
    places = known.get_indexer(pd.MultiIndex.from_arrays([like.event_id, like.item]))
    return ranks.rows(places[places >= 0])


def _training(fitting: "Fitting", record: RunRecord) -> Iterator[Finding]:
    """The training loss must fall; where the class says what an untrained model's loss is, it must end below that."""
    if CURVE not in record.files:
        return
    losses = list(_losses(checked_file(fitting.folder, CURVE)))
    if len(losses) < 2:
        return
    declared: tuple[float, float] | None = getattr(fitting.cls, "fresh_loss", None)
    start = losses[0] if declared is None else min(losses[0], declared[0])
    if losses[-1] > start * (1 - _FALL) if start > 0 else losses[-1] >= start:
        what = "ends where an untrained model's begins" if declared else "did not fall"
        yield Finding(
            "warning",
            "loss",
            record.title,
            f"the training loss {what}",
            f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last"
            + (f", untrained {declared[0]:.4f}" if declared else ""),
            "look at its learning curve, then change the learning rate or train longer",
            (record.title,),
        )


def _losses(curve: Path) -> Iterator[float]:
    """Training losses of the last stage of a fit."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in curve.read_text().splitlines()]
    for line in lines:
        if line.get("stage") == lines[-1].get("stage") and isinstance(line.get("train/loss"), int | float):
            yield float(line["train/loss"])
