"""Jobs one after the other in this process."""

from collections.abc import Generator, Sequence

from bench.errors import BenchError
from bench.experiments.executors.contract import Outcome
from bench.experiments.job import Job, execute
from bench.experiments.progress import Reporter


class InProcess:
    """Carries out jobs in this process, which keeps data and libraries open between them.

    Args:
        debug: an error of a job ends everything, with its trace.
    """

    def __init__(self, debug: bool = False):
        self._debug = debug

    def run(self, jobs: Sequence[Job], reporter: Reporter) -> Generator[Outcome, None, None]:
        """See `Executor.run`."""
        for job in jobs:
            try:
                yield Outcome(job, execute(job, reporter=reporter))
            except BenchError as error:
                if self._debug:
                    raise
                yield Outcome(job, error=error)
