"""The order of the released code, which shuffles once."""

from collections.abc import Iterator
from typing import Any

from bench.ranker.contract import Stream


class FirstPass:
    """A stream whose passes are all the first one."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self.steps_per_pass = stream.steps_per_pass

    def batches(self, start: int, count: int) -> Iterator[Any]:
        """`count` batches from number `start` on."""
        length = self.steps_per_pass
        while count > 0:
            low = start % length
            taken = min(count, length - low)
            yield from self._stream.batches(low, taken)
            start, count = start + taken, count - taken
