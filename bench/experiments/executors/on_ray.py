"""Jobs as tasks of a Ray cluster; a task keeps its job in a process of its own, as on this machine.

Where a node sees the folders of the command, results and checkpoints lie there, and a task of a lost node goes on elsewhere
from the last checkpoint. Where it does not, see `apart`: a task of such a node begins anew when the node is lost.
"""

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from bench.errors import BenchError, RunError
from bench.experiments.executors import apart
from bench.experiments.executors.contract import Limits, Outcome
from bench.experiments.executors.job_process import ATTEMPTS, KilledError, supervise
from bench.experiments.executors.messages import LiveView, Message
from bench.experiments.job import Job, JobResult, execute
from bench.experiments.progress import Reporter
from bench.messages import first_line

_POLL = 0.1  # seconds between two looks at the messages
_RETRIES = 2  # of a task whose process or node is lost
_STORE_BYTES = 200_000_000  # of a cluster that is started here: jobs and messages are small
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's own default is 15: on a busy machine its runs would wait for everything else.
    "RAY_worker_niceness": "0",
}
# Variables by which Ray tells a task what it may use.
_GRANTED = ("CUDA_VISIBLE_DEVICES",)


class OnRay:
    """Carries out jobs as tasks of a Ray cluster.

    Args:
        address: of the cluster; None starts Ray on this machine and ends it afterwards.
        at_once: most jobs at the same time; 0 leaves it to the cluster.
        gpus: of each job; None is one where the job's device is a GPU.
        limits: of each job; the memory is also declared to Ray.
        debug: show traces where the jobs run.
    """

    def __init__(self, address: str | None, at_once: int, gpus: float | None, limits: Limits, debug: bool = False):
        self._address, self._at_once, self._gpus = address, at_once, gpus
        self._limits, self._debug = limits, debug
        self.connected: Any = None  # the module `ray` where the caller holds a connection that outlives `run`

    def run(self, jobs: Sequence[Job], reporter: Reporter) -> Generator[Outcome, None, None]:
        """See `Executor.run`.

        Raises:
            RunError: there is no cluster at the address, or it can never have what a job needs.
        """
        if not jobs:
            return
        cores = max(job.threads for job in jobs)
        held = nullcontext(self.connected) if self.connected else cluster(self._address, cores)
        with held as ray, apart.sender(ray, jobs[0]) if self._address else nullcontext() as sender:
            self._check_resources(ray, jobs)
            mailbox = _mailbox(ray)
            task = ray.remote(max_retries=_RETRIES, retry_exceptions=False)(_work)
            live = LiveView(reporter)
            waiting = list(enumerate(jobs))[::-1]
            working: dict[Any, tuple[int, Job]] = {}
            try:
                while waiting or working:
                    while waiting and len(working) < (self._at_once or len(jobs)):
                        number, job = waiting.pop()
                        if sender and apart.complete(job):
                            yield Outcome(job, execute(job, reporter=reporter))
                            continue
                        sent = sender.of(job) if sender else None
                        call = task.options(**self._resources(job)).remote(
                            job, self._limits, mailbox, number, self._debug, sent
                        )
                        working[call] = number, job
                    done, _ = ray.wait(list(working), timeout=_POLL) if working else ([], [])
                    for number, message in ray.get(mailbox.drain.remote()):
                        live.hear(number, message)
                    for call in done:
                        number, job = working.pop(call)
                        live.end(number)
                        try:
                            outcome = _outcome(ray, call, job, reporter)
                        except apart.NothingSentError:
                            # A node that joined after the start: from now on the data travel with the jobs.
                            assert sender is not None
                            sender.needed = True
                            waiting.append((number, job))
                        else:
                            yield outcome
            finally:
                live.end_all()

    def _resources(self, job: Job) -> dict[str, Any]:
        """What a job's task asks of Ray."""
        asked: dict[str, Any] = {"num_cpus": job.threads}
        gpus = (1.0 if job.device.startswith("cuda") else 0.0) if self._gpus is None else self._gpus
        if gpus:
            asked["num_gpus"] = gpus
        if self._limits.memory_mb:
            asked["memory"] = int(self._limits.memory_mb * 1e6)
        return asked

    def _check_resources(self, ray: Any, jobs: Sequence[Job]) -> None:
        """Refuse what Ray would wait for without end."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for job in jobs:
            asked = {{"num_cpus": "CPU", "num_gpus": "GPU"}.get(n, n): v for n, v in self._resources(job).items()}
            if not any(all(node.get(name, 0) >= value for name, value in asked.items()) for node in nodes):
                wanted = ", ".join(f"{name} {value:g}" for name, value in asked.items())
                best = {name: max(node.get(name, 0) for node in nodes) for name in asked}
                have = ", ".join(f"{name} {value:g}" for name, value in best.items())
                raise RunError(f"no node of the Ray cluster has what {job.label} needs: {wanted}; the largest: {have}")


@contextmanager
def cluster(address: str | None, cores: int) -> Iterator[Any]:
    """A connection to a Ray cluster; one that is started here ends with the block.

    Args:
        address: of the cluster; None starts Ray on this machine.
        cores: that a job needs at least.

    Yields:
        the module `ray`, connected.

    Raises:
        RunError: there is no cluster at the address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            ray.init(num_cpus=max(here, cores), object_store_memory=_STORE_BYTES, **quiet)
        else:
            del quiet["include_dashboard"]
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises bare ones, too, where a node does not start in time
        raise RunError(f"no Ray cluster at {address or 'this machine'}: {first_line(error)}") from error
    try:
        if main:  # Ray has put its own handler there, which ends the process without a word
            signal.signal(signal.SIGTERM, handler)
        yield ray
    finally:
        ray.shutdown()


