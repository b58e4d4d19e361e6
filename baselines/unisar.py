"""UniSAR: transitions between search and recommendation behaviour, one network for both tasks (Shi et al., SIGIR 2024).

Four transitions are told apart: rec to rec and search to search by a Transformer each, search to rec and rec to search by a
global one that may only attend to the other kind. They are aligned, fused, pooled for each candidate and ranked by
task-specific towers above shared experts.
"""

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.data.batch import Batch
from bench.data.log import REC, SEARCH
from bench.ranker.blocks.attention import DecoderLayer, Encoder, TargetAttention, masked_mean
from bench.ranker.blocks.contrast import PairAlign, TransAlign
from bench.ranker.blocks.embeddings import FeatureEmbedding, QueryEmbedding, lookup
from bench.ranker.blocks.experts import CustomizedGateControl, mlp
from bench.ranker.blocks.lengths import by_length
from bench.ranker.contract import (
    Context,
    Fraction,
    NotNegative,
    Positive,
    TorchRanker,
    TrainConfig,
    dataclass,
    strict,
)
from bench.ranker.registry import register

_NAMES = {REC: "rec", SEARCH: "search"}
# Of each side: transition within it, transition from the other side (both (B, L, d)), mask (B, L).
Sides = dict[str, tuple[Tensor, Tensor, Tensor]]
# Of each side: mean of the transition within it and of the one from the other side (both (B, d)).
Views = dict[str, list[Tensor]]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(config=strict)
class UniSARConfig(TrainConfig):
    """Published settings (KuaiSAR; for Amazon: L2 1e-5, pair weight and temperature .1, transition weight .01, search .01)."""

    weight_decay: NotNegative = 3e-5
    embedding: Annotated[int, Field(ge=1, description="width of the id, feature and word tables")] = 32
    d: Positive = 64
    heads: Positive = 2
    layers: Positive = 1
    dropout: Fraction = 0.1
    experts: Annotated[int, Field(ge=1, description="shared ones, and as many of each task")] = 4
    item_text: Annotated[bool, Field(description="the words of an item are one of its features")] = False
    pair_weight: Annotated[float, Field(ge=0, description="of the query-item alignment")] = 0.001
    pair_temperature: Temperature = 0.5
    pair_negatives: Positive = 1024
    transition_weight: Annotated[float, Field(ge=0, description="of the alignment of transitions")] = 0.1
    transition_temperature: Temperature = 0.1
    search_weight: Annotated[float, Field(gt=0, description="of the search loss beside the rec loss")] = 0.1


