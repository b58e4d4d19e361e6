"""UnifiedSSR: one encoder for the products of both scenarios and the queries of search (Xie et al., WWW 2024)."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines.unifiedssr.config import UnifiedSSRConfig
from bench.baselines.unifiedssr.sessions import Sessions, pick, session_regulariser
from bench.data.log import SEARCH
from bench.ranker.blocks.attention import FeedForward, MultiHeadAttention
from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.encoder import sinusoidal
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.contract import (
    Batch,
    Context,
    Representation,
    SequenceBatch,
    Stream,
    TorchRanker,
    TrainData,
)
from bench.ranker.registry import register


@register("unifiedssr", title="UnifiedSSR", tasks=("rec", "search"), group="unified", cite="Xie et al., WWW 2024")
class UnifiedSSR(TorchRanker):
    """Two branches with the same weights: products attend to queries and queries to products; score = state . item.

    A recommendation reads the user's recommendation clicks, by the product branch alone. A search reads his searches,
    the products clicked in them by one branch, the queries up to the current one by the other; its score weighs the two
    by a learnt number within [.1, .9]. Above the encoder each sequence is cut into windows whose place and width a
    linear layer predicts; the mean of a window is added to its states. Windows of a sequence are pushed apart, those of
    products and queries that belong together are aligned (`session_weight`).

    Binary cross-entropy at every act against the sampled items. A step has sequences of each task. The authors train
    such a model first and then fine-tune a copy for each task; here it serves both tasks as it is.

    The official code (JennyXieJiayi/UnifiedSSR) contradicts this in ways that `released` reproduces:

    - It has no causal mask, so that states that are trained to tell the next product have seen it. Here a state sees
      what came before, and the windows at an act are those of the sequence that ends there.
    - Each layer gets the input of the first, and only the last one's output is used. Here layers are stacked.
    - Windows have hard ends, through which no gradient reaches their predictor: they stay where they start. Inside
      them the state itself is added, not the mean. Here ends are soft (`edge`), and the mean is added.
    - Weight 0 of the regulariser leaves out the windows as well.

    Two more of its ways are not reproduced: its windows are shares of the padded width, padding included, and in search it
    leaves out the first place.

    Unlike there, the first place of each sequence holds the user alone, so that a first click and a first search are
    trained and served, too; it is seen by later places. A search with several clicks is the mean over them.
    """

    Config = UnifiedSSRConfig
    trains_on: ClassVar[Literal["events", "sequences"]] = "sequences"
    uses_query = True
    uses_history = True
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {"max_steps": 500, "steps_per_epoch": 100}
    search_space: ClassVar[dict[str, Any]] = {
        "d": [32, 64],
        "layers": [1, 2, 3],
        "heads": [1, 2, 4, 8],
        "sessions": [1, 2, 3, 4],
        "session_weight": [0.0, 0.01, 0.1, 1.0],
        "dropout": [0.1, 0.3, 0.5],
        "lr": ("loguniform", 3e-4, 1e-2),
    }
    config: UnifiedSSRConfig
    sinusoids: Tensor
    query_words: Tensor

    def __init__(self, config: UnifiedSSRConfig, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.d
        self.length = max(config.history_rec, config.history_search) + 1  # acts of a training sequence
        self.users = nn.Embedding(catalog.n_users + 1, d)
        self.items = nn.Embedding(catalog.n_items + 1, d)
        self.words = nn.Embedding(catalog.n_words + 1, d)
        self.layers = nn.ModuleList(SiameseLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.dropout = Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for table in (self.users, self.items, self.words):
            nn.init.normal_(table.weight, std=config.initial_std)
        self.sessions = Sessions(d, config.sessions, config.edge, config.released)
        self.product_share = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("sinusoids", sinusoidal(self.length, d), persistent=False)
        self.register_buffer("query_words", catalog.query_words, persistent=False)

    def stream(self, train: TrainData) -> Stream:
        """Windows of recommendation clicks and windows of searches, side by side."""
        config = self.config
        parts = [train.only(task) for task in train.tasks]
        return Together(
            [part.sequences(config.batch_size, length=self.length, negatives=config.negatives) for part in parts]
        )

    def states(
        self, clicked: Tensor, queries: Tensor | None, user: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What the encoder makes of T places, place 0 without products.

        Args:
            clicked: (B, T, C) products of the act before each place, 0 = none.
            queries: (B, T) query at each place; None leaves out the query branch.
            user: (B,).
            mask: (B, T) bool, places in use.

        Returns:
            states of the product branch (B, T, d), and of the query branch.
        """
        around = self.users(user)[:, None] * math.sqrt(self.config.d) + self.sinusoids[: mask.shape[1]]  # (B, T, d)
        products = self.dropout(masked_mean(self.item(clicked), clicked > 0) + around)
        asked = None
        if queries is not None:
            # Each query is read once, however often it was asked.
            distinct, place = torch.where(mask, queries, 0).unique(return_inverse=True)
            words = self.query_words[distinct]
            read = masked_mean(self.words(words), words > 0) * math.sqrt(self.config.d)
            asked = self.dropout(F.embedding(place, read) + around)
        seen = mask[:, None].expand(-1, mask.shape[1], -1)  # (B, T, T)
        if not self.config.released:
            seen = seen & torch.ones_like(seen[0]).tril()
        for layer in [self.layers[-1]] if self.config.released else self.layers:
            if asked is None:
                products = layer(products, products, seen)
            else:
                products, asked = layer(products, asked, seen), layer(asked, products, seen)
        return self.norm(products), None if asked is None else self.norm(asked)

    def item(self, ids: Tensor) -> Tensor:
        """(...) items -> (..., d)."""
        return self.items(ids) * math.sqrt(self.config.d)

    @property
    def cuts(self) -> bool:
        """Whether states go through the sessions."""
        return not (self.config.released and self.config.session_weight == 0)

    def score(self, batch: Batch) -> Tensor:
        """(B, K) scores."""
        scores = torch.zeros(batch.cand.shape, device=batch.cand.device)
        for search in (False, True):
            rows = (batch.task == SEARCH) == search
            if rows.any():
                items = self.item(batch.cand[rows])  # (b, K, d)
                states = self._of_task(batch.take(torch.nonzero(rows).flatten()), search)
                scores[rows] = self._weighed([(items * state).sum(-1) for state in states]).float()
        return scores

    def represent(self, batch: Batch) -> Representation:
        """The states of both branches beside the candidate, and their products; zero for a branch that does not serve."""
        items = self.item(batch.cand)  # (B, K, d)
        states = items.new_zeros(*items.shape[:2], 2 * items.shape[2])
        for search in (False, True):
            rows = torch.nonzero((batch.task == SEARCH) == search).flatten()
            if len(rows):
                found = torch.cat(self._of_task(batch.take(rows), search), -1)  # (b, 1, d or 2d)
                states[rows, :, : found.shape[-1]] = found
        return Representation(torch.cat([states, items], -1), states * items.repeat(1, 1, 2))

    def _of_task(self, batch: Batch, search: bool) -> list[Tensor]:
        """The state of each branch at the row's own act, (b, 1, d); rows of one task."""
        if search:
            clicked, length = batch.search_items * batch.search_click_mask, batch.search_len
            queries = F.pad(batch.search_query, (0, 1)).scatter(1, length[:, None], batch.query[:, None])
        else:
            clicked, length, queries = (batch.rec_items * batch.rec_mask)[..., None], batch.rec_len, None
        clicked = F.pad(clicked, (0, 0, 1, 0))  # (B, L + 1, C)
        mask = torch.arange(clicked.shape[1], device=length.device) <= length[:, None]
        found = []
        for states in self.states(clicked, queries, batch.user, mask):
            if states is not None:
                at, length_ = length[:, None], length[:, None] + 1
                found.append(self.sessions(states, length_, at)[0] if self.cuts else pick(states, at))  # (B, 1, d)
        return found

    def _weighed(self, of_branches: list[Tensor]) -> Tensor:
        """One value of the product branch, or of both by their learnt share."""
        if len(of_branches) == 1:
            return of_branches[0]
        share = self.product_share.clamp(0.1, 0.9)
        return share * of_branches[0] + (1 - share) * of_branches[1]

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of the tasks, each with its sessions' part; without that at first (1 + negatives) ln 2 per task."""
        with torch.no_grad():
            self.product_share.clamp_(0.1, 0.9)  # beyond, it would get no gradient back
        total = self.item(batch.items[:0]).sum()
        parts: dict[str, Tensor] = {}
        for search in (False, True):
            rows = ((batch.tasks[:, 0] == SEARCH) == search).nonzero().squeeze(1)
            if len(rows):
                click, session = self._losses(_rows(batch, rows), search)
                task = "search" if search else "rec"
                parts |= {f"{task}/click": click, f"{task}/session": session}
                total = total + click + self.config.session_weight * session
        return total, parts

    def _losses(self, batch: SequenceBatch, search: bool) -> tuple[Tensor, Tensor]:
        """Of sequences of one task: binary cross-entropy, and the regulariser of the sessions."""
        assert batch.negatives is not None
        mask, target = batch.mask, batch.target  # (B, T)
        clicked = F.pad(batch.clicks, (0, 0, 1, 0))[:, :-1]  # (B, T, C), of the act before
        both = self.states(clicked, batch.queries if search else None, batch.user, mask)
        place = torch.arange(mask.shape[1], device=mask.device)[None]  # (1, T)
        losses, means = [], []
        for states in both:
            if states is None:
                continue
            if self.cuts:
                whole = batch.length[:, None]
                means.append(self.sessions(states, whole, whole - 1)[1].squeeze(1))  # (B, n, d)
                states = self.sessions(states, whole if self.config.released else place + 1, place)[0]
            states = states[target]  # (m, d)
            clicks = (states * self.item(batch.items[target])).sum(-1)  # (m,)
            others = torch.einsum("md,mnd->mn", states, self.item(batch.negatives[target]))
            losses.append((F.softplus(-clicks) + F.softplus(others).sum(1)).sum() / target.sum().clamp(min=1))
        return self._weighed(losses), session_regulariser(means)


