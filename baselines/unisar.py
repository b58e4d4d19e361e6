"""UniSAR: transitions between search and recommendation, one network for both tasks (Shi et al., SIGIR 2024).

Four transitions are told apart: rec to rec and search to search by a Transformer each, search to rec and rec to search
by a global one that may only attend to the other kind. They are aligned, fused, pooled for each candidate and ranked by
towers of the tasks above shared experts.
"""

from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.batch import Batch
from bench.data.log import SEARCH
from bench.ranker.blocks.attention import Decoder, Encoder, TargetAttention, masked_mean
from bench.ranker.blocks.contrast import PairAlign, TransAlign
from bench.ranker.blocks.embeddings import FeatureEmbedding, QueryEmbedding, lookup
from bench.ranker.blocks.experts import CustomizedGateControl, mlp
from bench.ranker.blocks.lengths import by_length
from bench.ranker.contract import (
    Context,
    Field,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
)
from bench.ranker.registry import register

_KINDS = ("rec", "search")  # by task code: REC, SEARCH
Temperature = PositiveFloat


class UniSARConfig(TrainConfig):
    """Settings for data sets that the authors did not tune: those of KuaiSAR, with smaller batches and a bounded gradient.

    What they published for KuaiSAR and Amazon is in `UniSAR.published`.
    """

    batch_size: PositiveInt = 256
    # Deviation: the first gradient of the transitions is a hundred times that of later steps. Unbounded, it stays in
    # Adam's second moment for a thousand steps.
    clip: NonNegativeFloat = 1.0
    plateau: Annotated[int, Field(ge=0)] = 3
    weight_decay: NonNegativeFloat = 3e-5
    embedding: Annotated[int, Field(ge=1, description="width of the id, feature and word tables")] = 32
    d: PositiveInt = 64
    heads: PositiveInt = 2
    layers: PositiveInt = 1
    dropout: Fraction = 0.1
    experts: Annotated[int, Field(ge=1, description="shared ones, and as many of each task")] = 4
    item_text: Annotated[bool, Field(description="the words of an item are one of its features")] = False
    pair_weight: Annotated[float, Field(ge=0, description="of the query-item alignment")] = 0.001
    pair_temperature: Temperature = 0.5
    pair_negatives: PositiveInt = 1024
    transition_weight: Annotated[float, Field(ge=0, description="of the alignment of transitions")] = 0.1
    transition_temperature: Temperature = 0.1
    search_weight: Annotated[float, Field(gt=0, description="of the search loss beside the rec loss")] = 0.1


_KUAISAR = {
    "batch_size": 1024,
    "clip": 0.0,
    "weight_decay": 3e-5,
    "pair_weight": 0.001,
    "pair_temperature": 0.5,
    "transition_weight": 0.1,
    "search_weight": 0.1,
}


