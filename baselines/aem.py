"""AEM and the attention that ZAM shares with it (Ai et al., CIKM 2019)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.ranker.blocks.product_search import PersonalisedSearch, ProductSearchConfig
from bench.ranker.contract import Batch, Context, PositiveInt
from bench.ranker.registry import register


class AEMConfig(ProductSearchConfig):
    """The family's settings and the number of attention heads; the paper gives none, public code has 3, 5 and 8."""

    heads: PositiveInt = 3
    """beta of the paper: columns of the query's projection that the history is compared with."""


class AttentiveSearch(PersonalisedSearch):
    """Base of AEM and ZAM: intent = phi(q) + sum over earlier clicks of a_j E[h_j].

    f(q, j) = (E[h_j]^T tanh(Wf phi(q) + bf)) . Wh without an additive constant (section 3.3): a constant would move
    ZAM's threshold. Past clicks and candidates share the table E.
    """

    def __init__(self, config: Any, context: Context):
        super().__init__(config, context)
        self.projection = nn.Linear(config.dim, config.dim * config.heads)
        # Xavier: the unit normal of public code saturates the softmax.
        self.head_weights = nn.Parameter(torch.empty(config.heads, 1))
        nn.init.xavier_normal_(self.head_weights)

    def attention(self, query: Tensor, items: Tensor, real: Tensor) -> Tensor:
        """(B, L) logits f of past items (B, L, d) under encoded queries (B, d); -inf where not `real` (B, L)."""
        keys = torch.tanh(self.projection(query)).view(len(query), self.config.dim, self.config.heads)  # (B, d, heads)
        logits = (torch.einsum("bld,bdh->blh", items, keys) @ self.head_weights).squeeze(-1)  # (B, L)
        return logits.masked_fill(~real, -torch.inf)

    def weights(self, logits: Tensor) -> Tensor:
        """(B, L) weights of the past clicks from their logits; rows without any are all 0."""
        raise NotImplementedError

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) phi(q) + u(q); phi(q) alone for a row without history."""
        query = self.query_encoder(batch.query)  # (B, d)
        ids, real = self.past_items(batch)
        items = self.items(ids)  # (B, L, d)
        weights = self.weights(self.attention(query, items, real))
        return query + torch.einsum("bl,bld->bd", weights, items)


@register("aem", title="AEM", tasks=("search",), group="search", cite="Ai et al., CIKM 2019")
class AEM(AttentiveSearch):
    """a_j = softmax over the real past clicks: all of them together always weigh 1, whatever the query.

    Loss as QEM's. Deviations as QEM's; the paper's history is the user's purchases, here the earlier clicks of both
    tasks or of searches (`history`).
    """

    Config: ClassVar[type] = AEMConfig
    search_space: ClassVar[dict[str, Any]] = PersonalisedSearch.search_space | {
        "heads": [1, 3, 5],
        "history_length": [10, 20, 30],
    }

    def weights(self, logits: Tensor) -> Tensor:
        """(B, L) softmax over the real clicks."""
        real = logits > -torch.inf
        # A row of -inf alone would be NaN.
        return torch.softmax(torch.where(real.any(1, keepdim=True), logits, 0.0), 1) * real
