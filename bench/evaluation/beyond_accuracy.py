"""Measures of the lists themselves, whether the clicked item is in them or not.

On candidates that are drawn, most of the catalogue never is a candidate of a row, and these measures say more about the
draw than about the model. Between models on the same candidates they can be compared; as properties of a
recommender they are to be read on the full catalogue.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import RunError
from bench.evaluation.top_lists import TopLists


@dataclass(frozen=True)
class BeyondAccuracy:
    """Measures of one model's lists.

    Attributes:
        coverage: share of the catalogue that stands in at least one list.
        gini: Gini coefficient of how often each item of the catalogue is listed; 0 = all alike, near 1 = few items.
        popularity: mean number of training events of a listed item.
        novelty: mean self-information of a listed item in bits, log2((E + N) / (e + 1)) for an item with e of all E
            training events in a catalogue of N (Zhou et al., PNAS 2010, with one added to each count, so that an
            item without training events has a finite value).
    """

    coverage: float
    gini: float
    popularity: float
    novelty: float


def beyond_accuracy(items: NDArray[np.integer], training_events: NDArray[np.integer]) -> BeyondAccuracy:
    """The measures of lists.

    Args:
        items: (n, k) item ids from 1, 0 where a list is shorter.
        training_events: (N + 1,) events of each item in the training part; entry 0 is padding.

    Raises:
        RunError: there is no item in the lists.
    """
    listed = items[items > 0]
    if not len(listed):
        raise RunError("the lists are empty")
    n_items = len(training_events) - 1
    counts = np.bincount(listed, minlength=n_items + 1)[1:]
    events = training_events[1:].astype(np.float64)
    bits = np.log2((events.sum() + n_items) / (events + 1))
    return BeyondAccuracy(
        coverage=float((counts > 0).mean()),
        gini=gini(counts),
        popularity=float(events[listed - 1].mean()),
        novelty=float(bits[listed - 1].mean()),
    )


def gini(counts: NDArray[np.integer]) -> float:
    """Gini coefficient of non-negative counts, (n,): half the mean absolute difference of two of them over their mean."""
    ordered = np.sort(counts).astype(np.float64)
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def agreement(a: TopLists, b: TopLists) -> float:
    """Mean share of a row's list that two models have in common, from 0 (nothing) to 1 (the same items in any order).

    Raises:
        RunError: the lists are of different rows.
    """
    if not (np.array_equal(a.event_id, b.event_id) and np.array_equal(a.task, b.task)):
        raise RunError("the lists of two models are of different rows; rank both on the same candidates")
    common = np.zeros(len(a))
    for column in a.items.T:
        common += ((b.items == column[:, None]) & (column[:, None] > 0)).any(1)
    longest = np.maximum((a.items > 0).sum(1), (b.items > 0).sum(1))
    return float((common / np.maximum(longest, 1)).mean())
