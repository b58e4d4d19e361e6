"""`bench run --dry-run`: what would run, what is there, and how long the rest takes, from earlier runs or a few timed steps."""

import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.experiments.executors.contract import DidNotFinishError, Limits
from bench.experiments.executors.job_process import supervise
from bench.experiments.executors.messages import Message
from bench.experiments.job import Job, fitting_of
from bench.experiments.prepared_data import candidates_of
from bench.experiments.progress import FitView, Reporter, duration
from bench.experiments.run import RunRequest, check
from bench.store.records import RunRecord
from bench.store.results import Store

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting
    from bench.ranker.stage import Stage

_STEPS = 10  # timed steps of each stage
_WARM = 3  # of them that are not counted: the first ones pay for what is made once
_VALID_ROWS = 300  # validation rows a task that are scored for the time of a check
_WHOLE = "from a whole fit, which has no steps to time"
_LIMIT = Limits(seconds=120.0)  # of the timed steps of one model


@dataclass(frozen=True)
class Estimate:
    """What a job takes. `least` is the time where patience ends it as early as it can."""

    seconds: float
    least: float
    memory_mb: float
    source: str


@dataclass
class Timings(FitView):
    """Seconds of the steps and of the check of each stage."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    _last: float = 0.0

    def begin(self, epochs: int) -> None:
        """A stage starts."""
        self.stages.append({"steps": [], "check": 0.0})
        self._last = time.perf_counter()

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """A step is done."""
        self.stages[-1]["steps"].append(self._lap())

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """The check is done."""
        self.stages[-1]["check"] = self._lap()

    def _lap(self) -> float:
        now = time.perf_counter()
        before, self._last = self._last, now
        return now - before


def dry_run(request: RunRequest, reporter: Reporter | None = None) -> list[str]:
    """What a command would do, in lines. Nothing is written into the results folder.

    Args:
        request: the words of the command.
        reporter: hears of models whose steps are being timed.

    Raises:
        UsageError: the request cannot be.
    """
    reporter = reporter or Reporter()
    check(request)
    from bench.experiments.plan import plan

    plans, store = plan(request), Store(request.out)
    records = [record for _, record in store.runs()]
    known: dict[str, Estimate | str] = {}
    lines, seconds, largest = [], [], 0.0
    for each in plans:
        for job in each.jobs:
            there = None if request.force else store.finished(job.data.name, job.id)
            if there is not None:
                missing = sum(choice.fingerprint not in there.evaluations for choice in job.candidates)
                lines.append(
                    f"{job.path}: {f'to be ranked on {missing} candidate sets' if missing else 'there already'}"
                )
                continue
            what = f"{job.data.name} {job.model} {job.config}"
            if what not in known:
                known[what] = _earlier(records, job) or _timed(job, reporter)
            found = known[what]
            if isinstance(found, str):
                lines.append(f"{job.path}: to be fitted; {found}")
                continue
            seconds.append(found.seconds)
            largest = max(largest, found.memory_mb)
            least = f", {duration(found.least)} at least" if found.least < found.seconds else ""
            lines.append(
                f"{job.path}: to be fitted; at most {duration(found.seconds)}{least}, {found.memory_mb:,.0f} MB ({found.source})"
            )
    at_once = max(request.placement.jobs, 1)
    total = max(sum(seconds) / at_once, max(seconds, default=0.0))
    lines.append(
        f"{len(lines)} runs, {len(seconds)} of them estimated: at most {duration(total)} with {at_once} at once, "
        f"{largest * at_once:,.0f} MB at most"
    )
    return lines


def probe(job: Job, reporter: Reporter) -> Estimate:
    """Time a few steps of each stage, and a check, in this process; nothing is kept.

    A model without stages is fitted whole.
    """
    from bench.experiments.process import configure_torch, peak_memory_mb
    from bench.ranker.torch_ranker import TorchRanker

    configure_torch(job.threads)
    with tempfile.TemporaryDirectory(prefix="bench-dry-run-") as folder:
        clock = time.perf_counter()
        fitting = fitting_of(job, Path(folder))
        opened = time.perf_counter() - clock
        if issubclass(fitting.cls, TorchRanker):
            longest, least, steps = _staged(fitting, job)
            source = "from a few timed steps" if steps else _WHOLE
            return Estimate(opened + longest, opened + least, peak_memory_mb(), source)
        model, _, _ = fitting.fit(FitView(), None, job.validation_rows)
        for choice in job.candidates:
            fitting.rank(model, candidates_of(fitting.prepared, choice), FitView())
        whole = time.perf_counter() - clock
        return Estimate(whole, whole, peak_memory_mb(), _WHOLE)


def _staged(fitting: "Fitting", job: Job) -> tuple[float, float, bool]:
    """Seconds of a whole fit and its ranking: the longest, and where patience ends each stage as soon as it can.

    The third value says whether there were steps to time; without them the fit was a whole one.
    """
    from bench.data.training import TrainData
    from bench.ranker.trainer import _length

    clock = time.perf_counter()
    timings = Timings()
    # The fit's own parts, without its files; they are private there, since their sources are part of every key.
    model: Any = fitting._new_ranker(timings, None)
    split, tasks = fitting.prepared.split, fitting.tasks
    train = TrainData(fitting.prepared.batches, tasks, fitting.seed)
    rows = sum(min(len(split.rows("valid", task)), job.validation_rows or 10**9) for task in tasks)
    valid = fitting._validation(model, FitView(), min(_VALID_ROWS, job.validation_rows or _VALID_ROWS))
    scale = rows / max(len(valid.candidates), 1)
    whole: list[tuple[Stage, int, int]] = []  # a stage with the steps of an epoch and of all

    def shortened(data: TrainData) -> "list[Stage]":
        short = {"epochs": 1, "max_steps": 0, "check_every": 0, "first_check": 1}
        for stage in stages(data):
            whole.append((stage, *_length(stage.config, stage.stream(data))))
        return [
            replace(stage, config=stage.config.model_copy(update=short | {"steps_per_epoch": min(_STEPS, total)}))
            for stage, _, total in whole
        ]

    stages, model.stages = model.stages, shortened
    model.fit(train, valid)
    timed = sum(sum(stage["steps"]) + stage["check"] for stage in timings.stages)
    longest = least = time.perf_counter() - clock - timed
    check = 0.0
    for (stage, steps, total), seconds in zip(whole, timings.stages, strict=True):
        each = statistics.median(seconds["steps"][_WARM:] or seconds["steps"])
        config, scored = stage.config, stage.select in ("mean", "rec", "search")
        check = seconds["check"] * scale if scored else check
        every, first = config.check_every or steps, (config.first_check - 1) * steps
        checks = max((total - first) // every, 1)
        patient = total if stage.select == "last" else min(total, first + (config.patience + 1) * every)
        longest += total * each + checks * check * scored
        least += patient * each + min(checks, config.patience + 1) * check * scored
    if not whole:
        model.eval()
        started = time.perf_counter()
        valid.evaluate(lambda batch: model.score(batch).float())
        check = (time.perf_counter() - started) * scale
    # Test rows take the time of validation rows, which are ranked once more for the record.
    tested = sum(len(split.rows("test", task)) for task in tasks)
    ranking = check * (1 + len(job.candidates) * tested / max(rows, 1))
    return longest + ranking, least + ranking, bool(whole)


def _earlier(records: list[RunRecord], job: Job) -> Estimate | None:
    """From runs with the same settings on the same data, other seeds or sources."""
    same = [
        record
        for record in records
        if (record.model, record.config, record.threads) == (job.model, job.config, job.threads)
        and record.dataset["fingerprint"] == job.data.fingerprint
        and record.tasks == list(job.tasks)
        and record.device.partition(":")[0] == job.device.partition(":")[0]
    ]
    if not same:
        return None
    seconds = [record.seconds + sum(one.seconds for one in record.evaluations.values()) for record in same]
    memory = max(record.peak_memory_mb for record in same)
    return Estimate(max(seconds), min(seconds), memory, f"from {len(same)} earlier run{'s' * (len(same) > 1)}")


def _timed(job: Job, reporter: Reporter) -> Estimate | str:
    """From timed steps in a process of its own; why not, where that cannot be."""
    reporter.note(f"{job.model}: timing a few steps")

    def hear(message: Message) -> None:
        if message[0] == "warn":
            reporter.warn(message[1])

    try:
        return supervise(job, _LIMIT, hear, work=probe)
    except DidNotFinishError:
        return f"no estimate: the timed steps took more than {_LIMIT.seconds:g} s"
    except BenchError as error:
        return f"no estimate: {error}"
