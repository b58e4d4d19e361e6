"""What stands in a table: a run with one of its evaluations, a row of runs, and the rows that may be compared."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.messages import flat_list
from bench.ranker.registry import GROUPS
from bench.store.records import DatasetFacts, Evaluation, RunRecord


@dataclass(frozen=True, eq=False)
class RankedRun:
    """A finished run with one of its evaluations; `source` is the number of the folder it was found in."""

    folder: Path
    record: RunRecord
    evaluation: Evaluation
    source: int = 0

    @property
    def scope(self) -> tuple[str, str, str, str]:
        """What runs must share to stand in one block: data set, data fingerprint, split, candidates fingerprint."""
        data = self.record.dataset
        return data["name"], data["fingerprint"], data["split"], self.evaluation.fingerprint

    @property
    def settings(self) -> str:
        """What makes runs of one model different models: its config and the tasks it was fitted on."""
        return json.dumps([self.record.config, self.record.tasks], sort_keys=True, default=str)

    @property
    def age(self) -> tuple[str, str, str]:
        """Sorts runs from the oldest to the newest."""
        return self.record.finished, self.evaluation.finished, self.record.id

    @property
    def closed_form(self) -> bool:
        """Whether neither a budget nor a seed can change the model: it is trivial and has no epochs to shorten."""
        return self.record.group == "trivial" and not any("epochs" in key for key in self.record.config)

    @property
    def any_budget(self) -> bool:
        """Whether the run stands beside runs of every budget: closed forms, and scores made elsewhere."""
        return self.closed_form or self.record.kind == "imported"


@dataclass(frozen=True)
class Row:
    """One model with one set of settings, and its runs by ascending seed (distinct seeds)."""

    model: str
    label: str
    group: str
    runs: tuple[RankedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the fits, ascending."""
        return tuple(run.record.seed for run in self.runs)

    @property
    def closed_form(self) -> bool:
        """Whether every run of the row is a closed form."""
        return all(run.closed_form for run in self.runs)


@dataclass(frozen=True)
class UnfinishedRow:
    """One model with runs that a command asked for and that reached a limit or failed. It has no numbers."""

    model: str
    label: str
    group: str
    tasks: tuple[str, ...]
    reasons: dict[int, str]  # by seed
    runs: tuple[str, ...]  # their ids

    def lines(self) -> Iterator[str]:
        """Each reason, after the seeds that it ended."""
        for reason in dict.fromkeys(self.reasons.values()):
            seeds = [seed for seed, each in self.reasons.items() if each == reason]
            yield f"seed{'s' if len(seeds) > 1 else ''} {flat_list(seeds)}: {reason}"


@dataclass(frozen=True)
class ComparableRuns:
    """The rows of one data set on one candidate set, in the order in which they are printed.

    Numbers, marks and tests come from `rows` alone. `unfinished` are the models without any finished run, `seeds_missing`
    the unfinished runs of models that also have finished ones.
    """

    dataset: DatasetFacts
    candidates: Evaluation  # label, seed and fingerprint of the candidates
    budget: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    unfinished: tuple[UnfinishedRow, ...] = ()
    seeds_missing: tuple[UnfinishedRow, ...] = ()

    def printed(self) -> list[tuple[int | None, Row | UnfinishedRow]]:
        """The rows with their numbers, and the unfinished ones without, each after the last row of its group."""
        lines: list[tuple[int | None, Row | UnfinishedRow]] = list(enumerate(self.rows))
        for each in self.unfinished:
            before = [at for at, (_, row) in enumerate(lines) if position(row.group) <= position(each.group)]
            lines.insert(before[-1] + 1 if before else 0, (None, each))
        return lines


def position(group: str) -> tuple[int, str]:
    """Where a group stands in a table: as in the registry, then those of other packages, the trivial models last."""
    first = [name for name in GROUPS if name != "trivial"]
    known = {name: number for number, name in enumerate(first)} | {"trivial": len(first) + 1}
    return known.get(group, len(first)), group
