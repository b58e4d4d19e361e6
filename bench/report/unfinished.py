"""The runs that a command asked for and did not get: rows without numbers, each with its reason."""

from collections.abc import Sequence
from dataclasses import replace

from bench.data.log import TASKS
from bench.errors import BenchError
from bench.messages import comma_list, one_line, shortened
from bench.ranker import registry
from bench.report.rows import ComparableRuns, RankedRun, UnfinishedRow
from bench.store.records import CommandRecord

PREFIX = "did not finish"


def without_numbers(
    group: ComparableRuns,
    commands: Sequence[CommandRecord],
    finished: set[str],
    tasks: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> ComparableRuns:
    """The group with what its commands asked for and what is still not there.

    A seed of a model of which the same command has other seeds belongs to that row; everything else is a row of its own.

    Args:
        group: the rows with numbers.
        commands: whose runs are looked at, oldest first.
        finished: "<data set>/<run id>" of the runs that are ranked on the group's candidates.
        tasks: only models that serve one of them.
        seeds: only these.
    """
    rows: dict[str, UnfinishedRow] = {}
    beside: dict[str, UnfinishedRow] = {}
    for command in commands:
        if group.candidates.fingerprint not in command.candidates or command.budget != group.budget:
            continue
        got = {place for place in command.runs if place in finished}
        for place, line in command.failed.items():
            dataset, _, run = place.rpartition("/")
            model, seed = _parts(run, command.models)
            if dataset != group.dataset["name"] or place in finished or (seeds is not None and seed not in seeds):
                continue
            title, kind, serves = _known(model)
            if tasks is not None and not set(tasks) & set(serves):
                continue
            same = [row for row in group.rows if row.model == model and got & set(_places(row.runs))]
            into, label = (beside, same[0].label) if same else (rows, title)
            row = into.get(model, UnfinishedRow(model, label, kind, serves, {}, ()))
            reasons = row.reasons | {seed: one_line(line).removeprefix(f"{PREFIX}: ")}
            into[model] = replace(row, reasons=reasons, runs=tuple(dict.fromkeys((*row.runs, run))))
    return replace(group, unfinished=_told_apart(group, list(rows.values())), seeds_missing=tuple(beside.values()))


def name(row: UnfinishedRow) -> str:
    """What the first column says of a row without numbers."""
    return f"{shortened(row.label)}: {PREFIX}"


def notes(group: ComparableRuns) -> list[str]:
    """The reasons, one a line."""
    return [one_line(f"{PREFIX}: {shortened(row.label)}, {line}") for row in all_of(group) for line in row.lines()]


def all_of(group: ComparableRuns) -> tuple[UnfinishedRow, ...]:
    """Models without any finished run, and the missing runs of the others."""
    return *group.unfinished, *group.seeds_missing


def refusal(groups: Sequence[ComparableRuns], names: Sequence[str]) -> str:
    """Why named models have no numbers to show; empty where none of them is known to be unfinished."""
    return comma_list(
        line
        for group in groups
        for each in names
        for line in notes(replace(group, unfinished=named(group.unfinished, each), seeds_missing=()))
    )


def named(rows: Sequence[UnfinishedRow], name: str) -> tuple[UnfinishedRow, ...]:
    """Rows that go by a name: of the model, of the row, or of the group."""
    return tuple(row for row in rows if name in (row.model, row.label, row.group))


def _told_apart(group: ComparableRuns, rows: list[UnfinishedRow]) -> tuple[UnfinishedRow, ...]:
    """Rows whose label no other row has: with the seeds beside older runs of the model, with the name of another model."""
    taken = [row.label for row in group.rows] + [row.label for row in rows]
    own = {row.model for row in group.rows}
    kept = []
    for row in sorted(rows, key=lambda row: row.label.casefold()):
        if taken.count(row.label) > 1:
            more = f"seed {comma_list(row.reasons)}" if row.model in own else row.model
            row = replace(row, label=f"{row.label} ({more})")
        kept.append(row)
    return tuple(kept)


def _places(runs: Sequence[RankedRun]) -> list[str]:
    return [f"{run.record.dataset['name']}/{run.record.id}" for run in runs]


def _parts(run: str, models: Sequence[str]) -> tuple[str, int]:
    """The model and the seed of a run's id."""
    stem, _, rest = run.rpartition("-s")
    seed = rest.partition("-")[0]
    model = next((each for each in models if each.replace(":", "-") == stem), stem)
    return model, int(seed) if seed.isdigit() else 0


def _known(model: str) -> tuple[str, str, tuple[str, ...]]:
    """Title, group and tasks of a model; where it is no longer installed, its name."""
    try:
        entry = registry.entry(model)
    except BenchError:
        return model, "", TASKS
    return entry.title, entry.group, entry.tasks