@register("unisar", title="UniSAR", tasks=("rec", "search"), group="unified", cite="Shi et al., SIGIR 2024")
class UniSAR(TorchRanker):
    """The architecture of the official code; what the paper leaves open is as there.

    What differs: a batch mixes the rows of both tasks (there, one batch of each), and users who lack one of the two
    behaviours are served; they take no part in the alignment.
    """

    Config = UniSARConfig
    uses_query = True
    uses_history = True
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "kuaisar": _KUAISAR,
        "kuaisar-small": _KUAISAR,
        "amazon-kindle": {
            "batch_size": 1024,
            "clip": 0.0,
            "weight_decay": 1e-5,
            "pair_weight": 0.1,
            "pair_temperature": 0.1,
            "transition_weight": 0.01,
            "search_weight": 0.01,
        },
    }
    search_space: ClassVar[dict[str, Any]] = {
        "lr": [1e-4, 5e-4, 1e-3],
        "weight_decay": [1e-5, 3e-5],
        "pair_weight": [0.0, 0.001, 0.01, 0.1],
        "pair_temperature": [0.1, 0.5],
        "transition_weight": [0.0, 0.01, 0.1],
        "transition_temperature": [0.1, 0.5],
        "search_weight": [0.01, 0.1, 1.0],
    }

    def __init__(self, config: UniSARConfig, context: Context):
        super().__init__(config, context)
        catalog, d, dropout = self.catalog, config.d, config.dropout
        self.queries = QueryEmbedding(catalog, config.embedding, d)
        text = (self.queries, catalog.item_words) if config.item_text else ()
        self.items = FeatureEmbedding(catalog.n_items + 1, catalog.item_features, config.embedding, d, *text)
        self.users = FeatureEmbedding(catalog.n_users + 1, catalog.user_features, config.embedding, d)
        rec, search = config.history_rec, config.history_search
        self.positions = nn.ModuleDict(
            {"rec": nn.Embedding(rec, d), "search": nn.Embedding(search, d), "all": nn.Embedding(rec + search, d)}
        )
        shape = (d, config.heads, config.layers, dropout)
        self.encoders = nn.ModuleDict({kind: Encoder(*shape) for kind in self.positions})
        self.fusion = nn.ModuleDict({kind: Decoder(*shape) for kind in _KINDS})
        self.pooling = nn.ModuleDict({kind: TargetAttention(d) for kind in _KINDS})
        if config.transition_weight:
            temperature = config.transition_temperature
            self.transitions = nn.ModuleDict({kind: TransAlign(d, temperature) for kind in _KINDS})
        if config.pair_weight:
            self.pairs = PairAlign(d, config.pair_temperature)
        self.no_query = nn.Parameter(torch.empty(1, d))  # stands for the query where there is none: recommendation
        self.experts = CustomizedGateControl(5 * d, 64, len(_KINDS), config.experts, config.experts, dropout)
        self.towers = nn.ModuleList(
            nn.Sequential(mlp([64, 128, 64], dropout, last=True), mlp([64, 200, 80, 1], dropout)) for _ in _KINDS
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self.experts.initialise()
        for table in self.positions.parameters():
            nn.init.xavier_normal_(table)
        nn.init.xavier_normal_(self.no_query)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """L2 on everything but biases."""
        named = [(name, value) for name, value in self.named_parameters() if value.requires_grad]
        return [
            {"params": [value for name, value in named if "bias" not in name]},
            {"params": [value for name, value in named if "bias" in name], "weight_decay": 0.0},
        ]

    def score(self, batch: Batch) -> Tensor:
        return self._forward(batch)[0]

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Float32 logits (B, K); and (B, side, across / within, d), the means of the transitions over the histories."""
        rec_ids = batch.rec_items.where(batch.rec_mask, 0)
        search_ids = batch.search_items.where(batch.search_click_mask, 0)
        items, (rec_at, search_at, cand_at) = lookup(self.items, rec_ids, search_ids, batch.cand)
        queries, (asked_at, query_at) = lookup(
            self.queries, batch.search_query.where(batch.search_mask, 0), batch.query
        )
        candidates = F.embedding(cand_at, items)
        order, pooled, views = [], [], []
        for rows, part in by_length(batch):
            n_rec, n_search = part.rec_items.shape[1], part.search_query.shape[1]
            clicked = F.embedding(rec_at[rows, :n_rec], items)
            found = masked_mean(F.embedding(search_at[rows, :n_search], items), part.search_click_mask)
            sides = self._transitions(part, clicked, F.embedding(asked_at[rows, :n_search], queries) + found)
            order.append(rows)
            pooled.append(self._pool(sides, candidates[rows]))
            means = [masked_mean(x, side.mask) for side in sides for x in (side.across, side.within)]
            views.append(torch.stack(means, 1))
        back = torch.cat(order).argsort()
        logits = self._predict(batch, torch.cat(pooled)[back], candidates, F.embedding(query_at, queries))
        return logits, torch.cat(views)[back].unflatten(1, (len(_KINDS), 2))

    def _transitions(self, batch: Batch, clicked: Tensor, searched: Tensor) -> tuple["Side", "Side"]:
        """Both sides of the embedded histories: clicks (B, Lr, d), searches (B, Ls, d), zero in padding slots."""
        masks, inputs = (batch.rec_mask, batch.search_mask), (clicked, searched)
        within = [
            self.encoders[kind](x + self.positions[kind](torch.arange(x.shape[1], device=x.device)), mask)
            for kind, x, mask in zip(_KINDS, inputs, masks, strict=True)
        ]
        rec, search = (x + self.positions["all"](place) for x, place in zip(inputs, _places(batch), strict=True))
        # Equal kinds may not see each other, themselves included: each side attending to the other is all that is left.
        across = self.encoders["all"]
        assert isinstance(across, Encoder)
        for layer in across.layers:
            rec, search = layer(rec, masks[1], keys=search), layer(search, masks[0], keys=rec)
        return Side(within[0], rec, masks[0]), Side(within[1], search, masks[1])

    def _pool(self, sides: tuple["Side", "Side"], candidates: Tensor) -> Tensor:
        """Both fused sides as each candidate (B, K, d) sees them: (B, K, 2d)."""
        fused = [
            self.fusion[kind](side.within, side.mask, side.across, side.mask)
            for kind, side in zip(_KINDS, sides, strict=True)
        ]
        pooled = [
            self.pooling[kind](x, side.mask, candidates) for kind, x, side in zip(_KINDS, fused, sides, strict=True)
        ]
        return torch.cat(pooled, -1)

    def _predict(self, batch: Batch, pooled: Tensor, candidates: Tensor, query: Tensor) -> Tensor:
        """(B, K) logits, each row's by the tower of its task."""
        vectors, (at,) = lookup(self.users, batch.user)
        query = torch.where((batch.task == SEARCH)[:, None], query, self.no_query)
        context = torch.cat([F.embedding(at, vectors), query], -1)
        features = torch.cat([pooled, candidates], -1)
        logits = torch.zeros(batch.cand.shape, device=features.device)
        for code in range(len(_KINDS)):
            rows = batch.task == code
            if rows.any():
                own = self.towers[code](self.experts(features[rows], context[rows], code))
                logits = logits.masked_scatter(rows[:, None], own.squeeze(-1).float())
        return logits

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_rec + search_weight * L_search, each BCE + pair_weight * pairs + transition_weight * transitions."""
        assert batch.label is not None
        config = self.config
        logits, views = self._forward(batch)
        clicks = F.binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
        pairs = self._pair_losses(batch) if config.pair_weight else {}
        both = (batch.rec_len > 0) & (batch.search_len > 0)  # without either behaviour there is no transition to align
        total, parts = clicks.new_zeros(()), {}
        for code, task in enumerate(_KINDS):
            rows = batch.task == code
            if not rows.any():
                continue
            part = parts[f"{task}/click"] = clicks[rows].mean()
            if config.pair_weight:
                parts[f"{task}/pairs"] = pairs[code]
                part = part + config.pair_weight * pairs[code]
            if config.transition_weight:
                sides = zip(_KINDS, views[rows & both].unbind(1), strict=True)
                aligned = [self.transitions[kind](*view.unbind(1)) for kind, view in sides]
                parts[f"{task}/transitions"] = torch.stack(aligned).sum()
                part = part + config.transition_weight * parts[f"{task}/transitions"]
            # A run of search alone has nothing to be weighted against.
            total = total + part * (config.search_weight if task == "search" and len(self.context.tasks) > 1 else 1.0)
        return total, parts

    def _pair_losses(self, batch: Batch) -> dict[int, Tensor]:
        """For each task the mean loss over the (query, clicked item) pairs in the histories of its rows.

        Equal pairs have equal losses: each is computed once and counts as often as it occurs.
        """
        real = batch.search_click_mask & (batch.search_query > 0)[..., None]
        base = self.items.rows
        keys, inverse = (batch.search_query[..., None] * base + batch.search_items)[real].unique(return_inverse=True)
        task = batch.task[:, None, None].expand_as(real)[real]
        if not len(keys):
            return {code: self.no_query.new_zeros(()) for code in range(len(_KINDS))}
        queries, query_of = (keys // base).unique(return_inverse=True)
        items, item_of = (keys % base).unique(return_inverse=True)
        others = self._negatives(self.queries.rows), self._negatives(self.items.rows)
        distinct = torch.cat([queries, others[0]]), torch.cat([items, others[1]])
        queries, other_queries = self.queries(distinct[0]).split([len(queries), len(others[0])])
        items, other_items = self.items(distinct[1]).split([len(items), len(others[1])])
        losses = self.pairs(queries, items, query_of, item_of, other_queries, other_items)
        found = {}
        for code in range(len(_KINDS)):
            count = torch.bincount(inverse[task == code], minlength=len(keys))
            found[code] = (losses * count).sum() / count.sum().clamp(min=1)
        return found

    def _negatives(self, rows: int) -> Tensor:
        """Distinct ids, not 0, for the pair loss."""
        return torch.randperm(rows - 1, device=self.no_query.device)[: self.config.pair_negatives] + 1


class Side(NamedTuple):
    """One of the two behaviours: the transition within it, the one from the other (both (B, L, d)), mask (B, L)."""

    within: Tensor
    across: Tensor
    mask: Tensor


def _places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each rec click (B, Lr) and each search (B, Ls) stands in the merged history; 0 in padding slots."""
    n_rec, n_search = batch.rec_items.shape[1], batch.search_query.shape[1]
    column = torch.where(batch.merged_task == 0, batch.merged_column, n_rec + batch.merged_column)
    column = column.where(batch.merged_mask, n_rec + n_search)
    place = torch.arange(column.shape[1], device=column.device).expand_as(column)
    places = place.new_zeros(len(column), n_rec + n_search + 1).scatter(1, column, place)
    return places[:, :n_rec], places[:, n_rec : n_rec + n_search]
