"""Two layouts of a table: models as rows, and models as columns as papers print them; with published values on demand."""

from collections.abc import Iterator

from bench.data.log import TASKS
from bench.errors import UsageError
from bench.evaluation.metrics import Metric
from bench.messages import comma_list, one_line, shortened
from bench.report.captions import LIMIT_MARK, caption, columns, decimal, footnotes, row_name, star_means
from bench.report.captions import tests as tests_of
from bench.report.marks import Block
from bench.report.published import SOURCE, Published
from bench.report.rows import Row, UnfinishedRow
from bench.report.sheet import IMPOSSIBLE, Cell, Section, Sheet, cell

UNFINISHED = "dnf"  # where models are columns, and a cell has no room for words
_TASKS = {"rec": "Recommendation", "search": "Search"}
_GROUPS = _TASKS | {"unified": "Joint search and recommendation", "trivial": "Trivial"}


def narrow(blocks: list[Block], metrics: tuple[Metric, ...], paper: Published | None, details: bool) -> list[Sheet]:
    """Models as rows; one sheet a block, with `details` one more a task for the tests."""
    _check_published(blocks, paper)
    sheets = []
    for block in blocks:
        across = columns(block, metrics)
        by_group: dict[str, list[tuple[Cell, ...]]] = {}
        for number, row in block.group.printed():
            lines = by_group.setdefault(row.group, [])
            lines.append((Cell(row_name(block, row)), *(cell(block.shown(number, *c)) for c in across)))
            theirs = [_theirs(paper, block, row, task, metric) for task, metric in across]
            if any(each.text for each in theirs):
                lines.append((Cell(f"{shortened(row.label, 60)}, published"), *theirs))
        sheets.append(
            Sheet(
                _name(block),
                tuple(caption(block)),
                ("model", *(str(metric) for _, metric in across)),
                ("", *(task for task, _ in across)),
                tuple(Section(group, tuple(lines)) for group, lines in by_group.items()),
                notes=(
                    *footnotes(block),
                    *_star(blocks, "task not served"),
                    *_published_notes(paper, [block], block.tasks),
                ),
                marks=True,
            )
        )
        for task in block.tasks if details else ():
            title, header, facts = tests_of(block, task, row_name)
            section = Section("", tuple(tuple(Cell(text) for text in line) for line in facts))
            groups = ("",) * len(header)
            sheets.append(Sheet(f"{_name(block)}-{task}", (one_line(title),), tuple(header), groups, (section,)))
    return sheets


def as_in_papers(blocks: list[Block], metrics: tuple[Metric, ...], paper: Published | None) -> list[Sheet]:
    """Models as columns by group, data sets and metrics as rows; one sheet a task."""
    _check_published(blocks, paper)
    sheets = []
    for task in TASKS:
        own = [block for block in blocks if task in block.tasks]
        models = _models(own, task)
        if not models:
            continue
        draws = {block.group.candidates.label for block in own}
        sections = []
        for block in own:
            title = shortened(str(block.group.dataset.get("title") or block.group.dataset["name"]), 40)
            title += f" ({block.group.candidates.label})" if len(draws) > 1 else ""
            sections.append(Section("", tuple(_lines(block, task, metrics, models, title, paper))))
        stopped = {row.label for block in own for row in block.group.rows if row_name(block, row).endswith(LIMIT_MARK)}
        notes = [". ".join(caption(block)) for block in own]
        notes += dict.fromkeys(note for block in own for note in footnotes(block))
        if any(block.group.unfinished for block in own):
            notes.append(f"{UNFINISHED} did not finish")
        sheets.append(
            Sheet(
                f"{'-'.join(block.group.dataset['name'] for block in own)}-{task}",
                (_TASKS.get(task, task),),
                ("data set", "metric", *(shortened(e) + (LIMIT_MARK if e in stopped else "") for e in models)),
                ("", "", *(_GROUPS.get(group, group) for group in models.values())),
                tuple(sections),
                stubs=2,
                notes=(*notes, *_star(blocks, "no such row, or no value"), *_published_notes(paper, own, (task,))),
                marks=True,
            )
        )
    return sheets


