"""The alarm for leaks: is the candidate in the input?"""

import torch
from torch import Tensor

from bench.baselines.counting import ClosedForm, past_items
from bench.ranker.contract import Batch, TrainData, Window
from bench.ranker.registry import register


@register("copy-detector", title="Copy detector", tasks=("rec", "search"), group="trivial")
class CopyDetector(ClosedForm):
    """Score = 1 if the candidate occurs in the whole history that models may read, of either behaviour, else 0.

    Negatives are items that the user never touched, so above chance (R@5 = .05 with 100 candidates) the positive
    itself stands in its own input. Every model that reads histories would then be measured by how well it copies.
    """

    @property
    def window(self) -> Window:
        """The whole history."""
        return Window(rec=None, search=None)

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Nothing: the history says it all."""
        return {}

    def score(self, batch: Batch) -> Tensor:
        """(B, K) of 0 and 1."""
        past = past_items(batch)
        # (row, item) as one number: a comparison of all candidates with all of a long history would not fit in memory.
        row = torch.arange(len(batch), device=past.device)[:, None] * (self.catalog.n_items + 1)
        return torch.isin(row + batch.cand, (row + past)[past > 0]).float()
