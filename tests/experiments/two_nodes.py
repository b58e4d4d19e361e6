"""A Ray cluster of two nodes on one machine: a head and a worker, each with processes of its own, on loopback."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_OPEN_TELEMETRY": "0", "RAY_worker_niceness": "0"}


@dataclass
class TwoNodes:
    """The address, and the processes of each node."""

    address: str
    head: subprocess.Popen
    worker: subprocess.Popen

    def kill_worker(self) -> None:
        """The worker node is lost: all of its own processes at once."""
        _kill(self.worker)


@contextmanager
def two_nodes(env: dict[str, str], worker_env: dict[str, str] | None = None) -> Iterator[TwoNodes]:
    """Start both nodes with one CPU each in an environment; nothing is left of them afterwards.

    Args:
        env: of both nodes.
        worker_env: what differs on the worker.
    """
    # Short, for the paths of sockets may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = worker = None
    try:
        head = _start(env, "--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
        _wait_for(port)
        worker = _start(env | (worker_env or {}), f"--address=127.0.0.1:{port}")
        _wait_for_both(env, f"127.0.0.1:{port}")
        yield TwoNodes(f"127.0.0.1:{port}", head, worker)
    finally:
        for node in (worker, head):
            if node is not None:
                _kill(node)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_both(env: dict[str, str], address: str) -> None:
    """What a command asks of the nodes when it starts, it asks of those that have joined."""
    program = (
        "import sys, time, ray\n"
        "ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)\n"
        "while sum(node['Alive'] for node in ray.nodes()) < 2: time.sleep(0.2)\n"
    )
    command = [sys.executable, "-c", program, address]
    subprocess.run(command, env=env | _QUIET, capture_output=True, timeout=120, check=True)


def _start(env: dict[str, str], *words: str) -> subprocess.Popen:
    ray = Path(sys.executable).with_name("ray")
    program = [str(ray)] if ray.exists() else [sys.executable, "-m", "ray.scripts.scripts"]
    common = ["--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1", "--block"]
    return subprocess.Popen(
        [*program, "start", *words, *common],
        env=env | _QUIET,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the head node does not answer")


def _kill(node: subprocess.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(node.pid)
        family = [own, *own.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=20)
    node.wait(20)
