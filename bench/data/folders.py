"""Folders that are there complete or not at all, made by one process at a time."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import RunError


@contextmanager
def made(folder: Path, what: str) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` when the block ends well, and is removed when it does not.

    Args:
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
        raise RunError(f"cannot write {what} to {folder}: {error.strerror or error}") from error
    finally:
        for leftover in (scratch, old):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Hold the making of a folder against other processes, and sweep away what a killed one left behind.

    The lock goes with its process, however that ends, so whoever holds it knows every scratch folder to be dead.

    Raises:
        RunError: the place is read-only.
    """
    import filelock

    # Apart from what it guards: a preparation that fails leaves its folder as it was.
    locks = folder.parent.parent / ".locks"
    lock = filelock.FileLock(locks / f"{folder.name}.lock")
    try:
        locks.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logging.getLogger(__name__).warning("another process is making %s; waiting for it", folder)
            lock.acquire()
    except OSError as error:
        raise RunError(f"cannot write {what} to {folder}: {error.strerror or error}") from error
    try:
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        lock.release()
