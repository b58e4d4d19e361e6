"""What a user sees while a command works: bars in a terminal, plain lines in a pipe, nothing with `--quiet`."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.evaluation.metrics import PRIMARY

METRIC = f"mean/{PRIMARY}"
# What a line of an epoch shows, by its name in the curve.
_SHOWN = {"train/loss": "loss", METRIC: str(PRIMARY)}


class Reporter:
    """Base and quiet version: says nothing. Failures and warnings are always said, on stderr."""

    def note(self, line: str) -> None:
        """A fact worth a line."""

    def warn(self, line: str) -> None:
        """A line on stderr that is shown also by the quiet reporter."""
        print(f"warning: {line}", file=sys.stderr, flush=True)

    @contextmanager
    def fit(self, name: str, patience: int | None = None) -> "Iterator[FitView]":
        """The view of one fit and its ranking; `patience` is the number of checks without a better one that ends it."""
        yield FitView()


class FitView:
    """Hears of steps, epochs and ranked rows (the contract's `Progress` and the `tick` of scoring)."""

    def begin(self, epochs: int) -> None:
        """A stage starts; it takes at most so many epochs."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """A step of an epoch is done."""

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """An epoch is done; `values` is its line of the curve."""

    def ranking(self, done: int, total: int) -> None:
        """So many of all rows are ranked."""


class PlainReporter(Reporter):
    """One line per event, for pipes and logs."""

    def note(self, line: str) -> None:
        """The line on stdout."""
        print(line, flush=True)

    @contextmanager
    def fit(self, name: str, patience: int | None = None) -> Iterator[FitView]:
        """A line at the start, after each epoch and at the end."""
        started = time.perf_counter()
        print(f"{name}: started", flush=True)
        yield _PlainView(name, patience)
        print(f"{name}: done in {duration(time.perf_counter() - started)}", flush=True)


class _PlainView(FitView):
    """One line per epoch: loss, metric and time left; everything else is in the curve."""

    def __init__(self, name: str, patience: int | None):
        self._name, self._patience = name, patience
        self.begin(0)

    def begin(self, epochs: int) -> None:
        self._epochs, self._started, self._first = epochs, time.perf_counter(), 0
        self._best, self._waited = -math.inf, 0

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        # After a resume the first epoch seen is not the first one.
        self._first = self._first or epoch
        each = (time.perf_counter() - self._started) / (epoch - self._first + 1)
        shown = [f"{word} {values[key]:.4f}" for key, word in _SHOWN.items() if key in values]
        stage = "" if values.get("stage", "fit") == "fit" else f" {values['stage']}"
        left = self._left(each, self._epochs - epoch, values.get(METRIC))
        print(f"{self._name}:{stage} epoch {epoch}/{self._epochs}: {', '.join(shown)}; {left}", flush=True)

    def _left(self, each: float, epochs: int, metric: float | None) -> str:
        """The time left, in words, from the seconds of an epoch and the number that is left at most."""
        if metric is None or self._patience is None:
            return f"about {duration(each * epochs)} left"
        self._best, self._waited = (metric, 0) if metric > self._best else (self._best, self._waited + 1)
        patient = max(self._patience - self._waited, 0)
        if patient >= epochs:
            return f"at most {duration(each * epochs)} left"
        return f"{duration(each * patient)} left if nothing gets better, at most {duration(each * epochs)}"


class RichReporter(Reporter):
    """Progress bars with loss, validation metric and time left, one for each fit at work, and lines above them."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bars: Any = None
        self._working = 0

    def note(self, line: str) -> None:
        """The line above the bars."""
        self._console.print(line, markup=False)

    def warn(self, line: str) -> None:
        """The line above the bars, marked."""
        self._console.print(f"warning: {line}", markup=False, style="yellow")

    @contextmanager
    def fit(self, name: str, patience: int | None = None) -> Iterator[FitView]:
        """A bar while it works, a line at the end."""
        started = time.perf_counter()
        if not self._working:
            self._bars = self._start()
        self._working += 1
        view = _RichView(self._bars, name)
        try:
            yield view
        finally:
            view.remove()
            self._working -= 1
            if not self._working:
                self._bars.stop()
        self.note(f"{name}: done in {duration(time.perf_counter() - started)}")

    def _start(self) -> Any:
        from rich import progress

        columns = [
            progress.TextColumn("{task.description:<22}"),
            progress.BarColumn(bar_width=20),
            progress.TextColumn("{task.fields[facts]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        ]
        bars = progress.Progress(*columns, console=self._console, transient=True)
        bars.start()
        return bars


class _RichView(FitView):
    def __init__(self, bars: Any, name: str):
        self._bars, self._name, self._epochs = bars, name, 0
        self._metric = ""
        self._task = bars.add_task(name, total=None, facts="")

    def remove(self) -> None:
        self._bars.remove_task(self._task)

    def begin(self, epochs: int) -> None:
        self._epochs, self._metric = epochs, ""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        facts = f"epoch {epoch}/{self._epochs} loss {loss:.4f}{self._metric}"
        self._bars.update(self._task, completed=(epoch - 1) * steps + step, total=self._epochs * steps, facts=facts)

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        if METRIC in values:
            self._metric = f" {PRIMARY} {values[METRIC]:.4f}"

    def ranking(self, done: int, total: int) -> None:
        self._bars.update(self._task, facts=f"ranking {done}/{total}{self._metric}")


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 07 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
