"""The messages of runs in other processes: sent by each run, shown together in one live view."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from bench.errors import RunError
from bench.experiments.progress import FitView, Reporter

Message = tuple[Any, ...]
_EACH = 0.25  # seconds between two messages about the steps of one fit


class SendingReporter(Reporter):
    """The reporter of a run in another process: everything becomes a message of plain values.

    Args:
        send: takes a message.
    """

    def __init__(self, send: Callable[[Message], None]):
        self._send = send
        self._numbers = itertools.count()

    def note(self, line: str) -> None:
        """The line as a message."""
        self._send(("note", line))

    def warn(self, line: str) -> None:
        """The line as a message."""
        self._send(("warn", line))

    @contextmanager
    def fit(self, name: str, patience: int | None = None) -> Iterator[FitView]:
        """Messages about one fit, under a number of its own."""
        number = next(self._numbers)
        self._send(("open", number, name, patience))
        yield _SendingView(self._send, number)
        self._send(("close", number))


class _SendingView(FitView):
    """Sends steps and ranked rows now and then, and every epoch."""

    def __init__(self, send: Callable[[Message], None], number: int):
        self._send, self._number, self._next = send, number, 0.0

    def begin(self, epochs: int) -> None:
        self._send(("begin", self._number, epochs))

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if self._due():
            self._send(("step", self._number, epoch, step, steps, loss))

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        self._send(("epoch", self._number, epoch, values))

    def ranking(self, done: int, total: int) -> None:
        if self._due():
            self._send(("ranking", self._number, done, total))

    def _due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _EACH
        return True


class LiveView:
    """Shows the messages of several runs through one reporter.

    Args:
        reporter: of this process.
    """

    def __init__(self, reporter: Reporter):
        self._reporter = reporter
        self._open: dict[tuple[object, int], tuple[AbstractContextManager[FitView], FitView]] = {}

    def hear(self, source: object, message: Message) -> None:
        """Show a message of a run; `source` tells the runs apart."""
        kind, *values = message
        if kind in ("note", "warn"):
            getattr(self._reporter, kind)(*values)
            return
        key = (source, values.pop(0))
        if kind == "open":
            context = self._reporter.fit(*values)
            self._open[key] = context, context.__enter__()
        elif key in self._open and kind == "close":
            self._open.pop(key)[0].__exit__(None, None, None)
        elif key in self._open:
            getattr(self._open[key][1], kind)(*values)

    def end(self, source: object) -> None:
        """A run has ended: what it has not closed failed."""
        for key in [key for key in self._open if key[0] == source]:
            error = RunError("the run has ended")
            with suppress(RunError):
                self._open.pop(key)[0].__exit__(RunError, error, None)

    def end_all(self) -> None:
        """All runs have ended."""
        for source in {source for source, _ in self._open}:
            self.end(source)
