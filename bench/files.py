"""Files and folders that are there complete or not at all, and locks between processes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.messages import reason

REMEDY = "free space or choose another folder"


def write_atomically(path: Path, write: Callable[[Path], Any], remedy: str = REMEDY) -> None:
    """Write a file beside `path` and move it there when it is complete, so that no reader and no kill sees half of it.

    Args:
        path: the file; its folder is made.
        write: writes the file at the scratch path that it gets.
        remedy: what the user can do, for the message.

    Raises:
        RunError: the disk is full, the place read-only.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        os.replace(scratch, path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {reason(error)}; {remedy}") from error


@contextmanager
def atomic_folder(folder: Path, what: str) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` when the block ends well, and is removed when it does not.

    Args:
        folder: where the finished folder stands.
        what: for the message, "the prepared log".

    Raises:
        RunError: the disk is full, the place read-only.
    """
    scratch = old = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        old = scratch.with_name(f"{scratch.name}-old")
        yield scratch
        scratch.chmod(0o755)
        # Moved away first: there is no moment with half a folder, and who has mapped its files keeps them.
        with suppress(FileNotFoundError):
            os.replace(folder, old)
        os.replace(scratch, folder)
    except OSError as error:
        if old is not None and old.exists() and not folder.exists():
            os.replace(old, folder)
        raise RunError(f"cannot write {what} to {folder}: {reason(error)}") from error
    finally:
        for leftover in (scratch, old):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def exclusive_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold the making of a folder against other processes, and sweep away what a killed one left behind.

    The lock goes with its process, however that ends, so whoever holds it knows every scratch folder to be dead.

    Raises:
        RunError: the place is read-only.
    """
    # Apart from what it guards: a preparation that fails leaves its folder as it was.
    with exclusive(folder.parent.parent / ".locks" / f"{folder.name}.lock", f"making {folder}", what):
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def exclusive(path: Path, doing: str, what: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock file; a second process waits, also one on another machine that shares the folder.

    Args:
        path: the lock file; its folder is made.
        doing: what the other process does, for the log: "making FOLDER".
        what: what cannot be written, for the message.
        waiting: is called once with a line for the user before a wait; what it raises takes the place of the wait.
            By default the line goes to the log.

    Raises:
        RunError: the place is read-only, or its file system has no locks.
    """
    import logging

    import filelock

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting is None:
                logging.getLogger(__name__).warning("another process is %s; waiting for it", doing)
            else:
                waiting(f"another process is {doing}")
            lock.acquire()
    except NotImplementedError as error:
        raise RunError(f"the file system of {path.parent} has no file locks; choose a folder on another one") from error
    except OSError as error:
        raise RunError(f"cannot write {what} to {path.parent}: {reason(error)}") from error
    try:
        yield
    finally:
        lock.release()