def _lines(
    block: Block, task: str, metrics: tuple[Metric, ...], models: dict[str, str], title: str, paper: Published | None
) -> Iterator[tuple[Cell, ...]]:
    """The rows of a data set: ours, and below each metric what the paper prints."""
    rows = {row.label: (number, row) for number, row in block.group.printed()}
    for metric in metrics:
        found = [block.shown(rows[label][0], task, metric) if label in rows else None for label in models]
        yield Cell(title), Cell(str(metric)), *(cell(UNFINISHED if each == "" else each) for each in found)
        title = ""
        theirs = [
            _theirs(paper, block, rows[label][1], task, metric) if label in rows else Cell("") for label in models
        ]
        if any(each.text for each in theirs):
            yield Cell(""), Cell(f"{metric} published"), *theirs


def _models(blocks: list[Block], task: str) -> dict[str, str]:
    """Label -> group of the rows that serve a task in any block, the rows of a group beside each other."""
    found = {
        row.label: row.group
        for block in blocks
        for number, row in block.group.printed()
        if (task in row.tasks if isinstance(row, UnfinishedRow) else number in block.ranks[task])
    }
    order = list(dict.fromkeys(found.values()))
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[1])))


def value(
    paper: Published, block: Block, row: Row | UnfinishedRow, task: str, metric: Metric
) -> tuple[float, bool] | None:
    """What the paper prints for a cell of ours, and whether it is impossible; None where it prints nothing."""
    key = (block.group.dataset["name"], task, row.model)
    printed = paper.values.get(key, {}).get(metric)
    return None if printed is None else (printed, (key, metric) in paper.impossible)


def _theirs(paper: Published | None, block: Block, row: Row | UnfinishedRow, task: str, metric: Metric) -> Cell:
    found = value(paper, block, row, task, metric) if paper else None
    return Cell(decimal(found[0]) + (IMPOSSIBLE if found[1] else "")) if found else Cell("")


def _check_published(blocks: list[Block], paper: Published | None) -> None:
    """Raise UsageError where no data set of the table is in the paper."""
    if paper and not any(block.group.dataset["name"] in paper.datasets for block in blocks):
        here = comma_list(dict.fromkeys(block.group.dataset["name"] for block in blocks))
        raise UsageError(
            f"--paper: {SOURCE} have no values for {here}; there are values for {comma_list(paper.datasets)}"
        )


def _published_notes(paper: Published | None, blocks: list[Block], tasks: tuple[str, ...]) -> Iterator[str]:
    if not paper:
        return
    yield (
        f"published: {SOURCE}; other preparation, other draws of candidates and other training, so no test compares "
        f"them with ours; {IMPOSSIBLE} a value in a relation between metrics that no ranking can have (`bench audit "
        "numbers`)"
    )
    for block in blocks:
        name = block.group.dataset["name"]
        if name not in paper.datasets:
            yield f"nothing published for {name}"
            continue
        if block.group.candidates.label != "uniform-99":
            yield f"published values are on 99 uniform negatives, ours on {block.group.candidates.label}"
        shown = {row.model for row in block.group.rows}
        for task in tasks:
            others = [model for dataset, each, model in paper.values if (dataset, each) == (name, task)]
            absent = [model for model in others if model not in shown] + list(paper.elsewhere.get((name, task), ()))
            if absent:
                yield f"published for {name} {task} and not in this table: {comma_list(absent)}"


def _star(blocks: list[Block], absent: str) -> Iterator[str]:
    yield f"* {star_means(blocks)}"
    yield f"- {absent}"


def _name(block: Block) -> str:
    return f"{block.group.dataset['name']}-{block.group.candidates.label}"
