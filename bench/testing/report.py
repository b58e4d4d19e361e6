"""What the conformance checks found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "exempt"]


class Failed(Exception):
    """A check does not hold; the message says what was seen."""


class NotApplicable(Exception):
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True)
class Result:
    """One check of one model. `sentence` says what was seen, or why the check does not apply."""

    check: str
    status: Status
    sentence: str


@dataclass(frozen=True)
class Report:
    """All checks of one model, in the order of `bench.testing.CHECKS`."""

    model: str
    results: list[Result] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [result.check for result in self.results if result.status == "failed"]

    def records(self) -> list[dict[str, str]]:
        """One flat record per check: model, check, status, sentence."""
        return [{"model": self.model, **vars(result)} for result in self.results]

    def text(self) -> str:
        """One line per check, failures in capitals, and a last line with the counts."""
        width = max((len(result.check) for result in self.results), default=0)
        lines = [
            f"{result.check:<{width}}  {'FAILED' if result.status == 'failed' else result.status:<6}  {result.sentence}"
            for result in self.results
        ]
        counts = Counter(result.status for result in self.results)
        summary = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "exempt") if counts[status])
        return "\n".join([*lines, f"{self.model}: {summary}"])
