"""Batches prepared one ahead in a thread, in the same order with the same bytes."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

_Entry = TypeVar("_Entry")


def prefetched(entries: Iterable[_Entry]) -> Generator[_Entry]:
    """The entries of an iterable, each prepared by a thread while its predecessor is used.

    One entry waits while the thread prepares the next. An exception of the iterable is raised where its entry would
    have come. The thread ends with the iterable, or when the generator is closed or collected; it never outlives it.
    `numpy` and `torch` free the interpreter while they work, so that a training step and the next batch run side by
    side.

    Args:
        entries: read in one thread only, which is not the caller's.
    """
    waiting: queue.Queue[tuple[str, _Entry | BaseException | None]] = queue.Queue(maxsize=1)
    ended = threading.Event()

    def put(kind: str, value: _Entry | BaseException | None) -> bool:
        while not ended.is_set():
            try:
                waiting.put((kind, value), timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for entry in entries:
                if not put("entry", entry):
                    return
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=read, name="bench-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise value  # type: ignore[misc]  # an exception, as the kind says
            if kind == "end":
                return
            yield value  # type: ignore[misc]  # an entry, as the kind says
    finally:
        ended.set()
        thread.join()
