"""Jobs side by side in processes of their own on this machine."""

from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import wait

from bench.errors import BenchError, RunError
from bench.experiments.executors.contract import Limits, Outcome
from bench.experiments.executors.job_process import ATTEMPTS, JobProcess, KilledError
from bench.experiments.executors.messages import LiveView
from bench.experiments.job import Job
from bench.experiments.progress import Reporter

_POLL = 0.1  # seconds between two looks at time and memory


class Processes:
    """Carries out jobs in up to `at_once` processes.

    Args:
        at_once: jobs at the same time.
        limits: of each job.
        debug: show traces on stderr.
    """

    def __init__(self, at_once: int, limits: Limits, debug: bool = False):
        self._at_once, self._limits, self._debug = at_once, limits, debug

    def run(self, jobs: Sequence[Job], reporter: Reporter) -> Generator[Outcome, None, None]:
        """See `Executor.run`."""
        waiting = deque((number, 1) for number in range(len(jobs)))
        working: dict[int, tuple[JobProcess, int]] = {}
        live = LiveView(reporter)
        try:
            while waiting or working:
                while waiting and len(working) < self._at_once:
                    number, attempt = waiting.popleft()
                    working[number] = JobProcess(jobs[number], self._limits, debug=self._debug), attempt
                wait([each for process, _ in working.values() for each in process.waitables], timeout=_POLL)
                for number, (process, attempt) in list(working.items()):
                    job = jobs[number]
                    try:
                        for message in process.messages():
                            live.hear(number, message)
                        if not process.ended:
                            continue
                        outcome = Outcome(job, process.result())
                    except KilledError as error:
                        if attempt < ATTEMPTS:
                            reporter.warn(f"{job.label}: {error}; once more, from its last checkpoint")
                            del working[number]
                            live.end(number)
                            waiting.appendleft((number, attempt + 1))
                            continue
                        outcome = Outcome(job, error=RunError(f"{error}, {attempt} times"))
                    except BenchError as error:
                        outcome = Outcome(job, error=error)
                    del working[number]
                    live.end(number)
                    yield outcome
        finally:
            for process, _ in working.values():
                process.end()
            live.end_all()
