"""The words around a table and the form of its numbers, alike on the terminal, in Markdown and in LaTeX."""

import math
from collections.abc import Callable, Iterator

from bench.evaluation.metrics import PRIMARY, Metric
from bench.messages import comma_list, flat_list, one_line, shortened
from bench.report.marks import LEVEL, MANY_TIES, Block, Estimate, synthetic
from bench.report.rows import Row, UnfinishedRow
from bench.report.unfinished import name as unfinished_name
from bench.report.unfinished import notes as unfinished_notes

LIMIT_MARK = "†"
Column = tuple[str, Metric]


def star_means(blocks: list[Block]) -> str:
    """What the star of these blocks says, for the line below the table.

    Where it stands on a comparison with a model of one seed, the claim about methods is withdrawn for all; where none
    stands, the rows decide what one would have said.
    """
    marked_best = [estimate for block in blocks for estimate in block.estimates.values() if estimate.significant]
    rows = [row for block in blocks for row in block.group.rows]
    if all(e.methods for e in marked_best) if marked_best else all(r.closed_form or len(r.seeds) > 1 for r in rows):
        of, over = "method", "users and seeds"
    else:
        of, over = "trained model", "users alone: these trained models, not the methods, as there is one seed"
    return (
        f"the best {of} is better than each of the others, at most {LEVEL:.0%} of tables of equally good ones have any "
        f"star (variance of {over})"
    )


def columns(block: Block, metrics: tuple[Metric, ...]) -> list[Column]:
    """Task and metric of every column, the tasks one after the other."""
    return [(task, metric) for task in block.tasks for metric in metrics]


def caption(block: Block) -> list[str]:
    """What was compared on what, in lines; the first one names the data set."""
    group = block.group
    data, drawn = group.dataset, group.candidates
    seeds = sorted({seed for row in group.rows if not row.closed_form for seed in row.seeds}) or [0]
    counts = comma_list(f"{task} {rows} rows of {users} users" for task, (users, rows) in block.rows_of.items())
    facts = [
        f"split {data['split']}",
        *([f"mode {data['mode']}"] if "mode" in data else []),
        *([f"budget {group.budget}"] if group.budget else []),  # scores made elsewhere have none
        f"seed{'s' if len(seeds) > 1 else ''} {flat_list(seeds)}",
    ]
    made_up, tuned = synthetic(data), _tuned(block)
    lines = [
        f"{data.get('title') or data['name']}: {comma_list(facts)}",
        f"candidates {drawn.label}, seed {drawn.seed}, fingerprint {drawn.fingerprint[:12]}",
        *([f"synthetic: {made_up}"] if made_up else []),
        *([f"settings tuned on validation rows: {tuned}; all others as given or default"] if tuned else []),
        f"tested on {counts}; primary metric {PRIMARY}, means over users",
    ]
    return [one_line(line) for line in lines]


def _tuned(block: Block) -> str:
    """The rows whose settings a search found, each with the budget of the search."""
    origins = {row.label: {run.record.evidence.get("tuned", "") for run in row.runs} for row in block.group.rows}
    return "; ".join(f"{label} ({', '.join(sorted(each - {''}))})" for label, each in origins.items() if each - {""})


def footnotes(block: Block) -> Iterator[str]:
    """What a reader must know of the rows, the gravest first; a line that starts with !! is an alarm."""
    everybody = len(block.group.rows)
    ties = []
    for note in block.notes:
        who = "all models" if len(note.rows) == everybody > 1 else comma_list(map(shortened, note.rows))
        if note.kind == "leak":
            yield one_line(f"!! {note.text} ({who})")
        elif note.kind == "chance":
            yield one_line(f"!! {note.text}: {who}")
        elif note.kind == "limit":
            yield one_line(f"{LIMIT_MARK} {note.text}: {who}")
        elif note.kind == "ties":
            ties.append(f"{who} {note.text.removeprefix('ties in ')}")
        else:
            yield one_line(f"{note.text}: {who}")
    if ties:
        meaning = f"positive tied in more than {MANY_TIES:.0%} of rows (metrics are the mean over their orders)"
        yield one_line(f"{meaning}: {'; '.join(ties)}")
    for finding in block.findings:
        evidence = f" ({finding.evidence})" if finding.evidence else ""
        who = comma_list(map(shortened, finding.rows)) or finding.subject
        yield one_line(f"{'!! ' if finding.severity == 'severe' else ''}{finding.sentence}{evidence}: {who}")
    if any(len(row.seeds) > 1 for row in block.group.rows if not row.closed_form):
        yield "several seeds: means over them; the details show their spread"
    yield from unfinished_notes(block.group)
    yield from map(one_line, block.group.notes)


def row_name(block: Block, row: Row | UnfinishedRow) -> str:
    """A row's label on one line: at most 80 characters, a dagger where the budget stopped the model, `did not finish`."""
    if isinstance(row, UnfinishedRow):
        return unfinished_name(row)
    stopped = any(note.kind == "limit" and row.label in note.rows for note in block.notes)
    return shortened(row.label) + (LIMIT_MARK if stopped else "")


def tests(block: Block, task: str, name: Callable[[Block, Row], str]) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows of the comparison on the primary metric, best first.

    Args:
        block: a block on which `Block.test_all` has been called.
        task: rec or search.
        name: the name of a row in the form that is written, such as `row_name`.
    """
    rows = block.group.rows
    order = block.ordered(task, PRIMARY)
    title = (
        f"{task} {PRIMARY}: {shortened(rows[order[0]].label)} against each (difference; p of the paired t-test, of the "
        "randomisation test, with the variance of seeds, and that after Holm over all pairs; Cohen's d; smallest "
        "difference found with power .8; margin within which the two are equivalent at .05)"
    )
    header = ["model", str(PRIMARY), "std", "95 % interval", "differ.", "p t", "p rand", "p seed", "Holm", "d"]
    header += ["detect.", "within"]
    lines = []
    for number in order:
        estimate = block.estimates[number, task, PRIMARY]
        against = estimate.against if number != order[0] else None
        facts = [""] * 8
        if against:
            levels = [level_text(p) for p in (against.p_t, against.p_randomisation, against.p_seeds, estimate.p_holm)]
            facts = [decimal(against.difference), *levels, f"{against.effect:.2f}", decimal(against.detectable)]
            facts.append(decimal(against.within))
        interval = f"{decimal(estimate.low)} to {decimal(estimate.high)}"
        lines.append([name(block, rows[number]), decimal(estimate.mean), decimal(estimate.std), interval, *facts])
    return title, header, lines


def marked(estimate: Estimate | str | None, marks: dict[int, tuple[str, str]], star: str) -> str:
    """What `Block.shown` gives: a number between the marks of its rank (1 = best, 2 = second) and a star; `-` for none."""
    if not isinstance(estimate, Estimate):
        return "-" if estimate is None else estimate
    left, right = marks.get(estimate.rank, ("", ""))
    return left + decimal(estimate.mean) + right + (star if estimate.significant else "")


def decimal(value: float) -> str:
    """`.612`; empty where there is no number."""
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return "" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", 1)


def level_text(p: float) -> str:
    """A p-value; empty where there is none."""
    return "" if math.isnan(p) else "<.001" if p < 0.001 else decimal(p)
