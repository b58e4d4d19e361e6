"""One job in a process of its own, which a limit or a signal can end without harm to anything else.

The process is forked from a server that has imported the libraries and has no threads, so that it starts at once and
its memory is the run's own. Where there is no fork it starts anew. It ends when its parent does, however that ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from bench.errors import BenchError, RunError
from bench.experiments.executors.contract import DidNotFinishError, Limits
from bench.experiments.executors.messages import Message, SendingReporter
from bench.experiments.job import Job, execute

_PRELOADED = ["bench.experiments.executors.job_process", "bench.experiments.fitting"]
_START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
ATTEMPTS = 2  # of a job whose process is killed: the second goes on from the last checkpoint
_GRACE = 5.0  # seconds that a process has to end after its last message


Work = Callable[..., Any]  # (job, reporter=...) -> plain data


class JobProcess:
    """A job at work in a process of its own.

    Args:
        job: what to do.
        limits: what it may use.
        environment: variables to set before it begins, such as the visible GPUs.
        debug: show the trace of an error on stderr.
        work: the function, of a module; what it returns must be plain data.
    """

    def __init__(
        self,
        job: Job,
        limits: Limits,
        environment: Mapping[str, str] | None = None,
        debug: bool = False,
        work: Work = execute,
    ):
        self.job = job
        self._limits = limits
        self._started: float | None = None
        self._final: Message | None = None
        context: Any = multiprocessing.get_context(_START_METHOD)
        if _START_METHOD == "forkserver":
            context.set_forkserver_preload(_PRELOADED)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(work, job, theirs, {"OMP_NUM_THREADS": str(job.threads), **(environment or {})}, debug)
        )
        with _without_main():
            self._process.start()
        theirs.close()

    @property
    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` wakes up for."""
        return [self._connection, self._process.sentinel]

    def messages(self) -> Iterator[Message]:
        """What the run has said since the last call.

        Raises:
            DidNotFinishError: it has reached a limit; the process is ended.
        """
        try:
            while self._final is None and self._connection.poll():
                message = self._connection.recv()
                if message[0] == "begun":
                    self._started = time.monotonic()
                elif message[0] in ("result", "error"):
                    self._final = message
                else:
                    yield message
        except (EOFError, OSError):
            pass
        if self._final is None and (reason := self._over()):
            self.end()
            raise DidNotFinishError(f"did not finish: {reason}")

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._final is not None or not self._process.is_alive()

    def result(self) -> Any:
        """The result of a run that is over.

        Raises:
            BenchError: the run's own error. KilledError: its process ended without a word.
        """
        for _ in self.messages():  # the last words of a process that is gone
            pass
        if self._final is None:
            self._process.join()
            code = self._process.exitcode or 0
            self.end()
            raise KilledError(f"its process was ended by {_signal_name(-code)}" if code < 0 else f"exit code {code}")
        self._process.join(_GRACE)
        self.end()
        kind, value = self._final
        if kind == "error":
            raise value
        return value

    def end(self) -> None:
        """End the process if it is still there."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def _over(self) -> str:
        """The limit that the run has reached, in words; empty where it has reached none."""
        limits = self._limits
        if limits.seconds and self._started is not None and time.monotonic() - self._started > limits.seconds:
            return f"more than {limits.seconds:g} s (--time-limit)"
        if limits.memory_mb and self._process.pid:
            try:
                used = psutil.Process(self._process.pid).memory_info().rss / 1e6
            except psutil.Error:
                return ""
            if used > limits.memory_mb:
                return f"more than {limits.memory_mb:g} MB of memory (--memory-limit)"
        return ""


class KilledError(RunError):
    """The process of a run ended without a word: killed by the system, where memory is short, or by somebody."""


def supervise(
    job: Job,
    limits: Limits,
    hear: Callable[[Message], None],
    environment: Mapping[str, str] | None = None,
    debug: bool = False,
    work: Work = execute,
) -> Any:
    """Carry out one job in a process of its own and wait for it.

    Args:
        job: what to do.
        limits: what it may use.
        hear: called with every message.
        environment: variables of the process.
        debug: show the trace of an error on stderr.
        work: what is done with the job.

    Returns:
        what `work` returns.

    Raises:
        BenchError: as `JobProcess.result`; DidNotFinishError where it reaches a limit.
    """
    process = JobProcess(job, limits, environment, debug, work)
    try:
        while not process.ended:
            wait(process.waitables, timeout=0.1)
            for message in process.messages():
                hear(message)
        return process.result()
    finally:
        process.end()


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    return f"{name} (is the memory short?)" if name == "SIGKILL" else name


def _work(work: Work, job: Job, connection: Connection, environment: Mapping[str, str], debug: bool) -> None:
    """What the process does; its last message is ("result", value) or ("error", BenchError)."""
    # Ctrl-C in a terminal reaches the whole group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    _end_with_parent()
    connection.send(("begun",))
    reporter = SendingReporter(connection.send)
    if not debug and not sys.warnoptions:

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if category.__module__.partition(".")[0] == "bench":
                reporter.warn(str(message))

        warnings.showwarning = show
    try:
        final: Message = ("result", work(job, reporter=reporter))
    except BenchError as error:
        if debug:
            traceback.print_exc()
        final = ("error", error)
    except (BrokenPipeError, EOFError):
        return  # the parent is gone
    except Exception as error:
        if debug:
            traceback.print_exc()
        line = f"{type(error).__name__}: {error} (a defect of bench or of a package; --debug shows where)"
        final = ("error", RunError(line))
    connection.send(final)


def _end_with_parent() -> None:
    """End this process when its parent ends: nobody is left to take its result."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Start a process without running the caller's script again: its main module is not needed."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
