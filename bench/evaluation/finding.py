"""Findings: what makes a number doubtful, with its evidence and what to do about it, as plain data."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.messages import one_line

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


def of_record(record: dict[str, Any]) -> Finding:
    """The finding that `Finding.record` wrote."""
    return Finding(**{**record, "rows": tuple(record.get("rows", ()))})


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, each once, otherwise as they come."""
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))
