"""Background preparation of batches: same entries, errors where they belong, no thread left."""

import threading

import pytest
import torch

from bench.data.batch import Batches
from bench.data.history import Window
from bench.data.prefetch import prefetched
from bench.data.split import split
from bench.data.training import TrainData


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bench-prefetch"]


def test_batches_have_the_same_bytes(make_log):
    data = TrainData(Batches(split(make_log(n_users=20))), ("rec", "search"), 0)
    stream = data.events(8, negatives=3, window=Window(4, 4))
    for plain, ahead in zip(stream.batches(1, 20), prefetched(stream.batches(1, 20)), strict=True):
        for name, value in vars(plain).items():
            assert torch.equal(value, getattr(ahead, name)), name
    assert not threads()


def test_one_entry_is_prepared_ahead():
    made, second = [], threading.Event()

    def entries():
        for number in range(10):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    reader = prefetched(entries())
    assert next(reader) == 0
    assert second.wait(5), "the second entry is made while the first is used"
    reader.close()
    # The first, one that waits, and one in the hand of the thread.
    assert len(made) <= 3 and not threads()


def test_an_exception_comes_where_its_entry_would_have():
    def entries():
        yield 1
        raise KeyError("broken")

    reader = prefetched(entries())
    assert next(reader) == 1
    with pytest.raises(KeyError, match="broken"):
        next(reader)
    assert not threads()


def test_a_caller_that_fails_leaves_no_thread():
    def consume():
        for number in prefetched(iter(range(100))):
            if number == 3:
                raise RuntimeError("step failed")

    with pytest.raises(RuntimeError, match="step failed"):
        consume()
    # The generator is collected with the frame of `consume`; the exception held by pytest keeps it no longer.
    assert not threads()


def test_nothing_to_read():
    assert list(prefetched([])) == [] and not threads()
