"""Runs on a Ray cluster of two nodes, one of which is lost on the way. The driver is a process of its own, as for a user."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.store.results import Store

from .faulty_models import write_log, write_package
from .two_nodes import two_nodes

pytestmark = pytest.mark.slow
LIMIT = 900  # seconds that a command may take here


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    """The package is installed for every process; nodes and drivers share one secret."""
    folder = write_package(tmp_path_factory.mktemp("package"))
    own = {"PYTHONPATH": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return os.environ | own | {"BENCH_DATA": str(tmp_path_factory.mktemp("data")), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events")


def words(log: Path, out: Path, models: str, *more: str) -> list[str]:
    asked = ["run", "--models", models, "--dataset", f"log:{log}", "--no-trivial", "--threads", "1", "--out", str(out)]
    return [sys.executable, "-m", "bench", *asked, *more]


def files(out: Path) -> dict[str, bytes]:
    kept = [p for p in out.glob("*/*/*") if p.suffix == ".safetensors" or p.name.startswith("ranks-")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(kept)}


def test_a_lost_node_costs_nothing_but_time(env, log, tmp_path):
    from bench.report.table import markdown

    asked = ("steps,fine", "--seeds", "0,1,2", "--set", "steps.pause=0.25")
    alone = subprocess.run(
        words(log, tmp_path / "local", *asked), env=env, capture_output=True, timeout=LIMIT, check=False
    )
    assert alone.returncode == 0, alone.stderr
    with two_nodes(env) as nodes:
        on_ray = ("--executor", "ray", "--address", nodes.address)
        driver = subprocess.Popen(
            words(log, tmp_path / "ray", *asked, *on_ray),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        at_work, lines = set(), []
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line)
            name, _, what = line.partition(": ")
            if name.startswith("steps"):
                at_work = at_work | {name} if "epoch" in what else at_work - {name} if "done" in what else at_work
            if len(at_work) == 2 and nodes.worker.poll() is None:  # one CPU each: they are on both nodes
                nodes.kill_worker()
        assert driver.wait(LIMIT) == 0, "".join(lines)
        assert nodes.worker.poll() is not None, "two runs were at work at the same time"
        refused = words(log, tmp_path / "ray", "fine", "--seeds", "9", *on_ray, "--gpus", "1")
        done = subprocess.run(refused, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 1 and "no node of the Ray cluster has what fine (seed 9) needs" in done.stderr
    assert files(tmp_path / "local") == files(tmp_path / "ray") and len(files(tmp_path / "ray")) == 12
    tables = [markdown(Store(tmp_path / out)).splitlines() for out in ("local", "ray")]
    bodies = [[line for line in table if "|" in line] for table in tables]
    assert bodies[0] == bodies[1] and len(bodies[0]) > 3


def test_a_node_with_folders_of_its_own_gets_the_data_once_and_gives_its_runs_back(env, log, tmp_path):
    asked = ("steps", "--seeds", "0,1,2", "--set", "steps.pause=0.1")
    further = ("--candidates", "uniform,popularity")
    for more in ((), further):
        alone = words(log, tmp_path / "local", *asked, *more)
        assert subprocess.run(alone, env=env, capture_output=True, timeout=LIMIT, check=False).returncode == 0
    elsewhere, copies = tmp_path / "elsewhere", []
    with two_nodes(env, {"BENCH_DATA": str(elsewhere)}) as nodes:
        for more in ((), further):
            command = words(log, tmp_path / "ray", *asked, *more, "--executor", "ray", "--address", nodes.address)
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
            assert done.returncode == 0, done.stderr
            copies.append([(path, path.stat().st_ino) for path in elsewhere.glob("prepared/*/manifest.json")])
    assert len(copies[0]) == 1 and copies[0] == copies[1]
    assert list(elsewhere.glob("results/ray/.locks/*/steps-*.lock")), "no run was at work on the second node"
    assert not list(elsewhere.glob("results/ray/*/steps-*")), "its runs are not left there"
    assert files(tmp_path / "local") == files(tmp_path / "ray") and len(files(tmp_path / "ray")) == 9
    assert not list((tmp_path / "ray").glob(".seen-*"))


def test_faults_on_ray_stay_with_their_run_and_nothing_is_left(env, log, tmp_path):
    more = ("--executor", "ray", "--memory-limit", "1200")
    asked = words(log, tmp_path, "broken,killed,greedy,fine", *more)
    driver = subprocess.Popen(asked, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    family: set[psutil.Process] = set()
    while driver.poll() is None:
        family |= set(psutil.Process(driver.pid).children(recursive=True))
        time.sleep(0.5)
    failed = [line for line in driver.communicate()[1].splitlines() if line.startswith("failed: ")]
    reasons = {line.split("/")[-1].rpartition("-s0")[0]: line for line in failed}
    assert set(reasons) == {"broken", "killed", "greedy"}, reasons
    assert "no such luck" in reasons["broken"] and "SIGKILL" in reasons["killed"]
    assert "did not finish: more than 1200 MB" in reasons["greedy"]
    assert [record.model for _, record in Store(tmp_path).runs()] == ["fine"]
    assert any(process.pid for process in family)
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left
