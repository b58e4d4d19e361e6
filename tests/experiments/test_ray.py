"""Runs on a Ray cluster of two nodes, one of which is lost on the way."""

import secrets
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.errors import RunError
from bench.experiments.executors.choose import Placement
from bench.experiments.executors.contract import Limits
from bench.experiments.run import RunRequest, run
from bench.experiments.settings import Overrides
from bench.ranker import registry
from bench.store.results import Store

from .faulty_models import write_log, write_package
from .test_executors import Lines, files

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def token():
    """One secret for the nodes and the driver, which Ray reads once per process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


@pytest.fixture
def package(tmp_path_factory, monkeypatch):
    folder = write_package(tmp_path_factory.mktemp("package"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    registry.entries.cache_clear()
    yield folder
    registry.entries.cache_clear()


def request(tmp_path: Path, out: str, models: str, **options) -> RunRequest:
    log = tmp_path / "log" / "events"
    if not log.exists():
        write_log(log)
    slow = Overrides({"steps": {"pause": 0.25}} if "steps" in models else {})
    return RunRequest(models, (f"log:{log}",), trivial=False, out=tmp_path / out, threads=1, overrides=slow, **options)


class Placed(Lines):
    """Remembers how many runs were at work at once, and calls back when two are."""

    def __init__(self, when_two):
        super().__init__()
        self.most, self.open, self.when_two = 0, 0, when_two

    def fit(self, name, patience=None):
        self.open += 1
        self.most = max(self.most, self.open)
        if self.open == 2 and self.when_two:
            action, self.when_two = self.when_two, None
            threading.Timer(1.5, action).start()
        return super().fit(name, patience)


def test_a_lost_node_costs_nothing_but_time(package, tmp_path):
    from .two_nodes import two_nodes

    asked = request(tmp_path, "local", "steps,fine", seeds=(0, 1, 2))
    alone = run(asked)
    assert not alone.failed
    with two_nodes(package) as nodes:
        on_ray = Placement("ray", address=nodes.address)
        reporter = Placed(nodes.kill_worker)
        outcome = run(replace(asked, out=tmp_path / "ray", placement=on_ray), reporter)
        assert reporter.when_two is None and reporter.most >= 2, "one CPU each: two at once are on both nodes"
        assert nodes.worker.poll() is not None
        with pytest.raises(RunError, match="no node of the Ray cluster has what"):
            run(replace(asked, seeds=(9,), out=tmp_path / "ray", placement=replace(on_ray, gpus=1)))
    assert not outcome.failed and outcome.command.runs == alone.command.runs
    assert files(tmp_path / "local") == files(tmp_path / "ray") and len(files(tmp_path / "ray")) == 12
    from bench.report.table import markdown

    body = [[line for line in markdown(Store(tmp_path / out)).splitlines() if "|" in line] for out in ("local", "ray")]
    assert body[0] == body[1]


def test_faults_on_ray_are_those_of_processes(package, tmp_path):
    limits = Limits(memory_mb=psutil.Process().memory_info().rss / 1e6 + 800)
    asked = request(tmp_path, "out", "broken,killed,greedy,fine", placement=Placement("ray", limits=limits))
    outcome = run(asked, Lines())
    reasons = {path.rpartition("/")[2].rpartition("-s0")[0]: line for path, line in outcome.failed.items()}
    assert reasons["broken"].startswith("broken failed: ValueError: no such luck")
    assert "SIGKILL" in reasons["killed"] and reasons["greedy"].startswith("did not finish: more than")
    assert [record.model for record in outcome.runs.values()] == ["fine"]
    deadline = time.monotonic() + 30
    while (left := [p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet" and _ours(p)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.5)
    assert not left


def _ours(process: psutil.Process) -> bool:
    try:
        return psutil.Process() in process.parents()
    except psutil.Error:
        return False
