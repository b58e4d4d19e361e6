"""Learning curves: what the validation rows and the training loss say at each check of a fit."""

import json
from dataclasses import dataclass
from pathlib import Path

from bench.errors import RunError
from bench.messages import first_line
from bench.report.marks import Block
from bench.store.results import CURVE, checked_file

MOST_POINTS = 120  # of one curve; more cannot be told apart on a page
_ALL_POINTS = 3000  # of all curves with one name together, so that a page with many models and seeds stays small
_LEAST_POINTS = 12
_NOT_VALUES = {"epoch", "step", "seconds", "stage"}


@dataclass(frozen=True)
class Point:
    """One value of one run at one optimiser step. `stage` is "fit" where a fit has one stage only."""

    number: int  # of the row in the table
    model: str
    seed: int
    stage: str
    name: str  # "rec/N@10", "train/loss", ...
    step: int
    value: float


def curves(block: Block) -> list[Point]:
    """The points of all runs that have a curve, thinned out evenly where there are very many.

    Raises:
        RunError: a curve is missing, differs from its record, or is not readable.
    """
    with_curves = [
        (number, row.label, run)
        for number, row in enumerate(block.group.rows)
        for run in row.runs
        if CURVE in run.record.files
    ]
    most = min(MOST_POINTS, max(_LEAST_POINTS, _ALL_POINTS // max(1, len(with_curves))))
    return [
        point
        for number, label, run in with_curves
        for point in _points(number, label, run.record.seed, checked_file(run.folder, CURVE), most)
    ]


def _points(number: int, label: str, seed: int, path: Path, most: int) -> list[Point]:
    by_name: dict[tuple[str, str], list[Point]] = {}
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
            stage, step = str(values.get("stage", "fit")), int(values.get("step", values["epoch"]))
            for name, value in values.items():
                if name not in _NOT_VALUES and isinstance(value, int | float):
                    point = Point(number, label, seed, stage, name, step, float(f"{value:.6g}"))
                    by_name.setdefault((stage, name), []).append(point)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is not a learning curve ({first_line(error)}); repeat that run") from None
    return [point for points in by_name.values() for point in _thinned(points, most)]


def _thinned(points: list[Point], most: int) -> list[Point]:
    if len(points) <= most:
        return points
    last = len(points) - 1
    return [points[round(place * last / (most - 1))] for place in range(most)]
