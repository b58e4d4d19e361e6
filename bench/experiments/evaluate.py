"""`bench evaluate`: a finished fit ranked on further candidates, without training."""

from collections.abc import Sequence
from pathlib import Path

from bench.errors import RunError, UsageError
from bench.experiments import settings
from bench.experiments.progress import Reporter
from bench.experiments.run import configure_torch
from bench.experiments.settings import Overrides
from bench.ranker import registry
from bench.store.records import RunRecord
from bench.store.results import Store


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
) -> list[RunRecord]:
    """Rank finished runs (folder, id or start of an id) on candidate sets; those that are there are kept.

    Raises:
        UsageError: no such run. RunError: the data or the code have changed since the fit so that its weights do not
        fit.
    """
    if not runs:
        raise UsageError("no runs given; `bench runs list` shows those that exist")
    reporter = reporter or Reporter()
    store = Store(out)
    found = [store.find(run) for run in dict.fromkeys(runs)]
    from bench.experiments import fit
    from bench.experiments.prepared_data import PreparedData, open_candidates, open_data
    from bench.store.mlflow_view import Tracker

    used = settings.device(device)
    opened: dict[str, PreparedData] = {}
    tracker = Tracker(store, tracking_uri)
    done = []
    for folder, record in found:
        if record.kind != "fit":
            raise UsageError(
                f"{record.id} holds imported scores; a file of scores for those candidates must be imported instead"
            )
        facts = record.dataset
        key = f"{facts['fingerprint']}:{facts['split']}"
        if key not in opened:
            opened[key] = open_data(
                facts["name"],
                root=data,
                split_name=facts["split"],
                overrides=Overrides({facts["name"]: facts["options"]}),
            )
        prepared = opened[key]
        if prepared.log.fingerprint != facts["fingerprint"]:
            raise RunError(
                f"{record.id} was fitted on data {facts['fingerprint'][:12]}, {facts['name']} is now "
                f"{prepared.log.fingerprint[:12]}; repeat the run"
            )
        cls = registry.get(record.model)
        config = cls.Config(**record.config)
        job = fit.Job(
            record.model,
            cls,
            config,
            tuple(record.tasks),
            record.seed,
            record.budget,
            prepared,
            used,
            configure_torch(record.threads),
        )
        if job.code != record.code:
            reporter.warn(
                f"{record.id} was fitted with other sources ({record.code}) than those installed ({job.code})"
            )
        ranker = None
        for spec in candidates:
            chosen = open_candidates(prepared, spec, prepared.tasks, candidate_seed)
            if not set(chosen.meta["tasks"]) & set(record.tasks):
                reporter.warn(
                    f"{record.id} serves {' and '.join(record.tasks)}, {chosen.label} has no rows for that; left out"
                )
                continue
            chosen.save(store.candidates(prepared.name), prepared.split)
            if chosen.fingerprint in record.evaluations:
                reporter.note(f"{record.id}: {chosen.label} is there already")
                continue
            ranker = ranker or fit.load(job, folder, data)
            with store.locked(prepared.name, record.id), reporter.fit(f"{record.id} on {chosen.label}") as view:
                record.evaluations[chosen.fingerprint] = fit.evaluate(ranker, job, chosen, folder, view)
                store.write(folder, record)
        for command in [entry for entry in store.commands() if f"{prepared.name}/{record.id}" in entry.runs][-1:]:
            tracker.log_run(folder, record, command)
        done.append(record)
    return done
