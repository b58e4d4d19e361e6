"""`bench ui`: what it starts, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import bench.api

from ..browser import Browser, needs_chromium

# A server with two workers, one of which starts a process in a session of its own; the other one ignores SIGTERM.
SERVER = """
import os, signal, subprocess, sys, time
kind = sys.argv[1]
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "server":
    subprocess.Popen([sys.executable, __file__, "parent", sys.argv[2]])
    subprocess.Popen([sys.executable, __file__, "stubborn", sys.argv[2]])
if kind == "parent":
    subprocess.Popen([sys.executable, __file__, "leaf", sys.argv[2]], start_new_session=True)
open(os.path.join(sys.argv[2], kind), "w").write(str(os.getpid()))
time.sleep(600)
"""
PROGRAM = """
import sys
from bench.cli.child_process import run_until_signal
sys.exit(run_until_signal(sys.argv[1:]))
"""


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serves(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200
    except OSError:
        return False


def alive(family):
    return [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def marked(mark):
    """Every process that carries the mark in its environment, orphans of sessions of their own among them."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if one.environ().get("STARTED_BY_A_TEST") == mark:
                found.append(one)
    return found


@contextmanager
def programs(mark):
    """A function that starts programs; in the end neither they nor what comes from them is there."""
    started = []

    def begin(*words, **options):
        env = os.environ | {"HOME": mark, "STARTED_BY_A_TEST": mark}
        started.append(subprocess.Popen([sys.executable, *map(str, words)], text=True, env=env, **options))
        return started[-1]

    try:
        yield begin
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        while family := marked(mark):
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            time.sleep(0.05)
        for process in started:
            process.wait(20)
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def start(tmp_path):
    """Starts a program that does not outlive the test, however it ends."""
    with programs(str(tmp_path)) as begin:
        yield begin


def test_nothing_outlives_a_test_that_fails(tmp_path):
    """Not even the workers of a server whose program was killed before it could end them."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "pids").mkdir()
    words = ["-c", PROGRAM, sys.executable, tmp_path / "server.py", "server", tmp_path / "pids"]
    with pytest.raises(ZeroDivisionError), programs(str(tmp_path)) as begin:
        process = begin(*words)
        wait_for(lambda: len(list((tmp_path / "pids").iterdir())) == 4)
        process.kill()
        process.wait(60)
        assert len(marked(str(tmp_path))) == 4
        raise ZeroDivisionError
    assert not marked(str(tmp_path))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_server_and_all_its_processes(start, tmp_path, number, code):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "pids").mkdir()
    server = [sys.executable, tmp_path / "server.py", "server", tmp_path / "pids"]
    process = start("-c", PROGRAM, *server, stdout=subprocess.DEVNULL)
    kinds = ("server", "parent", "leaf", "stubborn")
    wait_for(
        lambda: all((tmp_path / "pids" / kind).exists() and (tmp_path / "pids" / kind).read_text() for kind in kinds)
    )
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 4
    process.send_signal(number)
    assert process.wait(60) == code
    assert not alive(family)


def test_the_exit_code_of_the_server_is_passed_on():
    words = [sys.executable, "-c", "import sys; sys.exit(3)"]
    assert subprocess.run([sys.executable, "-c", PROGRAM, *words], check=False).returncode == 3


@pytest.mark.slow
def test_bench_ui_ended_by_a_signal_leaves_no_process(start, tmp_path):
    port = free_port()
    process = start("-m", "bench", "ui", "--out", tmp_path / "results", "--port", port, stdout=subprocess.DEVNULL)
    wait_for(lambda: serves(port), 240)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.terminate()
    assert process.wait(60) == 143
    assert not alive(family)


@pytest.fixture
def browser():
    opened = Browser()
    yield opened
    opened.close()


@pytest.mark.slow
@needs_chromium
def test_the_address_leads_to_the_models_of_the_newest_command(start, browser, tmp_path):
    """In a browser: the models of the command by name, with the primary metric of each task, and no other runs.

    With BENCH_PICTURES=docs/images (a path in the checkout) the picture of the page is kept for the docs.
    """
    out, port = tmp_path / "results", free_port()
    size = {"users": 300, "items": 800, "events": 12_000}
    bench.api.run("popularity", "simulated", out=out, data=tmp_path / "data", trivial=False, threads=1, quiet=True)
    names = "popularity,item-knn,seq-knn,matcher,matcher-popularity"
    bench.api.run(
        names,
        "simulated",
        out=out,
        data=tmp_path / "data",
        set={"simulated": size},
        trivial=False,
        threads=1,
        quiet=True,
    )
    process = start("-m", "bench", "ui", "--out", out, "--port", port, stdout=subprocess.PIPE)
    wait_for(lambda: serves(port), 240)
    line = next(line for line in process.stdout if line.startswith("http"))
    # The assistant of MLflow opens once in each browser; this one has seen it.
    browser.open(f"http://127.0.0.1:{port}/", 1300, 620)
    browser.run(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')"
    )
    browser.open(line.split()[0], 1300, 620)
    browser.wait("document.body.innerText.includes('Popularity, seed 0')")
    shown = browser.run("return document.body.innerText")
    for title in (
        "Item-kNN, seed 0",
        "Sequence-kNN, seed 0",
        "Matcher, seed 0",
        "Matcher, then popularity, seed 0",
    ):
        assert title in shown
    assert "5 matching runs" in shown and "rec/N_10" in shown and "search/N_10" in shown
    picture = Path(os.environ.get("BENCH_PICTURES") or tmp_path, "bench-ui.png")
    browser.picture(picture)
    assert picture.stat().st_size > 10_000
