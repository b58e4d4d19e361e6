"""From the words of a command to an executor."""

import math
from dataclasses import dataclass, field

from bench.errors import UsageError, unknown
from bench.experiments.executors.contract import Executor, Limits

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Placement:
    """Where the runs of a command are carried out, how many at once, and what each may use."""

    executor: str = "local"
    jobs: int = 0  # at once; 0 is one on this machine, as many as fit on a cluster
    address: str | None = None  # of a Ray cluster; None starts Ray on this machine
    gpus: float | None = None  # of each run; None is one where the device is a GPU
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: the first of it.
        """
        if self.executor not in EXECUTORS:
            raise unknown("executor", self.executor, EXECUTORS)
        if self.jobs < 0:
            raise UsageError(f"--jobs {self.jobs}: expected a number of runs at once, or 0")
        if self.executor == "local" and self.address:
            raise UsageError("--address is that of a Ray cluster; add --executor ray")
        if self.executor == "local" and self.gpus is not None:
            raise UsageError("--gpus says how much of a GPU a run gets on a Ray cluster; add --executor ray")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise UsageError(f"--gpus {self.gpus:g}: expected a fraction of one GPU, or a whole number of them")
        if not (0 <= self.limits.seconds < math.inf and 0 <= self.limits.memory_mb < math.inf):  # refuses nan, too
            raise UsageError("--time-limit and --memory-limit are positive, or 0 for no limit")

    def threads(self, asked: int, cores: int) -> int:
        """Threads of each run: those that the user names, else this machine's cores shared out; one on a cluster."""
        if asked:
            return asked
        return 1 if self.executor == "ray" else max(1, cores // max(self.jobs, 1))

    def make(self, debug: bool = False) -> Executor:
        """The executor; what it needs is imported now."""
        if self.executor == "ray":
            from bench.experiments.executors.on_ray import OnRay

            return OnRay(self.address, self.jobs, self.gpus, self.limits, debug)
        if self.jobs > 1 or self.limits:
            from bench.experiments.executors.processes import Processes

            return Processes(max(self.jobs, 1), self.limits, debug)
        from bench.experiments.executors.in_process import InProcess

        return InProcess(debug)
