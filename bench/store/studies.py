"""Searches of settings in the results folder: what was asked, every trial, what was spent.

    <root>/tuning/<data set>/<study id>/study.json        what is searched, and the budget
    <root>/tuning/<data set>/<study id>/trials/<n>/trial.json   a trial that is over: settings, checks, status, reason
    <root>/tuning/<data set>/<study id>/best.yaml         the best settings, for `bench run --config`

A trial knows values of validation rows only.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import first_line
from bench.store.records import REMEDY, DatasetFacts
from bench.store.results import Store

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass
class TrialRecord:
    """A trial that is over. `kind` is "search", or "spread" for the default config with another seed (numbers below 0)."""

    number: int
    kind: str
    values: dict[str, Any]  # settings that differ from the default config
    seed: int
    status: str  # "finished", "stopped" (by the scheduler) or "failed"
    value: float | None  # best validation metric, mean N@10
    checks: list[dict[str, float]] = field(default_factory=list)  # check, step, value, best
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""
    finished: str = ""


@dataclass
class StudyRecord:
    """What a search is about. Everything but `trials`, `spread` and times is part of its key."""

    id: str
    key: str
    model: str
    title: str
    dataset: DatasetFacts
    tasks: list[str]
    budget: str
    search: str
    scheduler: str
    seed: int
    space: dict[str, Any]
    default: dict[str, Any]  # complete default config
    validation_rows: int
    device: str
    threads: int
    code: str
    trials: int  # that the budget allows
    spread: int  # further seeds of the default config, outside the budget
    time_limit: float = 0.0  # seconds of a trial; 0 is no bound
    started: str = ""
    finished: str = ""


@dataclass(frozen=True)
class Study:
    """A study with its trials that are over, by number."""

    folder: Path
    record: StudyRecord
    trials: tuple[TrialRecord, ...]

    @property
    def searched(self) -> tuple[TrialRecord, ...]:
        """Trials of the budget."""
        return tuple(trial for trial in self.trials if trial.kind == "search")

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best value, the earliest of equals; None where all failed."""
        valued = [trial for trial in self.searched if trial.value is not None and trial.status != FAILED]
        return max(valued, key=lambda trial: (trial.value, -trial.number), default=None)

    @property
    def of_default(self) -> list[float]:
        """Values of the default config by seed, trial 0 first."""
        own = [trial for trial in self.trials if trial.number == 0 or trial.kind == "spread"]
        return [trial.value for trial in own if trial.value is not None and trial.status == FINISHED]

    def spent(self) -> dict[str, float]:
        """What the trials of the budget used: trials, steps, seconds."""
        of = self.searched
        return {
            "trials": len(of),
            "steps": sum(trial.steps for trial in of),
            "seconds": sum(trial.seconds for trial in of),
        }


def study_folder(store: Store, dataset: str, study: str) -> Path:
    """Folder of a study."""
    return store.root / "tuning" / store.folder(dataset).name / study


def write_study(folder: Path, record: StudyRecord) -> None:
    """Write what a study is about.

    Raises:
        RunError: the folder cannot be written.
    """
    _write(folder / "study.json", asdict(record))


def write_trial(folder: Path, trial: TrialRecord) -> None:
    """Write a trial that is over.

    Raises:
        RunError: the folder cannot be written.
    """
    _write(trial_folder(folder, trial.number) / "trial.json", asdict(trial))


def trial_folder(folder: Path, number: int) -> Path:
    """Folder of a trial: its curve and, while it works, its checkpoint."""
    return folder / "trials" / f"{number:03d}"


def read_study(folder: Path) -> Study:
    """A study with all of its trials that are over.

    Raises:
        RunError: a file is not readable.
    """
    record = StudyRecord(**_read(folder / "study.json"))
    trials = [TrialRecord(**_read(path)) for path in sorted(folder.glob("trials/*/trial.json"))]
    return Study(folder, record, tuple(sorted(trials, key=lambda trial: (trial.number < 0, abs(trial.number)))))


def studies(store: Store) -> Iterator[Study]:
    """All studies of a results folder, oldest first."""
    found = [read_study(path.parent) for path in store.root.glob("tuning/*/*/study.json")]
    yield from sorted(found, key=lambda study: (study.record.started, study.record.id))


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, default=str) + "\n"
    write_atomically(path, lambda scratch: scratch.write_text(text), REMEDY)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is not readable ({first_line(error)}); remove that folder and repeat the search"
        ) from None
