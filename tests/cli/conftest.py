"""The command line in this process, on ML-100K. Every test has a copy of one results folder with two finished runs."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.cli.main import main
from bench.store import mlflow_view as tracking

Bench = Callable[..., Result]


def call(*words: str | Path, text: str | None = None) -> Result:
    """`bench WORDS`; `exit_code`, `stdout` and `stderr` are what a shell would see."""
    return CliRunner().invoke(main, [str(word) for word in words], input=text)


class NoTracker:
    """In place of MLflow, whose database takes longer to make than these tests to run."""

    def __init__(self, *_: Any):
        pass

    start = log_run = fail = finish = close = lambda *_, **__: None


@dataclass
class Results:
    """A results folder with the finished runs of `popularity` (both tasks) and `matcher` (search), seed 0."""

    out: Path
    data: Path

    def bench(self, *words: str | Path, text: str | None = None) -> Result:
        return call(*words, "--out", self.out, text=text)

    def run(self, *words: str | Path) -> Result:
        return self.bench("run", *words, "--no-trivial", "--data", self.data, "--threads", "1")

    def files(self) -> dict[str, bytes]:
        """What commands leave, without the view of it and what only helps along, by its path."""
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and not {"mlflow", ".settings"} & {*path.parts} and not path.name.endswith(".lock")
        }

    def runs(self) -> dict[str, dict[str, Any]]:
        """Folders of the finished runs by "<model>-s<seed>"."""
        import json

        return {f"{r['model']}-s{r['seed']}": r for r in json.loads(self.bench("runs", "--format", "json").stdout)}


@pytest.fixture
def bench() -> Bench:
    return call


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The true tracker."""
    monkeypatch.setattr("bench.store.mlflow_view.Tracker", _TRACKER)


_TRACKER = tracking.Tracker


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.store.mlflow_view.Tracker", NoTracker)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of prepared data, shared with the other tests of this process."""
    return tmp_path_factory.getbasetemp() / "data"


@pytest.fixture(scope="session")
def first_results(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Results:
    made = Results(tmp_path_factory.mktemp("results"), data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.store.mlflow_view.Tracker", NoTracker)
        done = made.run("--models", "popularity,matcher", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    return made


@pytest.fixture
def results(first_results: Results, tmp_path: Path) -> Results:
    return Results(Path(shutil.copytree(first_results.out, tmp_path / "results")), first_results.data)


@pytest.fixture
def error(bench: Bench) -> Callable[..., str]:
    """Runs words that must fail with an exit code; returns the one line that says so."""

    def fails(code: int, *words: str | Path) -> str:
        done = bench(*words)
        assert done.exit_code == code, done.output
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    return fails
