"""UniSAR: transitions between search and recommendation, one network for both tasks (Shi et al., SIGIR 2024).

Four transitions are told apart: rec to rec and search to search by a Transformer each, search to rec and rec to search
by a global one that may only attend to the other kind. They are aligned, fused, pooled for each candidate and ranked by
towers of the tasks above shared experts.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines.unisar.config import KUAISAR, OFFICIAL, UniSARConfig
from bench.data.batch import Batch
from bench.data.log import SEARCH
from bench.ranker.blocks.attention import Decoder, DecoderLayer
from bench.ranker.blocks.contrast import PairContrast, TransitionContrast
from bench.ranker.blocks.embeddings import FeatureEmbedding, QueryEmbedding, lookup
from bench.ranker.blocks.encoder import Encoder, EncoderLayer
from bench.ranker.blocks.experts import CustomizedGateControl, mlp
from bench.ranker.blocks.lengths import by_length
from bench.ranker.blocks.pooling import TargetAttention, masked_mean
from bench.ranker.contract import (
    Context,
    Representation,
    TorchRanker,
)
from bench.ranker.registry import register

_KINDS = ("rec", "search")  # by task code: REC, SEARCH


@register("unisar", title="UniSAR", tasks=("rec", "search"), group="unified", cite="Shi et al., SIGIR 2024")
class UniSAR(TorchRanker):
    """The architecture of the official code; what the paper leaves open is as there, but for the following.

    - A batch mixes the rows of both tasks; there each step takes a batch of each.
    - Users who lack one of the two behaviours are served. They take no part in the alignment of transitions.
    - The best epoch has the highest mean N@10 of the tasks, the harness's selection metric; there it is mean N@5. Both
      stop after 5 epochs without a better one, of at most 100 with the published settings and 50 else.
    - The matrices of the target attention start with a standard deviation of .125 (`pooling_std` 0). The official .022
      is Xavier's for their shape (1, d, d) and stands in the published settings. On MovieLens-100K (quick) both tasks
      agree with the official code within .005 N@10 under it; with .125 search is .02 higher.
    - Layers that the official code registers and never uses are left out; `released` carries them, and with the sizes of
      the authors' KuaiSAR the parameters are then those that they count, 35,599,505 instead of 35,478,021.
    """

    Config = UniSARConfig
    uses_query = True
    uses_history = True
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "kuaisar": KUAISAR,
        "kuaisar-small": KUAISAR,
        "amazon-kindle": OFFICIAL
        | {
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
    config: UniSARConfig

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
            self.transitions = nn.ModuleDict({kind: TransitionContrast(d, temperature) for kind in _KINDS})
        if config.pair_weight:
            self.pairs = PairContrast(d, config.pair_temperature)
        self.no_query = nn.Parameter(torch.empty(1, d))  # stands for the query where there is none: recommendation
        self.experts = CustomizedGateControl(5 * d, 64, len(_KINDS), config.experts, config.experts, dropout)
        self.towers = nn.ModuleList(
            nn.Sequential(mlp([64, 128, 64], dropout, last=True), mlp([64, 200, 80, 1], dropout)) for _ in _KINDS
        )
        self._initialise()
        if config.released:
            self.unused = _unused(config)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self.experts.initialise()
        for table in self.positions.parameters():
            nn.init.xavier_normal_(table)
        nn.init.xavier_normal_(self.no_query)
        if self.config.pooling_std:
            for matrix in self.pooling.parameters():
                nn.init.normal_(matrix, std=self.config.pooling_std)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """L2 on everything but biases."""
        named = [(name, value) for name, value in self.named_parameters() if value.requires_grad]
        return [
            {"params": [value for name, value in named if "bias" not in name]},
            {"params": [value for name, value in named if "bias" in name], "weight_decay": 0.0},
        ]

    def score(self, batch: Batch) -> Tensor:
        """(B, K) logits before the sigmoid of the official code."""
        features, context, _ = self._features(batch)
        return self._predict(batch, features, context)

    def represent(self, batch: Batch) -> Representation:
        """The input of the experts, (B, K, 5d), whose first 3d are `views`, and what they hand to the row's tower, (B, K, 64)."""
        features, context, _ = self._features(batch)
        hidden = features.new_zeros((*features.shape[:2], 64))
        for code in range(len(_KINDS)):
            rows = batch.task == code
            hidden[rows] = self.experts(features[rows], context[rows], code)
        both = torch.cat([features, context[:, None].expand(-1, features.shape[1], -1)], -1)
        return Representation(both, hidden, features)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the experts read, and the views that the transitions align.

        Returns:
            per candidate the pooled histories and its vector, (B, K, 3d); per row the user and the query, (B, 2d); and the
            mean of each transition over the history, (B, 2 behaviours, across | within, d).
        """
        rec_ids = batch.rec_items.where(batch.rec_mask, 0)  # (B, Lr)
        search_ids = batch.search_items.where(batch.search_click_mask, 0)  # (B, Ls, Cs)
        items, (rec_at, search_at, cand_at) = lookup(self.items, rec_ids, search_ids, batch.cand)
        queries, (asked_at, query_at) = lookup(
            self.queries, batch.search_query.where(batch.search_mask, 0), batch.query
        )
        candidates = F.embedding(cand_at, items)  # (B, K, d)
        order, pooled, views = [], [], []
        for rows, part in by_length(batch):
            n_rec, n_search = part.rec_items.shape[1], part.search_query.shape[1]
            clicks = F.embedding(rec_at[rows, :n_rec], items)  # (b, Lr, d)
            clicked = masked_mean(F.embedding(search_at[rows, :n_search], items), part.search_click_mask)
            searches = F.embedding(asked_at[rows, :n_search], queries) + clicked  # (b, Ls, d)
            both = self.transition(part, clicks, searches)
            order.append(rows)
            pooled.append(self._pool(both, candidates[rows]))  # (b, K, 2d)
            means = [masked_mean(x, into.mask) for into in both for x in (into.across, into.within)]
            views.append(torch.stack(means, 1))  # (b, 4, d)
        back = torch.cat(order).argsort()
        vectors, (at,) = lookup(self.users, batch.user)
        query = torch.where((batch.task == SEARCH)[:, None], F.embedding(query_at, queries), self.no_query)
        features = torch.cat([torch.cat(pooled)[back], candidates], -1)  # (B, K, 3d)
        context = torch.cat([F.embedding(at, vectors), query], -1)  # (B, 2d)
        return features, context, torch.cat(views)[back].unflatten(1, (len(_KINDS), 2))

    def transition(self, batch: Batch, clicks: Tensor, searches: Tensor) -> tuple["Transitions", "Transitions"]:
        """The transitions into each behaviour (sec. 4.2).

        Args:
            batch: rows whose merged order says where each slot stands.
            clicks: (B, Lr, d) embedded rec history, zero in padding slots.
            searches: (B, Ls, d) embedded search history, likewise.
        """
        masks, inputs = (batch.rec_mask, batch.search_mask), (clicks, searches)
        within = [
            self.encoders[kind](x + self.positions[kind](torch.arange(x.shape[1], device=x.device)), mask)
            for kind, x, mask in zip(_KINDS, inputs, masks, strict=True)
        ]
        places = _merged_positions(batch)
        rec, search = (x + self.positions["all"](place) for x, place in zip(inputs, places, strict=True))
        # Equal kinds may not see each other, themselves included: each behaviour attending to the other is what is left.
        across = self.encoders["all"]
        assert isinstance(across, Encoder)
        for layer in across.layers:
            rec, search = layer(rec, masks[1], keys=search), layer(search, masks[0], keys=rec)
        return Transitions(within[0], rec, masks[0]), Transitions(within[1], search, masks[1])

    def _pool(self, both: tuple["Transitions", "Transitions"], candidates: Tensor) -> Tensor:
        """The fused transitions into each behaviour as each candidate (B, K, d) sees them: (B, K, 2d)."""
        pooled = []
        for kind, into in zip(_KINDS, both, strict=True):
            fused = self.fusion[kind](into.within, into.mask, into.across, into.mask)  # (B, L, d)
            pooled.append(self.pooling[kind](fused, into.mask, candidates))  # (B, K, d)
        return torch.cat(pooled, -1)

    def _predict(self, batch: Batch, features: Tensor, context: Tensor) -> Tensor:
        """(B, K) logits float32, each row's by the tower of its task."""
        logits = torch.zeros(batch.cand.shape, device=features.device)
        for code in range(len(_KINDS)):
            rows = batch.task == code
            if rows.any():
                own = self.towers[code](self.experts(features[rows], context[rows], code))  # (n, K, 1)
                logits = logits.masked_scatter(rows[:, None], own.squeeze(-1).float())
        return logits

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_rec + search_weight * L_search, each BCE + pair_weight * pairs + transition_weight * transitions (sec. 4.5).

        Returns:
            the scalar loss, and per task the click loss and the auxiliary ones before their weights.
        """
        assert batch.label is not None
        config = self.config
        features, context, views = self._features(batch)
        logits = self._predict(batch, features, context)
        clicks = F.binary_cross_entropy_with_logits(logits, batch.label, reduction="none")
        pairs: list[Tensor] = []
        if config.pair_weight:
            pairs = self.pairs.of_histories(batch, self.queries, self.items, config.pair_negatives, len(_KINDS))
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
                of_kind = zip(_KINDS, views[rows & both].unbind(1), strict=True)
                aligned = [self.transitions[kind](*view.unbind(1)) for kind, view in of_kind]
                parts[f"{task}/transitions"] = torch.stack(aligned).sum()
                part = part + config.transition_weight * parts[f"{task}/transitions"]
            # A run of search alone has nothing to be weighted against.
            total = total + part * (config.search_weight if task == "search" and len(self.context.tasks) > 1 else 1.0)
        return total, parts


class Transitions(NamedTuple):
    """Into one of the two behaviours: from itself and from the other, both (B, L, d), with the mask (B, L)."""

    within: Tensor
    across: Tensor
    mask: Tensor


def _unused(config: UniSARConfig) -> nn.ModuleList:
    """The dead layers of the official code.

    torch's encoders and decoders keep the layer that they copy: three and one of those. PLE has a gate over the experts of
    all tasks, whose output feeds the shared experts of a next level, and there is none.
    """
    d, tasks = config.d, len(_KINDS)
    layers = [EncoderLayer(d, config.heads, config.dropout) for _ in range(3)]
    decoder = DecoderLayer(d, config.heads, config.dropout)
    return nn.ModuleList([*layers, decoder, nn.Linear(5 * d, (1 + tasks) * config.experts)])


def _merged_positions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where each rec click (B, Lr) and each search (B, Ls) stands in the merged history; 0 in padding slots."""
    n_rec, n_search = batch.rec_items.shape[1], batch.search_query.shape[1]
    column = torch.where(batch.merged_task == 0, batch.merged_column, n_rec + batch.merged_column)  # (B, La)
    column = column.where(batch.merged_mask, n_rec + n_search)  # padding goes into a column of its own
    place = torch.arange(column.shape[1], device=column.device).expand_as(column)
    places = place.new_zeros(len(column), n_rec + n_search + 1).scatter(1, column, place)
    return places[:, :n_rec], places[:, n_rec : n_rec + n_search]
