"""CoPPS (re-implementation): TEM over queries and clicks, with contrast of augmented histories (Dai et al., KDD 2023).

No code is public. Beyond the abstract (three strategies of augmentation and contrast over user sequences in product
search, with an external knowledge graph) everything here is reconstruction.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines.tem import TEM, TEMConfig
from bench.data.catalog import Catalog
from bench.data.merged import Clicks
from bench.data.ragged import Ragged
from bench.ranker.blocks.contrast import view_contrast
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Stage,
    TrainData,
)
from bench.ranker.registry import register

MASK, REORDER, REPLACE, DELETE = range(4)
_ATTEMPTS = 4  # draws of a replacement before the item stays


class CoPPSConfig(TEMConfig):
    """TEM's settings at half the width, and those of the contrast; none is published, see each."""

    dim: PositiveInt = 64
    """Width of words, items and the Transformer; even."""
    heads: PositiveInt = 4
    """Heads of a layer; they divide `dim`."""
    hidden: PositiveInt = 256
    """Width of a layer's network."""
    batch_size: PositiveInt = 256
    """Rows of a training batch."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam, in both stages."""
    past_queries: bool = True
    """Whether the query of a past search stands before its click; without, the sequence is TEM's."""
    # .2 in a third party's run. There the histories of a log in which they mean nothing cost more, and ML-100K gains less.
    contrast_weight: NonNegativeFloat = 0.05
    """Weight of the contrast beside the ranking loss."""
    temperature: PositiveFloat = 0.1
    """Divisor of the cosine similarity of two views (.1 in a third party's run)."""
    ratio: Fraction = 0.3
    """Share of the past clicks that a view hides, moves, replaces or drops (.3 in a third party's run)."""
    pretrain_epochs: NonNegativeInt = 5
    """Most epochs of the contrast alone, before the ranking; 0 = none."""
    pretrain_max_steps: NonNegativeInt = 0
    """Most steps of the contrast alone, 0 = no bound."""


@dataclass
class View(Clicks):
    """A history after an augmentation."""

    hidden: Tensor  # (B, T) bool, True where the model sees only that there was a click


@register("copps", title="CoPPS (re-implementation)", tasks=("search",), group="search", cite="Dai et al., KDD 2023")
class CoPPS(TEM):
    """Stage "pretrain": NT-Xent between two augmented views of the history. Stage "fit": TEM's loss plus that contrast.

    The sequence is [phi(q); phi(q_1); E[h_1]; phi(q_2); E[h_2]; ...]: the query now, then each earlier click behind the query
    that it was found with (none for a recommendation). For the contrast a learnt row stands in the place of the query,
    and a two-layer network reads its output. A view takes one operator: `MASK`, `REORDER`, `REPLACE` (by an item that shares
    a category and is not in the sequence), `DELETE` (the clicks least relevant to the query by <phi(q), E[h]>). Views never
    touch the current query and never bring in the clicked item. Rows of one user are no negatives of each other.

    Without contrast and pretraining it is TEM over the longer sequence; with `past_queries=False` it is TEM. There is no
    external knowledge graph: items that share a category stand for its neighbours.
    """

    Config = CoPPSConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1000, "pretrain_max_steps": 300}
    search_space: ClassVar[dict[str, Any]] = TEM.search_space | {
        "contrast_weight": [0.0, 0.05, 0.1, 0.2, 0.5],
        "temperature": [0.05, 0.1, 0.2, 0.5],
        "ratio": [0.1, 0.3, 0.5],
        "pretrain_epochs": [0, 5, 20],
    }
    tokens_per_click: ClassVar[int] = 2

    def __init__(self, config: CoPPSConfig, context: Context):
        super().__init__(config, context)
        d = config.dim
        # Three learnt rows: in the place of the query, a hidden item, a hidden query.
        self.rows = nn.Parameter(torch.randn(3, d) * d**-0.5)
        # What a token is: a past query or a past item.
        self.kinds = nn.Parameter(torch.randn(2, d) * 0.02) if config.past_queries else None
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
        self.siblings = Siblings(self.catalog)

    def tokens(self, past: Clicks) -> tuple[Tensor, Tensor]:
        """Past clicks as tokens (B, T, d), and (B, T) which are real: query, item, query, item, ..."""
        hidden = past.hidden if isinstance(past, View) else torch.zeros_like(past.mask)  # (B, L)
        items = torch.where(hidden[..., None], self.rows[1], self.items(past.items))  # (B, L, d)
        if self.kinds is None:
            return items, past.mask
        # Each query is encoded once, however often it was asked.
        distinct, inverse = past.queries.unique(return_inverse=True)
        queries = F.embedding(inverse, self.query_encoder(distinct))  # (B, L, d)
        queries = torch.where(hidden[..., None], self.rows[2], queries)
        tokens = torch.stack([queries + self.kinds[0], items + self.kinds[1]], 2).flatten(1, 2)  # (B, 2L, d)
        return tokens, torch.stack([past.mask & (past.queries > 0), past.mask], 2).flatten(1)

    def stages(self, train: TrainData) -> list[Stage]:
        """The contrast alone, then the ranking."""
        fit = super().stages(train)
        if not self.config.pretrain_epochs:
            return fit
        config = self.config.for_stage("pretrain")
        return [Stage("pretrain", config, self.contrast, self.stream, self.contrasted, select="last"), *fit]

    def contrasted(self) -> list[dict[str, Any]]:
        """The parameters that the contrast reads."""
        modules = [self.items, self.encoder, self.head]
        if self.kinds is not None:
            modules += [self.words, self.query_encoder]
        rows = [self.rows] if self.kinds is None else [self.rows, self.kinds]
        return [{"params": [*rows, *(parameter for module in modules for parameter in module.parameters())]}]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """TEM's loss, and the contrast with its weight."""
        loss, parts = super().loss(batch)
        if not self.config.contrast_weight:
            return loss, parts
        contrast = self.contrast(batch)
        return loss + self.config.contrast_weight * contrast, parts | {"contrast": contrast}

    def contrast(self, batch: Batch) -> Tensor:
        """NT-Xent between two views of each history; rows without one are left out."""
        batch = batch.take(batch.merged_len > 0)
        past = self.past_clicks(batch)
        first, second = (self.represent_view(self.view(batch, past)) for _ in range(2))  # (b, d)
        return view_contrast(first, second, batch.user, self.config.temperature)

    def represent_view(self, past: Clicks) -> Tensor:
        """(B, d) what the contrast compares: the network's reading of a history without its query."""
        return self.head(self.read(self.rows[0].expand(len(past.items), -1), *self.tokens(past)))

    def view(self, batch: Batch, past: Clicks) -> View:
        """One augmentation of each row's history, all operators equally likely."""
        operator = torch.randint(4, (len(past.items),), device=past.items.device)
        with torch.no_grad():
            query = self.query_encoder(batch.query)  # (B, d)
            relevance = torch.einsum("bd,bld->bl", query, self.items(past.items))  # (B, L)
        target = batch.item if batch.item is not None else torch.zeros_like(batch.user)
        return augmented(past, operator, self.config.ratio, relevance, target, self.siblings)


