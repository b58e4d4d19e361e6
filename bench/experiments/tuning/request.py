"""The words of `bench tune`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.data import sources
from bench.data.log import TASKS
from bench.errors import UsageError, unknown
from bench.experiments import settings
from bench.experiments.executors.choose import Placement
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides
from bench.experiments.tuning.proposals import SEARCHES
from bench.experiments.tuning.with_ray import SCHEDULERS
from bench.ranker import registry


@dataclass
class TuneRequest:
    """Everything that `bench tune` takes, in the words of the command line."""

    models: str
    dataset: Sequence[str] = ("ml-100k",)
    trials: int = 20
    spread: int = 2
    search: str = "random"
    scheduler: str = "asha"
    tasks: tuple[str, ...] | None = None
    split: str | None = None
    mode: str | None = None
    seed: int = 0
    overrides: Overrides = field(default_factory=Overrides)
    budget: str = "quick"
    validation_rows: int = 0
    time_limit: float = 0.0  # seconds of a trial; 0 is no bound
    device: str = "auto"
    threads: int = 0
    jobs: int = 1
    address: str | None = None
    gpus: float | None = None
    resume: bool = True
    out: str | Path = "results/local"
    data: str | Path | None = None
    tracking_uri: str | None = None

    def check(self) -> None:
        """Refuse what needs no data to be seen as wrong.

        Raises:
            UsageError: the first of it.
        """
        if self.search not in SEARCHES:
            raise unknown("search", self.search, SEARCHES)
        if self.scheduler not in SCHEDULERS:
            raise unknown("scheduler", self.scheduler, SCHEDULERS)
        if self.trials < 1 or self.spread < 0 or self.jobs < 1:
            raise UsageError("--trials and --jobs are 1 or more, --spread 0 or more")
        if not 0 <= self.time_limit < math.inf:
            raise UsageError(f"--time-limit {self.time_limit:g}: expected seconds, or 0 for no limit")
        if not self.dataset:
            raise UsageError("no data set given; name one with --dataset, see `bench data list`")
        for name in self.dataset:
            sources.entry(name)
        settings.check_seeds((self.seed,))
        registry.select(self.models, self.tasks or TASKS, False)

    def as_run(self) -> RunRequest:
        """The run of the default settings, from which the searches are planned."""
        # As for `bench run`, Ray's default of one thread included only where a cluster is named.
        placement = Placement("ray" if self.address else "local", self.jobs, self.address)
        return RunRequest(
            self.models,
            tuple(self.dataset),
            self.tasks,
            self.split,
            self.mode,
            seeds=(self.seed,),
            overrides=self.overrides,
            budget=self.budget,
            validation_rows=self.validation_rows,
            device=self.device,
            threads=self.threads,
            trivial=False,
            out=self.out,
            data=self.data,
            placement=placement,
        )
