"""AEM: attention of the query over the user's earlier clicks (Ai et al., CIKM 2019)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.ranker.blocks.product_search import AttentiveSearch, ProductSearchConfig
from bench.ranker.contract import PositiveInt
from bench.ranker.registry import register


class AEMConfig(ProductSearchConfig):
    """The family's settings and the number of attention heads; the paper gives none, public code has 3, 5 and 8."""

    heads: PositiveInt = 3
    """beta of the paper: columns of the query's projection that the history is compared with."""


@register("aem", title="AEM", tasks=("search",), group="search", cite="Ai et al., CIKM 2019")
class AEM(AttentiveSearch):
    """a_j = softmax over the real past clicks: all of them together always weigh 1, whatever the query.

    Loss as QEM's. Deviations as QEM's; the paper's history is the user's purchases, here the earlier clicks of both
    tasks or of searches (`history`).
    """

    Config = AEMConfig
    search_space: ClassVar[dict[str, Any]] = AttentiveSearch.search_space | {
        "heads": [1, 3, 5],
        "history_length": [10, 20, 30],
    }

    def weights(self, logits: Tensor) -> Tensor:
        """(B, L) softmax over the real clicks."""
        real = logits > -torch.inf
        # A row of -inf alone would be NaN.
        return torch.softmax(torch.where(real.any(1, keepdim=True), logits, 0.0), 1) * real
