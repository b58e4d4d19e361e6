"""A server as a child of a command that ends with all processes that it has started."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from types import FrameType

import psutil

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]  # SIGHUP is Unix, SIGBREAK is Windows
_PATIENCE = 5.0  # seconds between asking a process to end and ending it


class _EndedError(BaseException):
    """A signal asks this process to end."""


def run_until_signal(words: list[str]) -> int:
    """Run a command line until it ends or this process is asked to; leaves no process behind.

    Args:
        words: the program and its arguments.

    Returns:
        The exit code of the program; 0 after Ctrl-C, 128 + the number of any other signal.
    """
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise _EndedError

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    child = None
    try:
        # A session of its own: Ctrl-C reaches this process only, and the children are found when their parent is gone.
        child = subprocess.Popen(words, start_new_session=True)
        return child.wait()
    except _EndedError:
        print()
        return 0 if received[0] == signal.SIGINT else 128 + received[0]
    finally:
        if child is not None:
            _end_tree(child)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_tree(child: subprocess.Popen) -> None:
    """End a process and all its descendants, also those that are started meanwhile."""
    limit = time.monotonic() + _PATIENCE
    asked: set[psutil.Process] = set()
    while family := _family(child.pid, asked):
        for process in family:
            try:
                if time.monotonic() > limit:
                    process.kill()
                elif process not in asked:
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        asked |= family
        child.poll()
        psutil.wait_procs(list(family), timeout=0.1)


def _family(session: int, known: set[psutil.Process]) -> set[psutil.Process]:
    """Living processes of a session, and the descendants of those that were met before."""
    family = {process for process in known if process.is_running()}
    for process in psutil.process_iter():
        with suppress(OSError):
            if process.pid == session or _session(process.pid) == session:
                family.add(process)
    for process in list(family):
        with suppress(psutil.Error):
            family.update(process.children(recursive=True))
    return {process for process in family if _lives(process)}


def _session(pid: int) -> int | None:
    return os.getsid(pid) if hasattr(os, "getsid") else None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
