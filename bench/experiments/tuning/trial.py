"""One trial of a search: a fit on data without test rows, whose checks are reported to Tune."""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.experiments.executors.contract import DidNotFinishError
from bench.experiments.prepared_data import PreparedData
from bench.experiments.progress import METRIC, FitView
from bench.experiments.tuning.without_test import SearchData
from bench.ranker.stage import Check

# What Tune compares: the best check so far, over the number of checks.
VALUE, CHECKS = "best", "check"
_KEPT = ("curve.jsonl", "trial.json")


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a study share. Plain data."""

    model: str
    tasks: tuple[str, ...]
    data: SearchData
    device: str
    threads: int
    code: str
    validation_rows: int
    time_limit: float = 0.0  # seconds of a trial in all of its attempts; 0 is no bound


@dataclass(frozen=True)
class Trial:
    """A trial that is to be carried out, or was and is only told again. Plain data."""

    number: int
    kind: str  # "search" or "spread"
    values: dict[str, Any]
    config: dict[str, Any]  # complete
    seed: int
    folder: str
    stored: dict[str, Any] | None = None  # its record where it is over


def run_trial(trial: Trial, plan: TrialPlan, report: Callable[[dict[str, Any]], None]) -> None:
    """Carry out a trial, from its last checkpoint where there is one.

    Args:
        trial: what is tried.
        plan: what all trials share.
        report: takes each check: check, step, value, best, steps and seconds so far; and last `final` with how it ended.
            A trial that is over, and the checks before a checkpoint, are reported again, so that whoever decides by them
            stands where he stood.
    """
    if trial.stored is not None:
        for check in trial.stored["checks"]:
            report(check)
        report(_final(trial.stored["value"], trial.stored["steps"], trial.stored["seconds"], trial.stored["reason"]))
        return
    folder = Path(trial.folder)
    folder.mkdir(parents=True, exist_ok=True)
    curve = folder / "curve.jsonl"
    quiet = trial.kind == "spread"  # of its value alone anybody hears: no scheduler may stop it
    count, best = 0, None
    try:
        for line in _before_checkpoint(folder):
            if METRIC in line:
                count, best = count + 1, _larger(best, line[METRIC])
                if not quiet:
                    report(_check(count, line["step"], line[METRIC], best, curve))

        def listener(check: Check) -> None:
            nonlocal count, best
            if METRIC in check.values:
                count, best = count + 1, _larger(best, check.values[METRIC])
                if not quiet:
                    report(_check(count, check.step, check.values[METRIC], best, curve))

        value = _fitted(trial, plan, folder, listener)
    except BenchError as error:
        report(_final(best, *_spent(curve), str(error)))
        return
    report(_final(value if best is None else max(best, value), *_spent(curve), ""))


def clean(folder: Path) -> None:
    """Leave of a trial's folder what its record stands on."""
    for path in folder.iterdir():
        if path.name not in _KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fitted(trial: Trial, plan: TrialPlan, folder: Path, listener: Callable[[Check], None]) -> float:
    """Fit and return the validation metric of the selected state."""
    from bench.experiments.code_hash import fit_sources
    from bench.experiments.fitting import Fitting
    from bench.experiments.process import configure_torch
    from bench.ranker import registry

    configure_torch(plan.threads)
    cls = registry.get(plan.model)
    here = fit_sources(cls.__module__, "backbone" in trial.config)
    if here != plan.code:
        raise BenchError(f"the search is meant for other sources ({plan.code}) than those of this process ({here})")
    fitting = Fitting(
        name=plan.model,
        cls=cls,
        config=cls.Config(**trial.config),
        tasks=plan.tasks,
        seed=trial.seed,
        prepared=_opened(json.dumps(vars(plan.data), sort_keys=True, default=str)),
        device=plan.device,
        threads=plan.threads,
        folder=folder,
    )
    view = _Timed(plan.time_limit, _spent(folder / "curve.jsonl")[1])
    _, facts, _ = fitting.fit(view, listener, plan.validation_rows)
    return float(facts["validation"][METRIC])


class _Timed(FitView):
    """Ends a fit that takes too long: it looks at the clock after each step and after each block of validation rows.

    Args:
        limit: seconds of the trial; 0 is no bound.
        spent: seconds that earlier attempts of the trial took.
    """

    def __init__(self, limit: float, spent: float):
        self._limit, self._end = limit, time.monotonic() + limit - spent if limit else math.inf

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._look()

    def ranking(self, done: int, total: int) -> None:
        self._look()

    def _look(self) -> None:
        if time.monotonic() > self._end:
            raise DidNotFinishError(f"did not finish: more than {self._limit:g} s (--time-limit)")


@lru_cache(maxsize=1)
def _opened(data: str) -> PreparedData:
    """The data, opened once for the trials of a process."""
    return SearchData(**json.loads(data)).open()


def _before_checkpoint(folder: Path) -> list[dict[str, Any]]:
    """Lines of the curve that the checkpoint has behind it, which no listener hears of again."""
    from bench.experiments.checkpoints import DiskCheckpoints

    curve, state = folder / "curve.jsonl", DiskCheckpoints(folder / "checkpoint.pt").load()
    if state is None or "stages" not in state or not curve.exists():
        return []
    ended = {facts["stage"] for facts in state["finished"]}
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    return [
        line
        for line in lines
        if line["stage"] in ended or (line["stage"] == state["stage"] and line["step"] <= state["step"])
    ]


def _check(count: int, step: int, value: float, best: float, curve: Path) -> dict[str, Any]:
    steps, seconds = _spent(curve)
    return {CHECKS: count, "step": step, "value": value, VALUE: best, "steps": steps, "seconds": seconds}


def _final(value: float | None, steps: int, seconds: float, reason: str) -> dict[str, Any]:
    # Tune ends the whole search where a report has no value; -1 is below every metric.
    shown = -1.0 if value is None else value
    return {CHECKS: 10**6, VALUE: shown, "steps": steps, "seconds": seconds, "final": True, "reason": reason}


def _spent(curve: Path) -> tuple[int, float]:
    """Optimiser steps and seconds of the curve's stages."""
    lines = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
    steps = {line["stage"]: line["step"] for line in lines}
    return sum(steps.values()), sum(line.get("seconds", 0.0) for line in lines)


def _larger(best: float | None, value: float) -> float:
    return value if best is None else max(best, value)
