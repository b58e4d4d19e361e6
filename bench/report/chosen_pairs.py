"""Pairs that a reader names beforehand: one model against all others, and two models in full."""

import math
from collections.abc import Iterator
from typing import Any

from bench.errors import UsageError
from bench.evaluation.metrics import PRIMARY, Metric
from bench.evaluation.significance import Comparison
from bench.messages import shortened
from bench.report.captions import caption, decimal, footnotes, level_text, row_name
from bench.report.findings import of_row
from bench.report.marks import LEVEL, Block
from bench.report.row_choice import numbers_of
from bench.report.sheet import Cell, Section, Sheet, plain
from bench.report.view import View

_METHODS = "on the methods: variance of users and seeds"
_MODELS = "on these trained models, not the methods: a model has one seed"


def against_all(blocks: list[Block], name: str, metrics: tuple[Metric, ...]) -> View:
    """A named row against each of the others, with Holm's adjustment over these.

    A star is on the primary metric only and holds its level over the others and the tasks of the table.

    Raises:
        UsageError: there is no such row, several, or nothing to compare it with.
    """
    sheets: list[Sheet] = []
    records: list[dict[str, Any]] = []
    numbers = numbers_of([block.group for block in blocks], name)
    for block, number in zip(blocks, numbers, strict=True):
        if number is None:
            continue
        rows = block.group.rows
        label = shortened(rows[number].label)
        sections, methods = [], True
        for task in block.tasks:
            for metric in metrics:
                if (number, task, metric) not in block.estimates:
                    continue
                lines = []
                for other, found, adjusted in block.against(number, task, metric):
                    star = metric == PRIMARY and adjusted < block.level
                    methods = methods and block.on_methods(number, other)
                    lines.append(_against(row_name(block, rows[other]), found, adjusted, star))
                    records.append(
                        _facts(block, number, other, task, metric, found)
                        | {"p_holm": plain(adjusted), "significant": star}
                    )
                title = f"{task} {metric}: {label} {decimal(block.estimates[number, task, metric].mean)}, minus each"
                if lines:
                    sections.append(Section(title, tuple(lines)))
        if not sections:
            continue
        header = ("model", "mean", "differ.", "95 % interval", "p", "Holm", "d", "win/tie/loss", "detect.", "within")
        meaning = (
            f"* differs from {label} on {PRIMARY}, at most {LEVEL:.0%} of tables of equally good models have any star "
            f"(Holm over these models, level {decimal(block.level)} a task), {_METHODS if methods else _MODELS}"
        )
        words = (
            "win: users for whom the named model is better; d: Cohen's d for pairs; detect.: smallest difference found "
            "with power .8; within: margin within which the two are equivalent at .05"
        )
        sheets.append(
            Sheet(
                f"{block.group.dataset['name']}-{block.group.candidates.label}-baseline",
                tuple(caption(block)),
                header,
                ("",) * len(header),
                tuple(sections),
                notes=(*footnotes(block), meaning, words),
            )
        )
    if not sheets:
        raise UsageError(f"--baseline {name}: no other model to compare it with")
    return View(sheets, lambda: records)


def in_full(blocks: list[Block], first: str, second: str, metrics: tuple[Metric, ...], margin: float) -> View:
    """Two named rows with everything that is known of their difference, metrics and tasks as columns.

    Args:
        blocks: data sets and candidates; those without both rows are left out.
        first: a row.
        second: another row.
        metrics: what is compared.
        margin: differences below it do not matter to the reader.

    Raises:
        UsageError: a name is unknown or stands for several rows, both are the same row, or no block has both.
    """
    groups = [block.group for block in blocks]
    sheets: list[Sheet] = []
    records: list[dict[str, Any]] = []
    for block, a, b in zip(blocks, numbers_of(groups, first), numbers_of(groups, second), strict=True):
        if a is None or b is None:
            continue
        if a == b:
            raise UsageError(f"--compare {first},{second}: both are the same row")
        columns = [
            (task, metric)
            for task in block.tasks
            for metric in metrics
            if all((number, task, metric) in block.estimates for number in (a, b))
        ]
        if not columns:
            continue
        names = [row_name(block, block.group.rows[number]) for number in (a, b)]
        found = [block.compare(a, b, *column) for column in columns]
        decided = [
            ("yes" if each.p < block.level else "no") if metric == PRIMARY else ""
            for (_, metric), each in zip(columns, found, strict=True)
        ]
        for (task, metric), each in zip(columns, found, strict=True):
            extra = {"margin": margin, "equivalent": each.equivalent(margin)}
            records.append(_facts(block, a, b, task, metric, each) | extra)
        facts = list(_full(found, names, margin))
        facts.append((f"differ (level {decimal(block.level)})", decided))
        lines = tuple((Cell(title), *map(Cell, cells)) for title, cells in facts if any(cells))
        sheets.append(
            Sheet(
                f"{block.group.dataset['name']}-{block.group.candidates.label}-pair",
                tuple(caption(block)),
                (f"{names[0]} minus {names[1]}", *(str(metric) for _, metric in columns)),
                ("", *(task for task, _ in columns)),
                (Section("", lines),),
                notes=(
                    *footnotes(block),
                    f"the statement is {_METHODS if block.on_methods(a, b) else _MODELS}",
                    f"the primary metric {PRIMARY} decides; p-values of other metrics are not adjusted; the tasks share the level .05",
                    "smallest detectable difference: found with power .8 by so many users; p-values are two-sided",
                ),
            )
        )
    if not sheets:
        raise UsageError(f"--compare {first},{second}: no data set, candidates and task that both were evaluated on")
    return View(sheets, lambda: records)


