"""SESRec: searches and clicks are split by how much they have in common (Si et al., SIGIR 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.catalog import Catalog
from bench.ranker.blocks.contrast import PairContrast
from bench.ranker.blocks.embeddings import lookup
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.experts import mlp
from bench.ranker.blocks.pooling import TargetAttention, masked_mean
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Representation,
    TorchRanker,
    TrainConfig,
)
from bench.ranker.registry import register

# A weight is one of an even share, 1/n, although rounding may have taken as much of it.
_ROUNDING = 1e-4


class SESRecConfig(TrainConfig):
    """The authors' settings for Amazon but for the margin; the widths of features are those of their other data set."""

    item: PositiveInt = 32
    """Width of item ids; with the features' it is the width d of states."""
    user: PositiveInt = 32
    """Width of user ids."""
    feature: PositiveInt = 8
    """Width of each feature of items and users."""
    query: PositiveInt = 16
    """Width of query ids."""
    word: PositiveInt = 16
    """Width of words."""
    layers: PositiveInt = 1
    """Transformer layers of each side."""
    heads: PositiveInt = 4
    """Heads of a layer; they divide d."""
    dropout: Fraction = 0.1
    """In the layers and in the last network."""
    pair_weight: NonNegativeFloat = 0.1
    """Weight of the alignment of queries with clicked items."""
    pair_temperature: PositiveFloat = 0.1
    """Start of that alignment's learnable temperature."""
    pair_negatives: PositiveInt = 1024
    """Sampled queries, and sampled items, of that alignment."""
    triplet_weight: NonNegativeFloat = 0.001
    """Weight of the triplets that train the split."""
    margin: PositiveFloat = 0.1
    """By how much an anchor is nearer to what is similar than to the rest."""
    batch_size: PositiveInt = 256
    """Rows of a training batch."""
    weight_decay: NonNegativeFloat = 1e-5
    """L2 weight."""
    plateau: NonNegativeInt = 3
    """Checks without a better one before the rate falls to a tenth."""
    min_lr: NonNegativeFloat = 1e-5
    """The rate does not fall below this."""


@dataclass
class Side:
    """The states of one behaviour, and which of them have something in common with the other behaviour."""

    states: Tensor  # (B, L, d)
    mask: Tensor  # (B, L) bool
    weights: Tensor  # (B, L) of the co-attention
    similar: Tensor  # (B, L) bool; all real places where there is nothing to tell apart
    dissimilar: Tensor  # (B, L) bool, likewise
    apart: Tensor  # (B,) bool, True where the two sets differ


@dataclass
class Encoded:
    """What SESRec knows of rows without their candidates."""

    rec: Side
    search: Side
    user: Tensor  # (B, user width)