class _Mailbox:
    """Messages of the runs until the driver takes them."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []

    def put(self, messages: list[tuple[int, Message]]) -> None:
        """Add messages."""
        self._messages += messages

    def drain(self) -> list[tuple[int, Message]]:
        """Take all messages."""
        messages, self._messages = self._messages, []
        return messages


def _mailbox(ray: Any) -> Any:
    """The mailbox as an actor on the driver's node, which cannot be lost before the driver."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()


def _outcome(ray: Any, call: Any, job: Job, reporter: Reporter) -> Outcome:
    try:
        value = ray.get(call)
        if isinstance(value, apart.Returned):
            value = apart.store_returned(job, value, reporter)
    except BenchError as error:
        return Outcome(job, error=error)
    except ray.exceptions.RayError as error:
        lost = f"its process or node was lost {_RETRIES + 1} times ({type(error).__name__}: {first_line(error)})"
        return Outcome(job, error=RunError(lost))
    if isinstance(value, apart.NothingSentError):
        raise value
    return Outcome(job, error=value) if isinstance(value, BenchError) else Outcome(job, value)


def _work(
    job: Job, limits: Limits, mailbox: Any, number: int, debug: bool, sent: apart.Sent | None
) -> JobResult | apart.Returned | BenchError | apart.NothingSentError:
    """The task: one job, its messages, and its end as a value."""
    messages: list[tuple[int, Message]] = []
    flushed = time.monotonic()

    def hear(message: Message) -> None:
        messages.append((number, message))
        # Rare ones at once, the steps of a training together.
        if message[0] not in ("step", "ranking") or time.monotonic() - flushed > _POLL:
            flush()

    def flush() -> None:
        nonlocal flushed
        if messages:
            mailbox.put.remote(messages.copy())
            messages.clear()
        flushed = time.monotonic()

    granted = {name: os.environ[name] for name in _GRANTED if name in os.environ}
    away = sent is not None and not sent.folders.seen()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if sent is None or not away:
                return supervise(job, limits, hear, granted, debug)
            import ray

            here = apart.settle(ray, job, sent)
            return apart.collect(here, supervise(here, limits, hear, granted, debug))
        except KilledError as error:
            if attempt == ATTEMPTS:
                return RunError(f"{error}, {attempt} times")
            hear(("warn", f"{job.label}: {error}; once more, from its last checkpoint"))
        except (BenchError, apart.NothingSentError) as error:
            return error
        finally:
            flush()
    raise AssertionError("unreachable")
