"""Opens the data set and the candidates that options name, as `bench run` would open them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.evaluation.candidates import CandidateSet
    from bench.experiments.prepared_data import PreparedData


def open_dataset(
    dataset: str, split: str | None, mode: str | None, settings: tuple[str, ...], data: Path | None
) -> "PreparedData":
    """The data set with its split.

    Raises:
        UsageError: an unknown data set, setting or split.
        RunError: its files are missing or cannot be read.
    """
    from bench.experiments.prepared_data import open_data
    from bench.experiments.settings import Overrides

    overrides = Overrides.parse(settings)
    overrides.check([], [dataset])
    return open_data(dataset, root=data, split_name=split, mode=mode, overrides=overrides)


def open_dataset_and_candidates(
    dataset: str,
    split: str | None,
    mode: str | None,
    settings: tuple[str, ...],
    tasks: tuple[str, ...],
    candidates: str,
    candidate_seed: int,
    data: Path | None,
) -> "tuple[PreparedData, CandidateSet, tuple[str, ...]]":
    """The data set, the candidates that `bench run` with the same options would rank, and the tasks they serve.

    Candidates are drawn for all tasks of the data, so that their fingerprint does not depend on the tasks in the options.

    Raises:
        UsageError: an unknown data set, setting, split, task or kind of candidates.
        RunError: files are missing or cannot be read.
    """
    from bench.data.log import TASKS
    from bench.errors import unknown
    from bench.evaluation.candidates import STRATEGIES
    from bench.experiments.prepared_data import open_candidates, tasks_of

    for task in tasks:
        if task not in TASKS:
            raise unknown("task", task, TASKS)
    if candidates not in STRATEGIES and not candidates.startswith("given:"):
        raise unknown("candidates", candidates, [*STRATEGIES, "given:PATH"])
    prepared = open_dataset(dataset, split, mode, settings, data)
    asked = tasks_of(prepared, tasks or None)
    opened = open_candidates(prepared, candidates, asked, candidate_seed)
    return prepared, opened, tuple(task for task in asked if task in opened.meta["tasks"])