@register("sesrec", title="SESRec", tasks=("rec",), group="rec", cite="Si et al., SIGIR 2023")
class SESRec(TorchRanker):
    """Score = network of three candidate-aware poolings of each behaviour (all, similar, dissimilar), user and candidate.

    A Transformer reads each behaviour; a search is its query plus the mean of its clicks. Co-attention of the two
    (`CoAttention`) gives each place a weight; places with at least an even share, 1/n, are similar, and the others
    dissimilar. The loss is binary cross-entropy, plus an alignment of queries with the items clicked in them, plus
    triplets: the weighted mean of a behaviour is nearer to its similar places than to its dissimilar ones. The query of
    the row to be ranked is unknown.

    The split is hard, so the triplets alone train the co-attention. Where this differs from the official code: padding
    never gets into the co-attention; a user without one of the behaviours is served, and all of the other is similar;
    triplets of rows whose two sets are equal, which have no gradient, are left out; batches are shuffled and negatives
    drawn anew; training stops after `patience` checks instead of waiting for the lowest rate; selection is by N@10
    instead of MRR. The source of a search (typed, suggested, ...) is the same for all, as on Amazon.
    """

    Config = SESRecConfig
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    published: ClassVar[dict[str, dict[str, Any]]] = {
        "amazon-kindle": {
            "epochs": 30,
            "margin": 0.1,
            "plateau": 5,
            "patience": 15,
            "history_rec": 15,
            "history_search": 15,
        }
    }
    search_space: ClassVar[dict[str, Any]] = {
        "lr": [1e-4, 5e-4, 1e-3],
        "weight_decay": [0.0, 1e-6, 1e-5],
        "dropout": [0.1, 0.2, 0.5],
        "pair_weight": [0.01, 0.1, 0.5],
        "pair_temperature": [0.05, 0.1, 0.5],
        "triplet_weight": [1e-4, 1e-3, 1e-2],
        "margin": [0.1, 0.5, 1.0],
    }
    config: SESRecConfig

    def __init__(self, config: SESRecConfig, context: Context):
        super().__init__(config, context)
        catalog = self.catalog
        self.items = Items(catalog, config.item, config.feature)
        d = self.items.linear.out_features
        self.users = Profile(catalog.n_users + 1, catalog.user_features, config.user, config.feature)
        self.queries = Queries(catalog, config.query, config.word, d)
        self.source = nn.Embedding(1, d)

        def encoder(length: int) -> Encoder:
            sizes = (d, config.heads, config.layers, config.dropout)
            return Encoder(*sizes, activation="leaky_relu", positions="learned", length=length)

        self.encoders = nn.ModuleDict({"rec": encoder(config.history_rec), "search": encoder(config.history_search)})
        self.together = CoAttention(d)
        self.pooling = nn.ModuleDict({side: TargetAttention(d) for side in ("rec", "search")})
        self.network = mlp([7 * d + self.users.width, 200, 80, 1], config.dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.xavier_normal_(module.weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if config.pair_weight:
            self.pairs = PairContrast(d, config.pair_temperature)

    def encode(self, batch: Batch) -> Encoded:
        """Both behaviours of each row with their split."""
        rec_ids = batch.rec_items.where(batch.rec_mask, 0)  # (B, Lr)
        search_ids = batch.search_items.where(batch.search_click_mask, 0)  # (B, Ls, Cs)
        items, (rec_at, search_at) = lookup(self.items, rec_ids, search_ids)
        queries, (asked_at,) = lookup(self.queries, batch.search_query.where(batch.search_mask, 0))
        clicked = masked_mean(F.embedding(search_at, items), batch.search_click_mask)  # (B, Ls, d)
        searches = F.embedding(asked_at, queries) + self.source.weight + clicked  # (B, Ls, d)
        rec = self.encoders["rec"](F.embedding(rec_at, items), batch.rec_mask)  # (B, Lr, d)
        search = self.encoders["search"](searches, batch.search_mask)  # (B, Ls, d)
        of_rec, of_search = self.together(rec, batch.rec_mask, search, batch.search_mask)
        return Encoded(
            rec=split_side(rec, batch.rec_mask, of_rec),
            search=split_side(search, batch.search_mask, of_search),
            user=self.users(batch.user),
        )

    def score_items(self, encoded: Encoded, cand: Tensor) -> Tensor:
        """(B, K) logits before the sigmoid of the official code."""
        return self.network(self._features(encoded, cand)).squeeze(-1).float()

    def represent(self, batch: Batch) -> Representation:
        """What the network reads, (B, K, 8d), and its last hidden layer, (B, K, h)."""
        features = self._features(self.encode(batch), batch.cand)
        *layers, _ = self.network
        return Representation(features, nn.Sequential(*layers)(features))

    def _features(self, encoded: Encoded, cand: Tensor) -> Tensor:
        """Six pooled histories, the user and the candidate, (B, K, 8d)."""
        vectors, (at,) = lookup(self.items, cand)
        candidates = F.embedding(at, vectors)  # (B, K, d)
        parts = [
            self.pooling[name](side.states, mask, candidates)
            for name, side in (("rec", encoded.rec), ("search", encoded.search))
            for mask in (side.mask, side.similar, side.dissimilar)
        ]
        user = encoded.user[:, None].expand(-1, cand.shape[1], -1)
        return torch.cat([*parts, user, candidates], -1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clicks + pair_weight * pairs + triplet_weight * triplets; the clicks' fresh value is near ln 2.

        Returns:
            the scalar loss; its parts before their weights, and the share of triplets that have a gradient.
        """
        assert batch.label is not None
        config = self.config
        encoded = self.encode(batch)
        clicks = F.binary_cross_entropy_with_logits(self.score_items(encoded, batch.cand), batch.label)
        total, parts = clicks, {"click": clicks}
        if config.pair_weight:
            (pairs,) = self.pairs.of_histories(batch, self.queries, self.items, config.pair_negatives, tasks=1)
            total, parts = total + config.pair_weight * pairs, parts | {"pairs": pairs}
        if config.triplet_weight:
            each = [triplets(side, config.margin) for side in (encoded.rec, encoded.search)]
            triplet = torch.stack([part.sum() / max(len(part), 1) for part in each]).sum()
            active = (torch.cat(each) > 0).float()
            total = total + config.triplet_weight * triplet
            parts |= {"triplets": triplet, "active": active.sum() / max(len(active), 1)}
        return total, parts


class CoAttention(nn.Module):
    """Weights of each place of two sequences by what it has in common with the other one (sec. 4.3).

    A = tanh(R W S^T); weights over R are softmax(A (S w)), those over S softmax(A^T (R v)). A side without any place
    leaves the other one's weights even.
    """

    def __init__(self, d: int):
        super().__init__()
        self.affinity = nn.Parameter(torch.empty(d, d))
        self.of_rec, self.of_search = nn.Parameter(torch.empty(1, d)), nn.Parameter(torch.empty(1, d))
        for weight in self.parameters():
            nn.init.xavier_normal_(weight)

    def forward(self, rec: Tensor, rec_mask: Tensor, search: Tensor, search_mask: Tensor) -> tuple[Tensor, Tensor]:
        """`rec` (B, Lr, d) and `search` (B, Ls, d) with their masks -> weights (B, Lr) and (B, Ls); 0 at padding."""
        both = rec_mask[:, :, None] & search_mask[:, None, :]
        affinity = torch.tanh(rec @ self.affinity @ search.transpose(1, 2)) * both  # (B, Lr, Ls)
        # Zeros at padding, which may hold anything.
        asked = (search @ self.of_search.T).masked_fill(~search_mask[..., None], 0)  # (B, Ls, 1)
        clicked = (rec @ self.of_rec.T).masked_fill(~rec_mask[..., None], 0)  # (B, Lr, 1)
        scores = (affinity @ asked).squeeze(-1), (affinity.transpose(1, 2) @ clicked).squeeze(-1)
        of_rec, of_search = (
            score.masked_fill(~mask, -1e12).softmax(-1) * mask
            for score, mask in zip(scores, (rec_mask, search_mask), strict=True)
        )
        return of_rec, of_search


def split_side(states: Tensor, mask: Tensor, weights: Tensor) -> Side:
    """Places with at least an even share of the weight, and the others; a set that would be empty holds all places.

    Args:
        states: (B, L, d).
        mask: (B, L) bool.
        weights: (B, L), their sum is 1 over real places.
    """
    count = mask.sum(1, keepdim=True)  # (B, 1)
    similar = mask & (weights * count >= 1 - _ROUNDING)
    dissimilar = mask & ~similar
    apart = dissimilar.any(1)  # of n shares one is at least even, so that the similar set is never empty alone
    return Side(states, mask, weights, similar, torch.where(apart[:, None], dissimilar, mask), apart)


def triplets(side: Side, margin: float) -> Tensor:
    """(n,) hinge losses of the rows whose two sets differ: Euclidean distances of the weighted mean to both means."""
    states, weights = side.states[side.apart], side.weights[side.apart]
    anchor = (weights[..., None] * states.masked_fill(~side.mask[side.apart][..., None], 0)).sum(1)  # (n, d)
    near, far = (masked_mean(states, chosen[side.apart]) for chosen in (side.similar, side.dissimilar))
    return F.triplet_margin_loss(anchor, near, far, margin=margin, reduction="none")


class Profile(nn.Module):
    """The vectors of an id and of its features side by side.

    Args:
        rows: number of ids with padding.
        features: codes of each id, (rows,) int64 each, 0 = padding.
        width: of the id.
        feature: width of each feature.
    """

    codes: Tensor

    def __init__(self, rows: int, features: dict[str, Tensor], width: int, feature: int):
        super().__init__()
        self.rows, self.width = rows, width + feature * len(features)
        self.id = nn.Embedding(rows, width)
        self.features = nn.ModuleList(nn.Embedding(int(codes.max()) + 1, feature) for codes in features.values())
        codes = torch.stack([*features.values()], 1) if features else torch.zeros(rows, 0, dtype=torch.long)
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, width)."""
        own = [table(self.codes[ids, column]) for column, table in enumerate(self.features)]
        return torch.cat([self.id(ids), *own], -1)


class Items(nn.Module):
    """linear([id; features]), of the same width."""

    def __init__(self, catalog: Catalog, width: int, feature: int):
        super().__init__()
        self.profile = Profile(catalog.n_items + 1, catalog.item_features, width, feature)
        self.rows = self.profile.rows
        self.linear = nn.Linear(self.profile.width, self.profile.width)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, d)."""
        return self.linear(self.profile(ids))


class Queries(nn.Module):
    """linear([id; mean of the words])."""

    query_words: Tensor

    def __init__(self, catalog: Catalog, width: int, word: int, d: int):
        super().__init__()
        self.rows = catalog.n_queries + 1
        self.id, self.words = nn.Embedding(self.rows, width), nn.Embedding(catalog.n_words + 1, word)
        self.linear = nn.Linear(width + word, d)
        self.register_buffer("query_words", catalog.query_words, persistent=False)  # (n_queries + 1, W)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, d)."""
        words = self.query_words[ids]  # (n, W)
        return self.linear(torch.cat([self.id(ids), masked_mean(self.words(words), words > 0)], -1))