def _against(name: str, found: Comparison, adjusted: float, star: bool) -> tuple[Cell, ...]:
    return (
        Cell(name),
        Cell(decimal(found.mean_b)),
        Cell(decimal(found.difference), star=star),
        Cell(f"{decimal(found.low)} to {decimal(found.high)}"),
        Cell(level_text(found.p)),
        Cell(level_text(adjusted)),
        Cell(_effect(found)),
        Cell(f"{found.wins}/{found.ties}/{found.losses}"),
        Cell(decimal(found.detectable)),
        Cell(decimal(found.within)),
    )


def _full(found: list[Comparison], names: list[str], margin: float) -> Iterator[tuple[str, list[str]]]:
    """Title and cells of each fact, a cell for every comparison."""
    yield names[0], [decimal(each.mean_a) for each in found]
    yield names[1], [decimal(each.mean_b) for each in found]
    yield "difference", [decimal(each.difference) for each in found]
    yield "95 % interval, from", [decimal(each.low) for each in found]
    yield "95 % interval, to", [decimal(each.high) for each in found]
    yield "users", [str(each.n) for each in found]
    yield f"users: {names[0]} better (win)", [str(each.wins) for each in found]
    yield "users: equal (tie)", [str(each.ties) for each in found]
    yield f"users: {names[1]} better (loss)", [str(each.losses) for each in found]
    yield "p, paired t-test", [level_text(each.p_t) for each in found]
    yield "p, randomisation test", [level_text(each.p_randomisation) for each in found]
    yield "p, with the variance of seeds", [level_text(each.p_seeds) for each in found]
    yield "effect (Cohen's d for pairs)", [_effect(each) for each in found]
    yield "smallest detectable difference", [decimal(each.detectable) for each in found]
    yield "equivalent within (at .05)", [decimal(each.within) for each in found]
    yield f"equivalent within {margin:g}", ["yes" if each.equivalent(margin) else "no" for each in found]


def _effect(found: Comparison) -> str:
    return "" if math.isnan(found.effect) else f"{found.effect:.2f}"


def _facts(block: Block, a: int, b: int, task: str, metric: Metric, found: Comparison) -> dict[str, Any]:
    """A comparison as a flat record."""
    first, second = (block.group.rows[number] for number in (a, b))
    record = {
        "dataset": block.group.dataset["name"],
        "candidates": block.group.candidates.label,
        "fingerprint": block.group.candidates.fingerprint,
        "task": task,
        "metric": str(metric),
        "a": first.model,
        "a_title": first.label,
        "b": second.model,
        "b_title": second.label,
        "mean_a": found.mean_a,
        "mean_b": found.mean_b,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "users": found.n,
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "p": found.p,
        "p_t": found.p_t,
        "p_randomisation": found.p_randomisation,
        "p_seeds": found.p_seeds,
        "effect": found.effect,
        "smallest_detectable": found.detectable,
        "equivalent_within": found.within,
        "claim": "methods" if block.on_methods(a, b) else "trained models",
        "notes_a": of_row(block, first.label),
        "notes_b": of_row(block, second.label),
    }
    return {key: plain(value) for key, value in record.items()}
