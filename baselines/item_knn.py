"""Neighbours by co-occurrence in users' training events."""

import numpy as np
import torch
from torch import Tensor

from bench.baselines.counting import ClosedForm, past_items
from bench.data.ragged import Ragged
from bench.ranker.contract import Batch, TrainData, Window
from bench.ranker.registry import register

# Entries of the (rows, users) matrix that is held at a time.
_CELLS = 50_000_000


@register("item-knn", title="Item-kNN", tasks=("rec", "search"), group="trivial", cite="Sarwar et al., WWW 2001")
class ItemKNN(ClosedForm):
    """Score of c = sum over the items h of the whole history of n(h, c) / sqrt(n(h) n(c)).

    n(c) is the number of users with a training event (of either task) of c, n(h, c) of those with one of both; no
    item is its own neighbour. The n_items x n_items matrix is never built: the sum over the history is a weight for
    every user, and a candidate adds up the weights of its users.
    """

    @property
    def window(self) -> Window:
        """The whole history."""
        return Window(rec=None, search=None)

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """The users of each item: `users` one item after the other, `offsets` (n_items + 2,)."""
        events = train.arrays()
        width = self.catalog.n_users + 1
        pair = np.unique(events["item"].astype(np.int64) * width + events["user"])
        users = Ragged.from_pairs(pair // width, pair % width, self.catalog.n_items + 1)
        return {"offsets": torch.from_numpy(users.offsets), "users": torch.from_numpy(users.values)}

    def score(self, batch: Batch) -> Tensor:
        """(B, K) sums of similarities, 0 for an empty history."""
        step = max(1, _CELLS // (self.catalog.n_users + 1))
        pieces = torch.arange(len(batch), device=batch.cand.device).split(step)
        return torch.cat([self._score(batch.take(rows)) for rows in pieces])

    def _score(self, batch: Batch) -> Tensor:
        past = past_items(batch)
        n_users = self.catalog.n_users + 1
        scale = self.learnt["offsets"].diff().clamp(min=1).float().rsqrt()
        row, column = past.nonzero(as_tuple=True)
        items = past[row, column]
        owner, users = self._users(items)
        weights = torch.zeros(len(batch) * n_users, device=past.device)
        weights.index_add_(0, row[owner] * n_users + users, scale[items][owner])
        cand = batch.cand.flatten()
        owner, users = self._users(cand)
        of_row = owner // batch.cand.shape[1]
        total = torch.zeros(len(cand), device=past.device).index_add_(0, owner, weights[of_row * n_users + users])
        # Each occurrence of the candidate itself in the history put n(c) / n(c) = 1 into the sum.
        own = torch.zeros((len(batch), self.catalog.n_items + 1), device=past.device)
        own.index_put_((row, items), (self.learnt["offsets"].diff()[items] > 0).float(), accumulate=True)
        return (total * scale[cand]).view(batch.cand.shape) - own.gather(1, batch.cand)

    def _users(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Users of all the items one after the other: (total,) place of the item in `items`, and (total,) user."""
        start, count = self.learnt["offsets"][items], self.learnt["offsets"].diff()[items]
        owner = torch.repeat_interleave(torch.arange(len(items), device=items.device), count)
        inner = torch.arange(len(owner), device=items.device) - (count.cumsum(0) - count)[owner]
        return owner, self.learnt["users"][start[owner] + inner]
