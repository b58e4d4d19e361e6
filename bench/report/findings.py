"""What the records and ranks behind a table say of its numbers, as findings.

A finding stands under the table that it touches, in the report, in MLflow, and is printed by `bench audit`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bench.evaluation.finding import Finding, Severity, in_order, of_record
from bench.evaluation.metrics import PRIMARY
from bench.messages import comma_list, one_line
from bench.report.marks import LEVEL, Block, Note
from bench.report.unfinished import all_of

# How each kind of remark under a table reads as a finding: severity, name of the check, what to do.
_OF_NOTES: dict[str, tuple[Severity, str, str]] = {
    "leak": ("severe", "leaks", "prepare the data again, and rank on candidates drawn from them"),
    "chance": ("severe", "chance", "look at its learning curve, then train it longer or with another learning rate"),
    "limit": ("warning", "convergence", "give it more epochs until validation stops it"),
    "ties": ("warning", "ties", "score with more bits, and look for inputs that the model does not tell apart"),
    "fact": ("note", "fact", "say so where the number is quoted"),
}


# A model that puts the clicked item above all negatives in this share of the rows has probably been told.
_TOLD = 0.99
# Share of rows with every candidate tied from which a scorer is called constant on the task.
_CONSTANT = 0.99


def of_table(blocks: Sequence[Block], audits: bool = True) -> list[Finding]:
    """The findings on a table's runs, the gravest first.

    Args:
        blocks: of the table.
        audits: whether to add what `bench audit run` found in the models; else records and ranks alone speak.
    """
    found = [finding for block in blocks for finding in _of_block(block)]
    if audits:
        found += [finding for block in blocks for finding in of_audits(block)]
    return in_order([*found, *_sampled_against_full(blocks)])


def attach(blocks: Sequence[Block]) -> None:
    """Give each block the findings that stand under it beside its remarks: those of audits, ranks and other candidates."""
    reversed_orders = list(_sampled_against_full(blocks))
    for block in blocks:
        labels = {row.label for row in block.group.rows}
        across = [each for each in reversed_orders if set(each.rows) <= labels]
        own = [*_degenerate(block), *of_audits(block), *across]
        block.findings = in_order(finding for finding in own if finding.severity != "note")


def of_row(block: Block, label: str) -> str:
    """What stands under a block of one of its rows, the remarks and the findings, for a record."""
    remarks = [note.text for note in block.notes if label in note.rows]
    found = [f"{each.severity}: {each.sentence}" for each in block.findings if label in each.rows]
    return one_line("; ".join([*remarks, *found]))


def of_audits(block: Block) -> list[Finding]:
    """What `bench audit run` found in the models of a block; what it says of several seeds of a row is one finding."""
    found: dict[tuple[str, ...], list[tuple[int, Finding]]] = {}
    for row in block.group.rows:
        for run in row.runs:
            for record in run.record.audit.get("findings", ()):
                finding = replace(of_record(record), subject=row.label, rows=(row.label,))
                key = (finding.severity, finding.check, row.label, finding.sentence, finding.fix)
                found.setdefault(key, []).append((run.record.seed, finding))
    return in_order(_joined(each) for each in found.values())


def _joined(found: list[tuple[int, Finding]]) -> Finding:
    _, first = found[0]
    if len(found) == 1:
        return first
    evidence = "; ".join(f"seed {seed}: {finding.evidence}" for seed, finding in found if finding.evidence)
    return replace(first, evidence=evidence)


def _of_block(block: Block) -> Iterator[Finding]:
    for note in block.notes:
        yield _of_note(note)
    yield from _degenerate(block)
    yield from _seeds(block)
    for row in all_of(block.group):
        for line in row.lines():
            yield Finding("warning", "failed", row.label, "did not finish", line, "repeat the command")


def _of_note(note: Note) -> Finding:
    severity, check, fix = _OF_NOTES[note.kind]
    return Finding(severity, check, comma_list(note.rows), note.text, "", fix, note.rows)


def _degenerate(block: Block) -> Iterator[Finding]:
    """Scorers whose ranks no honest model gives: all candidates tied, or the clicked item always first."""
    for task, by_row in block.ranks.items():
        for number, runs in by_row.items():
            row = block.group.rows[number]
            constant = min(float((each.tied == each.candidates - 1).mean()) for each in runs)
            if constant >= _CONSTANT and row.group != "trivial":
                yield Finding(
                    "severe",
                    "constant scores",
                    row.label,
                    f"scores all candidates of a {task} row alike",
                    f"{constant:.1%} of the rows",
                    "look for inputs that do not reach the score, and for a diverged training",
                    (row.label,),
                )
            first = min(float(((each.better == 0) & (each.tied == 0)).mean()) for each in runs)
            if first >= _TOLD:
                yield Finding(
                    "severe",
                    "always first",
                    row.label,
                    f"puts the clicked item first in nearly every {task} row, as a model does that is told which it is",
                    f"{first:.1%} of the rows",
                    "look for the target in the histories, the item texts and the candidates' order",
                    (row.label,),
                )


def _seeds(block: Block) -> Iterator[Finding]:
    """Rows of one seed, which say nothing of the methods."""
    single = tuple(row.label for row in block.group.rows if not row.closed_form and len(row.seeds) == 1)
    if single:
        yield Finding(
            "note",
            "seeds",
            comma_list(single),
            "one seed: a difference is one of these trained models, not of the methods",
            "",
            "train at least three seeds with --seeds 0,1,2",
            single,
        )


def _sampled_against_full(blocks: Sequence[Block]) -> Iterator[Finding]:
    """Models that are separated among sampled candidates, and in the other order in the full ranking."""
    for sampled in blocks:
        for full in blocks:
            same = sampled.group.dataset["fingerprint"] == full.group.dataset["fingerprint"]
            if not same or full.group.candidates.strategy != "full" or sampled.group.candidates.strategy == "full":
                continue
            for task in set(sampled.tasks) & set(full.tasks):
                yield from _reversed(sampled, full, task)


def _reversed(sampled: Block, full: Block, task: str) -> Iterator[Finding]:
    if (task, PRIMARY) not in sampled.moments or (task, PRIMARY) not in full.moments:
        return
    small, large = sampled.pairs(task), full.pairs(task)
    times = Counter((*small.labels, *large.labels))
    both = [label for label in small.labels if times[label] == 2]
    for place, a in enumerate(both):
        for b in both[place + 1 :]:
            here, there = ((m.labels.index(a), m.labels.index(b)) for m in (small, large))
            opposite = small.difference[here] * large.difference[there] < 0
            if opposite and np.all([small.p_family[here] < LEVEL, large.p_family[there] < LEVEL]):
                yield Finding(
                    "severe",
                    "sampled against full",
                    f"{a}, {b}",
                    f"the order on {task} among {sampled.group.candidates.label} is reversed in the full ranking",
                    f"{PRIMARY} differs by {small.difference[here]:+.3f} and {large.difference[there]:+.3f}",
                    "claim what the full ranking says",
                    (a, b),
                )
