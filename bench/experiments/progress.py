"""What a user sees while a command works: bars in a terminal, plain lines in a pipe, nothing with `--quiet`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Reporter:
    """Base and quiet version: says nothing. Failures and warnings are always said, on stderr."""

    def note(self, line: str) -> None:
        """A fact worth a line."""

    def warn(self, line: str) -> None:
        print(f"warning: {line}", file=sys.stderr, flush=True)

    @contextmanager
    def fit(self, name: str) -> "Iterator[FitView]":
        """The view of one fit and its ranking."""
        yield FitView()


class FitView:
    """Hears of steps, epochs and ranked rows (the contract's `Progress` and the `tick` of scoring)."""

    def begin(self, epochs: int) -> None:
        pass

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pass

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        pass

    def ranking(self, done: int, total: int) -> None:
        pass


class PlainReporter(Reporter):
    """One line an event, for pipes and logs."""

    def note(self, line: str) -> None:
        print(line, flush=True)

    @contextmanager
    def fit(self, name: str) -> Iterator[FitView]:
        started = time.perf_counter()
        print(f"{name}: started", flush=True)
        yield _PlainView(name)
        print(f"{name}: done in {_duration(time.perf_counter() - started)}", flush=True)


class _PlainView(FitView):
    def __init__(self, name: str):
        self._name, self._epochs, self._started, self._first = name, 0, 0.0, 0

    def begin(self, epochs: int) -> None:
        self._epochs, self._started, self._first = epochs, time.perf_counter(), 0

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        # After a resume the first epoch seen is not the first one.
        self._first = self._first or epoch
        left = (time.perf_counter() - self._started) / (epoch - self._first + 1) * (self._epochs - epoch)
        shown = ", ".join(
            f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float) and name != "seconds"
        )
        stage = "" if values["stage"] == "fit" else f" {values['stage']}"
        print(f"{self._name}:{stage} epoch {epoch}/{self._epochs}: {shown}; at most {_duration(left)} left", flush=True)


class RichReporter(Reporter):
    """A progress bar with loss, validation metric and time left, and lines above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)

    def note(self, line: str) -> None:
        self._console.print(line, markup=False)

    def warn(self, line: str) -> None:
        self._console.print(f"warning: {line}", markup=False, style="yellow")

    @contextmanager
    def fit(self, name: str) -> Iterator[FitView]:
        from rich import progress

        columns = [
            progress.TextColumn("{task.description:<22}"),
            progress.BarColumn(bar_width=20),
            progress.TextColumn("{task.fields[facts]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        ]
        started = time.perf_counter()
        with progress.Progress(*columns, console=self._console, transient=True) as bars:
            yield _RichView(bars, name)
        self.note(f"{name}: done in {_duration(time.perf_counter() - started)}")


class _RichView(FitView):
    def __init__(self, bars: Any, name: str):
        self._bars, self._name, self._epochs = bars, name, 0
        self._metric = ""
        self._task = bars.add_task(name, total=None, facts="")

    def begin(self, epochs: int) -> None:
        self._epochs, self._metric = epochs, ""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        facts = f"epoch {epoch}/{self._epochs} loss {loss:.4f}{self._metric}"
        self._bars.update(self._task, completed=(epoch - 1) * steps + step, total=self._epochs * steps, facts=facts)

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        if "mean/N@10" in values:
            self._metric = f" N@10 {values['mean/N@10']:.4f}"

    def ranking(self, done: int, total: int) -> None:
        self._bars.update(self._task, facts=f"ranking {done}/{total}{self._metric}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
