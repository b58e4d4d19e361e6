"""`bench evaluate`: a finished fit ranked on further candidates, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RunError, UsageError
from bench.experiments import settings
from bench.experiments.progress import Reporter
from bench.experiments.settings import Overrides
from bench.ranker import registry
from bench.store.records import RunRecord
from bench.store.results import Store

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting
    from bench.experiments.prepared_data import PreparedData


def evaluate(
    runs: Sequence[str],
    candidates: Sequence[str],
    *,
    candidate_seed: int = 0,
    out: str | Path = "results/local",
    data: str | Path | None = None,
    device: str = "auto",
    tracking_uri: str | None = None,
    reporter: Reporter | None = None,
    top_lists: bool = False,
) -> list[RunRecord]:
    """Rank finished runs (folder, id or start of an id) on candidate sets; those that are there are kept.

    With `top_lists` the best candidates of every row are kept too; a run that was ranked without them is ranked again.

    Raises:
        UsageError: no such run. RunError: the data or the code have changed since the fit so that its weights do not
        fit.
    """
    if not runs:
        raise UsageError("no runs given; `bench runs list` shows those that exist")
    reporter = reporter or Reporter()
    store = Store(out)
    records = [store.find(run) for run in dict.fromkeys(runs)]
    from bench.experiments.job import rank_run, unranked
    from bench.experiments.prepared_data import choose_candidates
    from bench.store.mlflow_view import Tracker

    used = settings.device(device)
    opened: dict[str, PreparedData] = {}
    tracker = Tracker(store, tracking_uri)
    ranked = []
    for folder, record in records:
        if record.kind != "fit":
            raise UsageError(
                f"{record.id} holds imported scores; a file of scores for those candidates must be imported instead"
            )
        fitting = open_run(folder, record, opened, data=data, device=used, reporter=reporter)
        prepared = fitting.prepared
        choices = []
        for spec in candidates:
            choice = choose_candidates(prepared, spec, prepared.tasks, candidate_seed)
            if set(prepared.candidate_tasks(choice)) & set(record.tasks):
                choices.append(choice)
            else:
                serves = " and ".join(record.tasks)
                reporter.warn(f"{record.id} serves {serves}, the {spec} candidates have no rows for that; left out")
        with store.locked(prepared.name, record.id, lambda line: reporter.note(f"{line}; waiting for it")):
            # Another process may have added some meanwhile.
            record = store.read(folder)
            missing = unranked(record, choices, top_lists)
            for choice in choices:
                if choice not in missing:
                    label = record.evaluations[choice.fingerprint].label
                    reporter.note(f"{record.id}: {label} is there already")
            if missing:
                record = rank_run(store, record, fitting, missing, reporter, record.id, top_lists)
        for command in [each for each in store.commands() if f"{prepared.name}/{record.id}" in each.runs][-1:]:
            tracker.log_run(folder, record, command)
        ranked.append(record)
    return ranked


def open_run(
    folder: Path,
    record: RunRecord,
    opened: "dict[str, PreparedData]",
    *,
    data: str | Path | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> "Fitting":
    """A finished fit with its data and its model's class, ready to load.

    Args:
        folder: of the run.
        record: of the run.
        opened: data that are open already; gets those of this run.
        data: folder of raw and prepared data.
        device: where the model shall be.
        reporter: hears when the sources have changed since the fit.

    Raises:
        RunError: the data set is now another one.
    """
    from bench.experiments.code_hash import fit_sources
    from bench.experiments.fitting import Fitting
    from bench.experiments.process import configure_torch

    prepared = data_of(record, opened, data)
    configure_torch(record.threads)
    cls = registry.get(record.model)
    code = fit_sources(cls.__module__, "backbone" in record.config)
    if code != record.code and reporter:
        reporter.warn(f"{record.id} was fitted with other sources ({record.code}) than those installed ({code})")
    return Fitting(
        name=record.model,
        cls=cls,
        config=cls.Config(**record.config),
        tasks=tuple(record.tasks),
        seed=record.seed,
        prepared=prepared,
        device=device,
        threads=record.threads,
        folder=folder,
    )


def data_of(record: RunRecord, opened: "dict[str, PreparedData]", root: str | Path | None) -> "PreparedData":
    """The data that a run was fitted on, opened once.

    Raises:
        RunError: the data set is now another one.
    """
    from bench.experiments.prepared_data import open_data

    facts = record.dataset
    key = f"{facts['fingerprint']}:{facts['split']}"
    if key not in opened:
        overrides = Overrides({facts["name"]: facts["options"]})
        opened[key] = open_data(facts["name"], root=root, split_name=facts["split"], overrides=overrides)
    prepared = opened[key]
    if prepared.log.fingerprint != facts["fingerprint"]:
        raise RunError(
            f"{record.id} was fitted on data {facts['fingerprint'][:12]}, {facts['name']} is now "
            f"{prepared.log.fingerprint[:12]}; repeat the run"
        )
    return prepared
