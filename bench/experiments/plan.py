"""From the words of a command to jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.data import sources
from bench.experiments import settings
from bench.experiments.job import Job
from bench.experiments.known_settings import model_settings
from bench.experiments.prepared_data import CandidateChoice, PreparedData, choose_candidates, open_data, tasks_of
from bench.experiments.process import usable_threads
from bench.experiments.settings import Overrides
from bench.experiments.tuning.best_known import best_known
from bench.ranker import registry
from bench.store import environment
from bench.store.results import Store

if TYPE_CHECKING:
    from bench.experiments.run import RunRequest

T = TypeVar("T")


@dataclass(frozen=True)
class DatasetPlan:
    """What a command does on one data set."""

    prepared: PreparedData
    candidates: list[CandidateChoice]
    jobs: list[Job]


def plan(request: "RunRequest") -> list[DatasetPlan]:
    """Open the data sets of a command, check its settings against them and make the jobs.

    Args:
        request: the words of the command.

    Raises:
        UsageError: a data set, model or setting does not exist or does not fit. RunError: data are missing or damaged.
    """
    return plan_together([request])[0]


def plan_together(requests: "Sequence[RunRequest]") -> list[list[DatasetPlan]]:
    """`plan` of each request; what several read in the same way is opened, and its candidates are drawn, once."""
    opened: dict[str, Any] = {}
    return [[_plan_dataset(request, name, opened) for name in dict.fromkeys(request.dataset)] for request in requests]


def _once(made: dict[str, Any], key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """What `make` gives, made at the first call with this key."""
    if repr(key) not in made:
        made[repr(key)] = make()
    return made[repr(key)]


def _plan_dataset(request: "RunRequest", name: str, opened: dict[str, Any]) -> DatasetPlan:
    """Open a data set, unless it is opened already, and make the jobs on it."""
    threads = request.placement.threads(request.threads, usable_threads(0))
    device = settings.device(request.device, elsewhere=request.placement.executor == "ray")
    prepared = _once(
        opened,
        (name, request.overrides.of_data(name), request.data, request.split, request.mode),
        lambda: open_data(
            name, root=request.data, split_name=request.split, mode=request.mode, overrides=request.overrides
        ),
    )
    tasks = tasks_of(prepared, request.tasks)
    models = registry.select(request.models, tasks, request.trivial)
    request.overrides.check(models, request.dataset)
    published = sources.published_as(prepared.name, prepared.log)
    known = {
        model: model_settings(request.out, model, request.budget, request.overrides, published) for model in models
    }
    settings.check_train_keys(request.overrides, [each.config for each in known.values()])
    seed = request.candidate_seed
    choices = [
        _once(opened, (id(prepared), spec, tasks, seed), partial(choose_candidates, prepared, spec, tasks, seed))
        for spec in request.candidates
    ]
    ranked = {choice: set(prepared.candidate_tasks(choice)) for choice in choices}
    data, jobs = prepared.choice(), []
    for model in models:
        given, served = known[model], registry.entry(model).tasks
        serves = tuple(task for task in tasks if task in served)
        tuned = ""
        if request.tuned and registry.get(model).search_space:
            best = best_known(Store(request.out), prepared, model, serves, request.budget, request.validation_rows)
            overrides, tuned = request.overrides.over(Overrides({model: best.values})), best.origin
            given = model_settings(request.out, model, request.budget, overrides, published)
        jobs += [
            Job(
                model=model,
                config=given.config,
                tasks=serves,
                seed=seed,
                budget=request.budget,
                data=data,
                candidates=tuple(choice for choice in choices if ranked[choice] & set(serves)),
                device=device,
                threads=threads,
                out=str(Path(request.out).resolve()),
                code=given.code,
                validation_rows=request.validation_rows,
                force=request.force,
                tuned=tuned,
                command=environment.command_line(),
                top_lists=request.top_lists,
            )
            for seed in request.seeds
        ]
    return DatasetPlan(prepared, choices, jobs)
