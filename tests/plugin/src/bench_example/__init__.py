"""A recommender outside of bench: items that the same users clicked shortly after the row's last click."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.ranker.contract import Batch, Config, Context, Ranker, TrainData, Validation
from bench.ranker.registry import register


@register("recency", title="Next-item counts", tasks=("rec",), group="rec")
class Recency(Ranker):
    """Score = how often the candidate followed the last clicked item in training, plus a little for its popularity."""

    def __init__(self, config: Config, context: Context):
        super().__init__(config, context)
        n = self.catalog.n_items + 1
        self.follows = torch.zeros(n, n)

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        rows = train.arrays("rec")
        same = rows["user"][1:] == rows["user"][:-1]
        np.add.at(self.follows.numpy(), (rows["item"][:-1][same], rows["item"][1:][same]), 1)
        return {"epochs": 1, "converged": True} | valid.evaluate(self.score)

    def score(self, batch: Batch) -> Tensor:
        last = batch.rec_items.gather(1, (batch.rec_len - 1).clamp(min=0)[:, None])
        known = (batch.rec_len > 0).float()[:, None]
        return self.follows[last, batch.cand] * known + 1e-3 * self.follows.sum(0)[batch.cand]

    def state(self) -> dict[str, Tensor]:
        return {"follows": self.follows}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.follows = state["follows"]
