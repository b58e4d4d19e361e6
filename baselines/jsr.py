"""JSR: two towers that share their items (Zamani and Croft, DESIRES 2018); a reconstruction."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
    Window,
)
from bench.ranker.registry import register


class JSRConfig(TrainConfig):
    """Sizes are not published for the benchmark's data; the width and dropout are those of the search space."""

    dim: PositiveInt = 64
    """Width of users, items and words."""
    layers: PositiveInt = 1
    """Hidden layers of each task's network on the product of its two sides."""
    dropout: Fraction = 0.1
    """Inside the networks."""
    search_weight: NonNegativeFloat = 1.0
    """Weight of the search loss beside the recommendation loss."""
    item_text: bool = True
    """Whether an item is its words beside its id, by the operator that reads queries."""
    batch_size: PositiveInt = 512


class TermImportance(nn.Module):
    """Words to one vector: sum_j softmax_j(omega(w_j)) E(w_j), with one learned importance per word."""

    def __init__(self, n_words: int, dim: int):
        super().__init__()
        self.vectors = nn.Embedding(n_words + 1, dim, padding_idx=0)
        self.importance = nn.Embedding(n_words + 1, 1)
        nn.init.normal_(self.vectors.weight, std=dim**-0.5)
        nn.init.zeros_(self.importance.weight)

    def forward(self, words: Tensor) -> Tensor:
        """Word ids (..., W), 0 = padding -> (..., d); zero without words."""
        real = words > 0
        weights = self.importance(words).squeeze(-1).masked_fill(~real, -1e16).softmax(-1) * real  # (..., W)
        return (weights[..., None] * self.vectors(words)).sum(-2)


@register("jsr", title="JSR", tasks=("rec", "search"), group="unified", cite="Zamani and Croft, DESIRES 2018")
class JSR(TorchRanker):
    """Search: f(q, i) = psi_S(phi_Q(q) * phi_I(i)); recommendation: g(u, i) = psi_R(phi_U(u) * phi_I(i)).

    phi_Q weighs words by a learned global importance; phi_I is the item's id and, by the same operator, its words; phi_U
    is the user's id; psi is a feed-forward network per task on the elementwise product. The user does not enter search
    and no history enters either, so all that the tasks share is the items. Loss: -log sigma(s+ - s-) per task, added up.

    RECONSTRUCTION: neither code nor the full text of the paper was at hand; sizes, the number of layers and the sum of
    id and words are ours. The published model of 2020 with the same name is another one (a language model over items).
    """

    Config: ClassVar[type] = JSRConfig
    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False
    uses_user: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "dim": [32, 64, 128],
        "layers": [1, 2, 3],
        "dropout": [0.0, 0.1, 0.3],
        "lr": ("loguniform", 1e-4, 5e-3),
        "search_weight": [0.1, 0.5, 1.0],
    }
    config: JSRConfig
    item_words: Tensor
    query_words: Tensor

    def __init__(self, config: JSRConfig, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.dim
        self.users = nn.Embedding(catalog.n_users + 1, d)
        self.items = nn.Embedding(catalog.n_items + 1, d, padding_idx=0)
        nn.init.normal_(self.users.weight, std=d**-0.5)
        nn.init.normal_(self.items.weight, std=d**-0.5)
        self.text = TermImportance(catalog.n_words, d)
        self.register_buffer("item_words", catalog.item_words, persistent=False)
        self.register_buffer("query_words", catalog.query_words, persistent=False)
        self.towers = nn.ModuleDict({task: _network(d, config.layers, config.dropout) for task in context.tasks})

    @property
    def window(self) -> Window:
        """No history."""
        return Window(rec=0, search=0)

    def item(self, ids: Tensor) -> Tensor:
        """Item ids (...) -> (..., d)."""
        vectors = self.items(ids)
        return vectors + self.text(self.item_words[ids]) if self.config.item_text else vectors

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, d) user or query of each row, and (B,) its task."""
        search = (batch.task == 1)[:, None]
        return torch.where(search, self.text(self.query_words[batch.query]), self.users(batch.user)), batch.task

    def score_items(self, encoded: tuple[Tensor, Tensor], cand: Tensor) -> Tensor:
        """(B, K) outputs of the task's network."""
        side, task = encoded
        product = side[:, None] * self.item(cand)  # (B, K, d)
        scores = product.new_zeros(cand.shape)
        for code, name in enumerate(("rec", "search")):
            rows = task == code
            if name in self.towers and rows.any():
                scores[rows] = self.towers[name](product[rows]).squeeze(-1)
        return scores

    def score(self, batch: Batch) -> Tensor:
        """(B, K)."""
        return self.score_items(self.encode(batch), batch.cand)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Pairwise cross-entropy per task, averaged over its rows and negatives; fresh value ln 2."""
        assert batch.item is not None and batch.negatives is not None
        scores = self.score_items(self.encode(batch), torch.cat([batch.item[:, None], batch.negatives], 1))
        each = F.softplus(scores[:, 1:] - scores[:, :1]).mean(1)  # (B,)
        parts, total = {}, each.sum() * 0
        for code, name in enumerate(("rec", "search")):
            rows = batch.task == code
            if rows.any():
                parts[name] = each[rows].mean()
                alone = len(self.context.tasks) == 1
                total = total + parts[name] * (self.config.search_weight if name == "search" and not alone else 1.0)
        return total, parts


def _network(dim: int, layers: int, dropout: float) -> nn.Sequential:
    hidden = [module for _ in range(layers) for module in (nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*hidden, nn.Linear(dim, 1))
