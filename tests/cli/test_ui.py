"""`bench ui`: what it starts, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_server_and_all_its_processes(tmp_path, number, code):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "pids").mkdir()
    server = [sys.executable, str(tmp_path / "server.py"), "server", str(tmp_path / "pids")]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *server], stdout=subprocess.DEVNULL)
    kinds = ("server", "parent", "leaf", "stubborn")
    wait_for(
        lambda: all((tmp_path / "pids" / kind).exists() and (tmp_path / "pids" / kind).read_text() for kind in kinds)
    )
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 4
    process.send_signal(number)
    assert process.wait(60) == code
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_the_exit_code_of_the_server_is_passed_on():
    words = [sys.executable, "-c", "import sys; sys.exit(3)"]
    assert subprocess.run([sys.executable, "-c", PROGRAM, *words], check=False).returncode == 3


@pytest.mark.slow
def test_bench_ui_ended_by_a_signal_leaves_no_process(tmp_path):
    port = free_port()
    words = [sys.executable, "-m", "bench", "ui", "--out", str(tmp_path / "results"), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)})
    wait_for(lambda: serves(port), 240)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.terminate()
    assert process.wait(60) == 143
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@needs_chromium
def test_the_address_leads_to_the_models_of_the_newest_command(tmp_path):
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
    words = [sys.executable, "-m", "bench", "ui", "--out", str(out), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)})
    browser = Browser()
    try:
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
    finally:
        browser.close()
        process.terminate()
        process.wait(60)
