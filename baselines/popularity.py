"""Popularity: the same list for everybody."""

from typing import ClassVar

from torch import Tensor

from bench.baselines.counting import ClosedForm, item_counts
from bench.ranker.contract import Batch, TrainData, Window
from bench.ranker.registry import register


@register("popularity", title="Popularity", tasks=("rec", "search"), group="trivial")
class Popularity(ClosedForm):
    """Score = number of training events of the item, both tasks together. A model below it has a fault."""

    uses_history: ClassVar[bool] = False

    @property
    def window(self) -> Window:
        """None is read."""
        return Window(rec=0, search=0)

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """`count` (n_items + 1,): training events of each item."""
        return {"count": item_counts(train, self.catalog.n_items)}

    def score(self, batch: Batch) -> Tensor:
        """(B, K) counts, the same for every row."""
        return self.learnt["count"][batch.cand]
