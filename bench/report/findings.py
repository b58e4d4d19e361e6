"""Findings: what makes a number doubtful, with its evidence and what to do about it, as plain data.

A finding stands under the table that it touches, in the report, in MLflow, and is printed by `bench audit`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.messages import comma_list, one_line
from bench.report.comparison import Block, Note

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


def of_table(blocks: Iterable[Block]) -> list[Finding]:
    """The findings that the records and ranks of a table's runs give, the gravest first."""
    found = [finding for block in blocks for finding in _of_block(block)]
    return in_order(found)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, each once, otherwise as they come."""
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


def _of_block(block: Block) -> Iterator[Finding]:
    for note in block.notes:
        yield _of_note(note)
    for line in block.group.notes:
        if line.startswith("failed: "):
            place, _, reason = line.removeprefix("failed: ").partition(": ")
            yield Finding(
                "warning", "failed", place, "the run failed and is missing in the table", reason, "repeat the command"
            )


def _of_note(note: Note) -> Finding:
    severity, check, fix = _OF_NOTES[note.kind]
    return Finding(severity, check, comma_list(note.rows), note.text, "", fix, note.rows)
