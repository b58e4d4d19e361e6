"""What an executor takes and gives: jobs in, outcomes out, in the order in which they end."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.errors import BenchError, RunError
from bench.experiments.job import Job, JobResult
from bench.experiments.progress import Reporter


class DidNotFinishError(RunError):
    """A run reached a limit that the user has set: it is reported, and not repeated."""


@dataclass(frozen=True)
class Limits:
    """What one run may use; 0 is no bound."""

    seconds: float = 0.0
    memory_mb: float = 0.0  # resident memory of its process

    def __bool__(self) -> bool:
        return bool(self.seconds or self.memory_mb)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a result, or with an error that is meant for a person."""

    job: Job
    result: JobResult | None = None
    error: BenchError | None = None


class Executor(Protocol):
    """Carries out jobs. A job that fails does not stop the others; nothing is left running when `run` ends, however it ends."""

    def run(self, jobs: Sequence[Job], reporter: Reporter) -> Generator[Outcome, None, None]:
        """Carry out jobs.

        Args:
            jobs: what to do.
            reporter: shows the messages of all of them.

        Raises:
            RunError: no job can be carried out at all.
        """