@register("unisar", title="UniSAR", tasks=("rec", "search"), group="unified", cite="Shi et al., SIGIR 2024")
class UniSAR(TorchRanker):
    """The official code's architecture; sizes and facts beyond the paper's equations are those of its KuaiSAR set-up.

    What differs: a batch mixes the rows of both tasks (the official code draws one batch of each), the learning rate is not
    reduced on a plateau, and users who lack one of the two behaviours are served (they take no part in the alignment).
    """

    Config = UniSARConfig
    uses_query = True
    uses_history = True
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {}
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
        lengths = {"rec": config.history_rec, "search": config.history_search}
        lengths["all"] = lengths["rec"] + lengths["search"]
        self.positions = nn.ModuleDict({kind: nn.Embedding(length, d) for kind, length in lengths.items()})
        self.encoders = nn.ModuleDict({kind: Encoder(d, config.heads, config.layers, dropout) for kind in lengths})
        self.fusion = nn.ModuleDict(
            {kind: nn.ModuleList(DecoderLayer(d, config.heads, dropout) for _ in range(config.layers)) for kind in _NAMES.values()}
        )
        self.pooling = nn.ModuleDict({kind: TargetAttention(d) for kind in _NAMES.values()})
        if config.transition_weight:
            temperature = config.transition_temperature
            self.transitions = nn.ModuleDict({kind: TransAlign(d, temperature) for kind in _NAMES.values()})
        if config.pair_weight:
            self.pairs = PairAlign(d, config.pair_temperature)
        self.no_query = nn.Parameter(torch.empty(1, d))  # stands for the query where there is none: recommendation
        self.experts = CustomizedGateControl(5 * d, 64, len(_NAMES), config.experts, config.experts, dropout)
        self.towers = nn.ModuleList(
            nn.Sequential(mlp([64, 128, 64], dropout, last=True), mlp([64, 200, 80, 1], dropout)) for _ in _NAMES
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self.experts.initialise()
        for table in self.positions.values():
            nn.init.xavier_normal_(table.weight)
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

    def _forward(self, batch: Batch) -> tuple[Tensor, Views]:
        """(B, K) float32 logits; and the means of what each kind of transition found in the histories."""
        rec_ids = batch.rec_items.where(batch.rec_mask, 0)
        src_ids = batch.src_items.where(batch.src_click_mask, 0)
        items, (rec_at, src_at, cand_at) = lookup(self.items, rec_ids, src_ids, batch.cand)
        queries, (asked_at, query_at) = lookup(self.queries, batch.src_query.where(batch.src_mask, 0), batch.query)
        candidates = F.embedding(cand_at, items)
        order, pooled, views = [], [], []
        for rows, part in by_length(batch):
            n_rec, n_src = part.rec_items.shape[1], part.src_query.shape[1]
            clicked = F.embedding(rec_at[rows, :n_rec], items)
            found = F.embedding(src_at[rows, :n_src], items)
            searched = F.embedding(asked_at[rows, :n_src], queries) + masked_mean(found, part.src_click_mask)
            sides = self._transitions(part, clicked, searched)
            order.append(rows)
            pooled.append(self._pool(sides, candidates[rows]))
            views.append({kind: [masked_mean(x, mask) for x in (within, across)] for kind, (within, across, mask) in sides.items()})
        back = torch.cat(order).argsort()
        pooled = torch.cat(pooled)[back]
        views = {kind: [torch.cat(parts)[back] for parts in zip(*(view[kind] for view in views), strict=True)] for kind in self.pooling}
        return self._predict(batch, pooled, candidates, F.embedding(query_at, queries)), views

    def _transitions(self, batch: Batch, clicked: Tensor, searched: Tensor) -> Sides:
        """Of the embedded histories `clicked` (B, Lr, d) and `searched` (B, Ls, d), zero in padding slots."""
        mask = {"rec": batch.rec_mask, "search": batch.src_mask}
        inputs = {"rec": clicked, "search": searched}
        within = {
            kind: self.encoders[kind](x + self.positions[kind].weight[: x.shape[1]], mask[kind]) for kind, x in inputs.items()
        }
        places = dict(zip(_NAMES.values(), _places(batch), strict=True))
        rec, search = (x + self.positions["all"](places[kind]) for kind, x in inputs.items())
        # Equal kinds may not see each other, themselves included: attention of each side to the other is all that is left.
        for layer in self.encoders["all"].layers:
            rec, search = layer(rec, mask["search"], keys=search), layer(search, mask["rec"], keys=rec)
        return {"rec": (within["rec"], rec, mask["rec"]), "search": (within["search"], search, mask["search"])}

    def _pool(self, sides: Sides, candidates: Tensor) -> Tensor:
        """Both fused sides as each candidate (B, K, d) sees them: (B, K, 2d)."""
        pooled = []
        for kind, (within, across, mask) in sides.items():
            fused = within
            for layer in self.fusion[kind]:
                fused = layer(fused, mask, across, mask)
            pooled.append(self.pooling[kind](fused, mask, candidates))
        return torch.cat(pooled, -1)

    def _predict(self, batch: Batch, pooled: Tensor, candidates: Tensor, query: Tensor) -> Tensor:
        """(B, K) logits, each row's by the tower of its task."""
        vectors, (at,) = lookup(self.users, batch.user)
        query = torch.where((batch.task == SEARCH)[:, None], query, self.no_query)
        context = torch.cat([F.embedding(at, vectors), query], -1)
        features = torch.cat([pooled, candidates], -1)
        logits = torch.zeros(batch.cand.shape, device=features.device)
        for code in _NAMES:
            rows = batch.task == code
            if rows.any():
                own = self.towers[code](self.experts(features[rows], context[rows], code))
                logits = logits.masked_scatter(rows[:, None], own.squeeze(-1).float())
        return logits

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over the tasks of weight * (BCE + pair_weight * pairs + transition_weight * transitions); rec has weight 1."""
        assert batch.label is not None
        config = self.config
        logits, views = self._forward(batch)
        clicks = F.binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
        pairs = self._pair_losses(batch) if config.pair_weight else {}
        both = (batch.rec_len > 0) & (batch.src_len > 0)  # without either behaviour there is no transition to align
        total, parts = clicks.new_zeros(()), {}
        for code, task in _NAMES.items():
            rows = batch.task == code
            if not rows.any():
                continue
            part = parts[f"{task}/click"] = clicks[rows].mean()
            if config.pair_weight:
                parts[f"{task}/pairs"] = pairs[code]
                part = part + config.pair_weight * pairs[code]
            if config.transition_weight:
                aligned = [self.transitions[kind](*(view[rows & both] for view in pair)) for kind, pair in views.items()]
                parts[f"{task}/transitions"] = torch.stack(aligned).sum()
                part = part + config.transition_weight * parts[f"{task}/transitions"]
            # A run of search alone has nothing to be weighted against.
            total = total + part * (config.search_weight if task == "search" and len(self.context.tasks) > 1 else 1.0)
        return total, parts

    def _pair_losses(self, batch: Batch) -> dict[int, Tensor]:
        """For each task the mean loss over the (query, clicked item) pairs in the histories of its rows.

        Equal pairs have equal losses: each is computed once and counts as often as it occurs.
        """
        real = batch.src_click_mask & (batch.src_query > 0)[..., None]
        base = self.items.rows
        keys, inverse = (batch.src_query[..., None] * base + batch.src_items)[real].unique(return_inverse=True)
        task = batch.task[:, None, None].expand_as(real)[real]
        if not len(keys):
            return {code: self.no_query.new_zeros(()) for code in _NAMES}
        queries, query_of = (keys // base).unique(return_inverse=True)
        items, item_of = (keys % base).unique(return_inverse=True)
        others = self._negatives(self.queries.rows), self._negatives(self.items.rows)
        distinct = torch.cat([queries, others[0]]), torch.cat([items, others[1]])
        queries, other_queries = self.queries(distinct[0]).split([len(queries), len(others[0])])
        items, other_items = self.items(distinct[1]).split([len(items), len(others[1])])
        losses = self.pairs(queries, items, query_of, item_of, other_queries, other_items)
        found = {}
        for code in _NAMES:
            count = torch.bincount(inverse[task == code], minlength=len(keys))
            found[code] = (losses * count).sum() / count.sum().clamp(min=1)
        return found

    def _negatives(self, rows: int) -> Tensor:
        """Distinct ids, not 0, for the pair loss."""
        return torch.randperm(rows - 1, device=self.no_query.device)[: self.config.pair_negatives] + 1


def _places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each rec click (B, Lr) and each search (B, Ls) stands in the merged history; 0 in padding slots."""
    n_rec, n_src = batch.rec_items.shape[1], batch.src_query.shape[1]
    column = torch.where(batch.all_type == 1, batch.all_index, n_rec + batch.all_index)
    column = column.where(batch.all_mask, n_rec + n_src)
    place = torch.arange(column.shape[1], device=column.device).expand_as(column)
    places = place.new_zeros(len(column), n_rec + n_src + 1).scatter(1, column, place)
    return places[:, :n_rec], places[:, n_rec : n_rec + n_src]
