"""What was clicked under this query before: the strongest memory without a person on closed query sets."""

from typing import ClassVar

from torch import Tensor

from bench.baselines.counting import ClosedForm, PairTable, item_counts, tie_breaks
from bench.ranker.contract import Batch, TrainData, Window
from bench.ranker.registry import register


@register("query-popularity", title="Query popularity", tasks=("search",), group="trivial")
class QueryPopularity(ClosedForm):
    """Score = training clicks of the item under the query; popularity (both tasks) orders equal counts."""

    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    @property
    def window(self) -> Window:
        """None is read."""
        return Window(rec=0, search=0)

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Table `clicks` of (query, item), and `popularity` (n_items + 1,) as ranks in [0, 1)."""
        searches = train.arrays("search")
        clicks = PairTable.count(searches["query"], searches["item"], self.catalog.n_items + 1)
        return {"popularity": tie_breaks(item_counts(train, self.catalog.n_items)), **clicks.state("clicks")}

    def score(self, batch: Batch) -> Tensor:
        """(B, K): clicks plus popularity in [0, 1)."""
        clicks = PairTable.of(self.learnt, "clicks", self.catalog.n_items + 1)
        return clicks.lookup(batch.query[:, None], batch.cand) + self.learnt["popularity"][batch.cand]
