"""Neighbours in the order of events: without any learning the row that sequential models have to beat."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.baselines.counting import ClosedForm, PairTable
from bench.baselines.matcher import Match
from bench.ranker.contract import (
    Batch,
    Config,
    Context,
    Field,
    PositiveInt,
    TrainData,
    Window,
)
from bench.ranker.registry import register


class SeqKNNConfig(Config):
    """How far back the history votes, and how far apart neighbours are."""

    last: Annotated[PositiveInt, Field(le=1000)] = 5
    """Units at the end of the history that vote."""
    reach: PositiveInt = 10
    """Positions in a training sequence that count as neighbours."""


@register("seq-knn", title="Sequence-kNN", tasks=("rec", "search"), group="trivial")
class SeqKNN(ClosedForm):
    """Score of c = sum over the last `last` units of the history of n(h, c) / sqrt(n(h) n(c)).

    n(h, c) counts the pairs of training events of h and c of the same user, at most `reach` positions apart in his
    sequence of both tasks and in either order; n(c) is the number of training events of c. No item is its own
    neighbour. A past search votes with its first clicked item.
    """

    Config = SeqKNNConfig
    search_space: ClassVar[dict[str, Any]] = {"last": [1, 3, 5, 10, 20], "reach": [3, 5, 10, 20]}
    config: SeqKNNConfig

    @property
    def window(self) -> Window:
        """The last `last` clicks and searches."""
        return Window(rec=self.config.last, search=self.config.last)

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Similarities of item pairs; see `neighbours`."""
        events = train.arrays()
        return neighbours(events["user"], events["item"], self.config.reach, self.catalog.n_items)

    def score(self, batch: Batch) -> Tensor:
        """(B, K) sums of similarities, 0 for an empty history."""
        return votes(self.learnt, batch, self.config.last, self.catalog.n_items)


@register("matcher-seq-knn", title="Matcher, then sequence-kNN", tasks=("search",), group="trivial")
class MatcherSeqKNN(SeqKNN):
    """Lexicographic: the better match of query and item first (see `Match`); among equal matches sequence-kNN."""

    uses_query: ClassVar[bool] = True

    def __init__(self, config: Config, context: Context):
        super().__init__(config, context)
        self.match = Match(context.catalog, context.device)

    def evidence(self) -> dict[str, Any]:
        """What a match is on this log."""
        return {"match": self.match.meaning}

    def score(self, batch: Batch) -> Tensor:
        """(B, K): votes squeezed into [0, 1) plus the level of the match, which is 0 for a complete one.

        With the complete match at 0 the items that matter keep the full precision of float32.
        """
        scores = super().score(batch)
        return scores / (1 + scores) + (self.match.level(batch) - self.match.best(batch))


def neighbours(user: np.ndarray, item: np.ndarray, reach: int, n_items: int) -> dict[str, Tensor]:
    """Similarities of item pairs from events sorted by user and time: the state of `votes`."""
    width = n_items + 1
    keys, counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for distance in range(1, reach + 1):
        left, right = item[:-distance].astype(np.int64), item[distance:].astype(np.int64)
        near = (user[:-distance] == user[distance:]) & (left != right)
        # A pair in either order is one key; merging each distance into the counts bounds the memory.
        pairs = np.minimum(left, right)[near] * width + np.maximum(left, right)[near]
        fresh, times = np.unique(pairs, return_counts=True)
        keys, inverse = np.unique(np.concatenate([keys, fresh]), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate([counts, times]), minlength=len(keys)).astype(np.int64)
    events = np.bincount(item, minlength=width).astype(np.float64)
    values = counts / np.sqrt(events[keys // width] * events[keys % width])
    return PairTable(torch.from_numpy(keys), torch.from_numpy(values.astype(np.float32)), width).state("neighbours")


def votes(state: dict[str, Tensor], batch: Batch, last: int, n_items: int) -> Tensor:
    """(B, K) sum of the similarities of each candidate with the last `last` units of the history."""
    table = PairTable.of(state, "neighbours", n_items + 1)
    items = batch.merged(last).items
    score = torch.zeros(batch.cand.shape, device=batch.cand.device)
    for column in range(last):
        past = items[:, column, None]
        score += table.lookup(torch.minimum(past, batch.cand), torch.maximum(past, batch.cand))
    return score