class SiameseLayer(nn.Module):
    """Self-attention, attention to the other sequence, network; each normalises its input and is added to it."""

    def __init__(self, config: UnifiedSSRConfig):
        super().__init__()
        d = config.d
        self.own = MultiHeadAttention(d, config.heads, config.attention_dropout)
        self.cross = MultiHeadAttention(d, config.heads, config.attention_dropout)
        self.network = FeedForward(d, 2 * d, config.dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, other: Tensor, seen: Tensor) -> Tensor:
        """`x`, `other` (B, T, d), `seen` (B, T, T) places of either that a place may attend to -> (B, T, d)."""
        x = x + self.dropout(self.own(self.norm1(x), None, seen))
        x = x + self.dropout(self.cross(self.norm2(x), other, seen))
        return x + self.network(self.norm3(x))


class Together:
    """Streams of sequences as one: a step has the batches of all, row under row; a pass is the longest one's."""

    def __init__(self, streams: list[Stream]):
        self._streams = streams

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the longest stream."""
        return max(stream.steps_per_pass for stream in self._streams)

    def batches(self, start: int, count: int) -> Iterator[SequenceBatch]:
        """Steps `start` to `start + count` (exclusive); the same step gives the same batch."""
        for batches in zip(*(stream.batches(start, count) for stream in self._streams), strict=True):
            width = max(batch.clicks.shape[2] for batch in batches)
            for batch in batches:
                batch.clicks = F.pad(batch.clicks, (0, width - batch.clicks.shape[2]))
            yield SequenceBatch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in _known(batches[0])})


def _known(batch: SequenceBatch) -> list[str]:
    """Names of the tensors that a batch has."""
    return [each.name for each in fields(batch) if getattr(batch, each.name) is not None]


def _rows(batch: SequenceBatch, rows: Tensor) -> SequenceBatch:
    """Some rows of a batch."""
    return SequenceBatch(**{name: getattr(batch, name)[rows] for name in _known(batch)})
