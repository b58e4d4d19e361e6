"""`bench ui`: what it starts, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "bench", "ui", "--out", str(tmp_path / "results"), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(tmp_path)})

    def answers():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status == 200
        except OSError:
            return False

    wait_for(answers, 240)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.terminate()
    assert process.wait(60) == 143
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
