"""NRHUB: a user as three views of behaviour, each pooled by attention (Wu et al., EMNLP-IJCNLP 2019); a reconstruction."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.pooling import AdditiveAttention
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
    Window,
)
from bench.ranker.registry import register


class NRHUBConfig(TrainConfig):
    """Settings of the id version by the first author of SESRec (IV4Rec+), which is the closest public code."""

    dim: PositiveInt = 64
    """Width of items, words and views."""
    common: PositiveInt = 200
    """Width of the space in which users and items meet."""
    attention: PositiveInt = 200
    """Width of the attention inside a view; that over views is half as wide."""
    dropout: Fraction = 0.2
    """On the vectors of a view and on the views."""
    loss_type: Literal["bce", "softmax"] = "softmax"
    """Softmax over the clicked item and its negatives as published, or binary cross-entropy as in IV4Rec+."""
    history_rec: PositiveInt = 50
    history_search: PositiveInt = 50
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-6


@register("nrhub", title="NRHUB", tasks=("rec",), group="rec", cite="Wu et al., EMNLP-IJCNLP 2019")
class NRHUB(TorchRanker):
    """Views: recommendation clicks, past queries, items clicked in searches. Score = user . item.

    Each view is pooled by additive attention, w_j = softmax(v . tanh(U x_j)); the views are mapped to a common space by
    tanh(Linear) and pooled by additive attention again. A view without events takes no part. No positions: the order
    inside a view does not count. The current query is never read.

    RECONSTRUCTION: no release was found. Here items are id embeddings and a query is the mean of its words; the paper
    reads news texts with a convolution and word attention, and its third view are web pages.
    """

    Config: ClassVar[type] = NRHUBConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "attention": [64, 100, 200],
        "dropout": [0.0, 0.2],
        "lr": ("loguniform", 1e-4, 3e-3),
        "loss_type": ["bce", "softmax"],
    }
    config: NRHUBConfig
    query_words: Tensor

    def __init__(self, config: NRHUBConfig, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.dim
        self.items = nn.Embedding(catalog.n_items + 1, d, padding_idx=0)
        self.words = nn.Embedding(catalog.n_words + 1, d, padding_idx=0)
        # Queries without words (anonymised logs) still differ by their ids.
        self.queries = nn.Embedding(catalog.n_queries + 1, d, padding_idx=0)
        for table in (self.items, self.words, self.queries):
            nn.init.normal_(table.weight, std=d**-0.5)
            with torch.no_grad():
                table.weight[0] = 0
        self.register_buffer("query_words", catalog.query_words, persistent=False)
        self.inside = nn.ModuleList(AdditiveAttention(d, config.attention) for _ in range(3))
        self.to_common = nn.ModuleList(nn.Linear(d, config.common) for _ in range(3))
        self.across = AdditiveAttention(config.common, max(1, config.attention // 2))
        self.item_to_common = nn.Linear(d, config.common)
        self.dropout = nn.Dropout(config.dropout)

    def query_vectors(self, queries: Tensor) -> Tensor:
        """Query ids (...) -> (..., d): the mean of the words, or the id's own row where a query has none."""
        words = self.query_words[queries]  # (..., W)
        real = words > 0
        mean = self.words(words).sum(-2) / real.sum(-1, keepdim=True).clamp(min=1)
        return torch.where(real.any(-1, keepdim=True), mean, self.queries(queries))

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, common) the user; 0 without any behaviour."""
        clicks, clicked = batch.search_items.flatten(1), batch.search_click_mask.flatten(1)  # (B, Ls * Cs)
        views = (
            (self.items(batch.rec_items), batch.rec_mask),
            (self.query_vectors(batch.search_query), batch.search_mask),
            (self.items(clicks), clicked),
        )
        pooled, real = [], []
        for (vectors, mask), inside, to_common in zip(views, self.inside, self.to_common, strict=True):
            pooled.append(torch.tanh(to_common(inside(self.dropout(vectors), mask))))
            real.append(mask.any(1))
        return self.across(self.dropout(torch.stack(pooled, 1)), torch.stack(real, 1))

    def item_vectors(self) -> Tensor:
        """(n_items + 1, common)."""
        return torch.tanh(self.item_to_common(self.items.weight))

    def _scores(self, batch: Batch, cand: Tensor) -> Tensor:
        items = torch.tanh(self.item_to_common(self.items(cand)))  # (B, K, common)
        return torch.einsum("bd,bkd->bk", self.row_vectors(batch), items)

    def score(self, batch: Batch) -> Tensor:
        """(B, K) products of user and items."""
        return self._scores(batch, batch.cand)

    def loss(self, batch: Batch) -> Tensor:
        """Fresh values: about ln(1 + negatives) for the softmax, ln 2 for the binary loss."""
        assert batch.item is not None and batch.negatives is not None
        scores = self._scores(batch, torch.cat([batch.item[:, None], batch.negatives], 1))  # (B, 1 + N)
        if self.config.loss_type == "softmax":
            return -scores.log_softmax(1)[:, 0].mean()
        labels = torch.zeros_like(scores)
        labels[:, 0] = 1
        return F.binary_cross_entropy_with_logits(scores, labels)
