"""Rows that a reader names: those of `--models`, in that order, and the rows of `--baseline` and `--compare`."""

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import UsageError, unknown
from bench.messages import comma_list, one_line, shortened
from bench.report.rows import ComparableRuns, Row
from bench.report.unfinished import named, refusal


def choose(groups: Sequence[ComparableRuns], names: Sequence[str]) -> list[ComparableRuns]:
    """The groups with the named rows only, in the order of the names; a group without any of them is left out.

    A name is a registered model, what the table calls the row, or a group such as `unified`. What is not shown is not
    tested either; a note says what that is.

    Raises:
        UsageError: a name that no group has, or only models that did not finish.
    """
    for name in names:
        if not any(_named(group.rows, name) or named(group.unfinished, name) for group in groups):
            raise unknown("model", name, _known(groups), "(among these runs)")
    kept = []
    for group in groups:
        rows = tuple(dict.fromkeys(row for name in names for row in _named(group.rows, name)))
        rest = [shortened(one_line(row.label)) for row in group.rows if row not in rows]
        notes = (
            *group.notes,
            *([f"rows chosen by name; not shown and not tested: {comma_list(rest)}"] if rest else []),
        )
        without = tuple(dict.fromkeys(row.model for name in names for row in named(group.unfinished, name)))
        unfinished = tuple(row for row in group.unfinished if row.model in without)
        labels = {row.label for row in rows}
        missing = tuple(row for row in group.seeds_missing if row.label in labels)
        if rows:
            kept.append(replace(group, rows=rows, notes=notes, unfinished=unfinished, seeds_missing=missing))
    if not kept:
        raise UsageError(f"none of these rows has numbers; {refusal(groups, names)}")
    return kept


def number_of(group: ComparableRuns, name: str) -> int | None:
    """Number of the one row with this name; None where the group has none.

    Raises:
        UsageError: the model has several rows, told apart by what the table calls them.
    """
    found = [row for row in _named(group.rows, name) if name != row.group]
    if len(found) > 1:
        labels = " or ".join(f"'{one_line(row.label)}'" for row in found)
        raise UsageError(f"'{name}' has several rows on {group.dataset['name']}; say {labels}")
    return group.rows.index(found[0]) if found else None


def numbers_of(groups: Sequence[ComparableRuns], name: str) -> list[int | None]:
    """`number_of` for each group.

    Raises:
        UsageError: no group has the row, or one has several.
    """
    numbers = [number_of(group, name) for group in groups]
    if all(number is None for number in numbers):
        if why := refusal(groups, [name]):
            raise UsageError(why)
        raise unknown("model", name, _known(groups), "(among these runs)")
    return numbers


def _named(rows: Sequence[Row], name: str) -> list[Row]:
    """Rows that are called so, else rows of the model, else of the group."""
    for called in (
        [row for row in rows if row.label == name],
        [row for row in rows if row.model == name],
        [row for row in rows if row.label.casefold() == name.casefold() or row.model == name.casefold()],
        [row for row in rows if row.group == name],
    ):
        if called:
            return called
    return []


def _known(groups: Sequence[ComparableRuns]) -> list[str]:
    return list(dict.fromkeys(row.model for group in groups for _, row in group.printed()))
