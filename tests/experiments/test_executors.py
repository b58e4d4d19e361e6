"""Runs side by side in processes of their own: the same results, faults and limits that stay with their run."""

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.errors import UsageError
from bench.experiments.executors.choose import Placement
from bench.experiments.executors.contract import Limits
from bench.experiments.executors.messages import LiveView, SendingReporter
from bench.experiments.progress import PlainReporter, Reporter
from bench.experiments.run import RunRequest, run
from bench.experiments.settings import Overrides
from bench.ranker import registry
from bench.report.table import table

from .faulty_models import write_log, write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "events")


@pytest.fixture(autouse=True)
def installed(package, monkeypatch):
    """The package is installed, also for other processes; MLflow has tests of its own."""
    monkeypatch.syspath_prepend(package)
    registry.entries.cache_clear()

    class Nothing:
        def __init__(self, *_):
            pass

        start = log_run = fail = finish = lambda *_: None

    monkeypatch.setattr("bench.store.mlflow_view.Tracker", Nothing)
    yield
    registry.entries.cache_clear()
    sys.modules.pop("faulty_models", None)


class Lines(Reporter):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, line):
        self.notes.append(line)

    def warn(self, line):
        self.warnings.append(line)


def request(log: Path, out: Path, models: str, jobs: int = 2, limits: Limits | None = None, **options) -> RunRequest:
    placement = Placement("local", jobs, limits=limits or Limits())
    return RunRequest(models, (f"log:{log}",), trivial=False, out=out, threads=1, placement=placement, **options)


def files(out: Path) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(out.glob("*/*/*"))
        if path.suffix == ".safetensors" or path.name.startswith("ranks-")
    }


def test_processes_leave_the_same_bytes_as_one_after_the_other(log, tmp_path):
    alone = run(request(log, tmp_path / "a", "steps,fine", jobs=0, seeds=(0, 1)))
    beside = run(request(log, tmp_path / "b", "steps,fine", jobs=2, seeds=(0, 1)))
    assert not alone.failed and not beside.failed and beside.fresh == 4
    assert files(tmp_path / "a") == files(tmp_path / "b") and len(files(tmp_path / "b")) == 8
    assert alone.command.runs == beside.command.runs, "the record keeps the order of the request"
    assert run(request(log, tmp_path / "b", "steps,fine", jobs=2, seeds=(0, 1))).fresh == 0


def test_faults_and_limits_stay_with_their_run(log, tmp_path):
    lines = Lines()
    mark = tmp_path / "mark"
    limits = Limits(seconds=300, memory_mb=psutil.Process().memory_info().rss / 1e6 + 800)
    asked = request(
        log,
        tmp_path / "out",
        "broken,killed,killed-once,greedy,fine",
        limits=limits,
        overrides=Overrides({"killed-once": {"note": str(mark)}}),
    )
    outcome = run(asked, lines)
    reasons = {path.rpartition("/")[2].rpartition("-s0")[0]: line for path, line in outcome.failed.items()}
    assert set(reasons) == {"broken", "killed", "greedy"}
    assert reasons["broken"].startswith("broken failed: ValueError: no such luck")
    assert "SIGKILL" in reasons["killed"] and reasons["killed"].endswith("2 times")
    assert reasons["greedy"].startswith("did not finish: more than") and "--memory-limit" in reasons["greedy"]
    assert {record.model for record in outcome.runs.values()} == {"fine", "killed-once"}
    shown = {each["model"]: each["did_not_finish"] for each in table(outcome.store).records()}
    assert set(shown) == {*reasons, "fine", "killed-once"} and shown["fine"] == ""
    assert all(reasons[model].removeprefix("did not finish: ") in shown[model] for model in reasons)
    assert sum("once more" in line for line in lines.warnings) == 2
    assert not [p for p in psutil.Process().children(recursive=True) if "faulty" in " ".join(p.cmdline())]


def test_a_run_over_its_time_did_not_finish_and_is_not_repeated(log, tmp_path):
    outcome = run(request(log, tmp_path, "slow", limits=Limits(seconds=2)))
    (reason,) = outcome.failed.values()
    assert reason == "did not finish: more than 2 s (--time-limit)"
    assert not outcome.runs
    assert not list(tmp_path.glob("*/*.part/run.json"))


def test_an_interrupted_command_leaves_no_process_behind(log, tmp_path):
    class Stop(Lines):
        def fit(self, name, patience=None):
            if name.startswith("slow"):
                raise KeyboardInterrupt
            return super().fit(name, patience)

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        run(request(log, tmp_path, "slow,slow", seeds=(0, 1)), Stop())
    # What is left is the server that forks; it has no child at work.
    workers = [child for parent in psutil.Process().children() for child in parent.children()]
    assert not workers and set(threading.enumerate()) == before


def test_messages_of_several_runs_reach_one_view(capsys):
    live = LiveView(PlainReporter())
    one, two = (SendingReporter(lambda message, run=run: live.hear(run, message)) for run in (1, 2))
    with one.fit("a (seed 0)") as left, two.fit("b (seed 0)") as right:
        left.begin(2)
        right.begin(3)
        left.epoch(1, {"train/loss": 1.0})
        right.epoch(1, {"train/loss": 2.0})
    one.note("a line")
    lost = SendingReporter(lambda message: live.hear(3, message)).fit("c (seed 0)")
    lost.__enter__()
    live.end(3)
    shown = [line.partition(";")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown[:4] == [
        "a (seed 0): started",
        "b (seed 0): started",
        "a (seed 0): epoch 1/2: loss 1.0000",
        "b (seed 0): epoch 1/3: loss 2.0000",
    ]
    assert "a line" in shown and shown[-1] == "c (seed 0): started", "a lost run is not done"


def test_cores_are_shared_out():
    assert Placement(jobs=0).threads(0, 8) == 8 and Placement(jobs=3).threads(0, 8) == 2
    assert Placement(jobs=30).threads(0, 8) == 1 and Placement(jobs=3).threads(5, 8) == 5
    assert Placement("ray").threads(0, 8) == 1


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement("rya"), "did you mean ray"),
        (Placement(address="localhost:6379"), "add --executor ray"),
        (Placement(gpus=0.5), "add --executor ray"),
        (Placement("ray", gpus=1.5), "--gpus 1.5"),
        (Placement(limits=Limits(seconds=-1)), "--time-limit"),
        (Placement(limits=Limits(seconds=math.nan)), "--time-limit"),
        (Placement(limits=Limits(memory_mb=math.inf)), "--memory-limit"),
        (Placement(jobs=-1), "--jobs -1"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(tmp_path, placement, words):
    asked = replace(request(tmp_path, tmp_path, "popularity"), placement=placement)
    with pytest.raises(UsageError, match=words):
        run(asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_a_command_and_its_processes_within_seconds(log, package, tmp_path, number, code, word):
    asked = ["run", "--models", "slow", "--seeds", "0,1", "--dataset", f"log:{log}", "--no-trivial", "--jobs", "2"]
    command = [sys.executable, "-m", "bench", *asked, "--out", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(package), "PYTHONUNBUFFERED": "1"}
    driver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    for _, line in zip(range(2), (line for line in driver.stdout if line.endswith(": started\n")), strict=False):
        assert line.startswith("slow")
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 3, "the server that forks and two runs"
    driver.send_signal(number)
    if number == signal.SIGTERM:
        driver.send_signal(number)  # as `timeout` does
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == code
    assert errors.splitlines()[-1] == f"{word}; the same command goes on where it stopped"
    assert not psutil.wait_procs(family, timeout=20)[1]