class Siblings(nn.Module):
    """Draws items that share a category with others."""

    categories: Tensor
    offsets: Tensor
    members: Tensor

    def __init__(self, catalog: Catalog):
        super().__init__()
        categories = catalog.item_categories  # (n_items + 1, C)
        item, column = torch.nonzero(categories, as_tuple=True)
        lists = Ragged.from_pairs(categories[item, column].numpy(), item.numpy(), catalog.n_categories + 1)
        self.register_buffer("categories", categories, persistent=False)
        self.register_buffer("offsets", torch.from_numpy(lists.offsets), persistent=False)
        self.register_buffer("members", torch.from_numpy(lists.values), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """For items (...) one item (...) of one of their categories each, perhaps itself; 0 where there is no category."""
        if not len(self.members):
            return torch.zeros_like(items)
        known = self.categories[items]  # (..., C)
        column = _below((known > 0).sum(-1))
        category = known.gather(-1, column[..., None]).squeeze(-1)  # (...)
        start, size = self.offsets[category], self.offsets[category + 1] - self.offsets[category]
        member = self.members[(start + _below(size)).clamp(max=len(self.members) - 1)]
        return torch.where(category > 0, member, 0)


def augmented(
    past: Clicks, operator: Tensor, ratio: float, relevance: Tensor, target: Tensor, siblings: Siblings
) -> View:
    """The histories after one operator each, which touches floor(ratio * length) clicks.

    Args:
        past: B histories of L slots.
        operator: (B,) MASK, REORDER, REPLACE or DELETE.
        ratio: share of the clicks that is touched; 0 changes nothing.
        relevance: (B, L) of each click to the current query; DELETE drops the lowest.
        target: (B,) clicked items, which are never brought in.
        siblings: draws items that share a category.
    """
    mask, operator = past.mask, operator[:, None]
    count = (past.length * ratio).long()[:, None]  # (B, 1)
    chance = torch.rand(mask.shape, device=mask.device)  # (B, L)
    value = torch.where(operator == DELETE, relevance.to(chance.dtype), chance).masked_fill(~mask, torch.inf)
    touched = (value.argsort(1).argsort(1) < count) & mask  # (B, L)

    items = torch.where(touched & (operator == REPLACE), _replaced(past.items, target, siblings), past.items)
    # Moved clicks change places among themselves; what is left after a deletion moves up.
    moved = touched & (operator == REORDER)
    dropped = touched & (operator == DELETE)
    source_slot = (~moved).long().argsort(dim=1, stable=True)  # moved slots first
    shuffled = torch.where(moved, torch.rand_like(chance), 2.0).argsort(dim=1, stable=True)
    source = torch.zeros_like(source_slot).scatter(1, source_slot, shuffled)
    source = torch.where(operator == DELETE, dropped.long().argsort(dim=1, stable=True), source)
    length = past.length - dropped.sum(1)
    kept = torch.arange(mask.shape[1], device=mask.device) < length[:, None]
    return View(
        items=items.gather(1, source) * kept,
        queries=past.queries.gather(1, source) * kept,
        length=length,
        hidden=touched & (operator == MASK),
    )


def _replaced(items: Tensor, target: Tensor, siblings: Siblings) -> Tensor:
    """(B, L) for each item one that shares a category and is neither in its row nor the row's target; itself if none is found."""
    out = items
    for _ in range(_ATTEMPTS):
        drawn = siblings(items)  # (B, L)
        good = (drawn > 0) & (drawn != target[:, None]) & ~(drawn[:, :, None] == items[:, None]).any(2)
        out = torch.where(good, drawn, out)
    return out


def _below(size: Tensor) -> Tensor:
    """Uniform whole numbers from 0 to `size` - 1, and 0 where it is 0."""
    draw = torch.rand(size.shape, dtype=torch.float64, device=size.device)
    return (draw * size).long().minimum((size - 1).clamp(min=0))
