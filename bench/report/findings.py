"""Findings: what makes a number doubtful, with its evidence and what to do about it, as plain data.

A finding stands under the table that it touches, in the report, in MLflow, and is printed by `bench audit`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bench.evaluation.metrics import PRIMARY
from bench.messages import comma_list, one_line
from bench.report.marks import LEVEL, Block, Note
from bench.report.unfinished import all_of

Severity = Literal["severe", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that a reader must know.

    `severe`: the number is wrong, or not what it is called. `warning`: it may mislead. `note`: good to know.
    """

    severity: Severity
    check: str  # short name of the check that found it
    subject: str  # what it is about: a model's label, a data set, a run
    sentence: str
    evidence: str  # the numbers
    fix: str  # what to do
    rows: tuple[str, ...] = ()  # labels of the rows of the table that it touches; () for all of them

    def record(self) -> dict[str, Any]:
        """As a flat record for JSON and MLflow."""
        return asdict(self) | {"rows": list(self.rows)}

    def line(self) -> str:
        """One line for the terminal."""
        evidence = f" ({self.evidence})" if self.evidence else ""
        return one_line(f"{self.severity}: {self.subject}: {self.sentence}{evidence}; {self.fix}")


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


def of_table(blocks: Sequence[Block]) -> list[Finding]:
    """The findings that the records and ranks of a table's runs give, the gravest first."""
    found = [finding for block in blocks for finding in _of_block(block)]
    return in_order([*found, *_sampled_against_full(blocks)])


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, each once, otherwise as they come."""
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


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
