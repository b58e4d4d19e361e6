"""USER: one Transformer model over the sessions of both behaviours (Yao et al., CIKM 2021)."""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.catalog import Catalog
from bench.data.log import SEARCH
from bench.data.merged import MergedHistory
from bench.ranker.blocks.encoder import Encoder, EncoderLayer
from bench.ranker.blocks.lengths import by_length
from bench.ranker.blocks.pooling import AdditiveAttention, masked_mean, weighted_mean
from bench.ranker.blocks.rows import rows_of
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Representation,
    TorchRanker,
    TrainConfig,
)
from bench.ranker.registry import register


class USERConfig(TrainConfig):
    """Settings of the official code where it has them; it trains on no public data, so there are none per data set."""

    d: PositiveInt = 100
    """Width of words, acts and intents."""
    heads: PositiveInt = 4
    """Heads of a layer, which share `d`; the official code has eight of width 64 each."""
    hidden: PositiveInt = 200
    """Width of a layer's network; 2048 in the official code."""
    dropout: Fraction = 0.1
    """In the Transformer layers."""
    gap: PositiveFloat = 1800.0
    """A pause of more seconds than this begins a session."""
    words: PositiveInt = 12
    """Words that are read of a text, the first ones."""
    item_ids: bool = True
    """An item has a token of its own in front of its words."""
    output: Literal["tanh", "linear"] = "tanh"
    """What the loss reads: the tanh of the score, or the score."""
    released: bool = False
    """Encode candidates with the histories that the official code mixes up, and without positions, as it does."""
    initial_std: PositiveFloat = 0.1
    """Standard deviation that words, item tokens and users start with."""
    batch_size: PositiveInt = 256
    """Rows of a training batch."""
    clip: NonNegativeFloat = 1.0
    """Bound of the gradient's norm."""


@register("user", title="USER", tasks=("rec", "search"), group="unified", cite="Yao et al., CIKM 2021")
class USER(TorchRanker):
    """Words to texts, texts to sessions, sessions to a history; four cosines of intents and candidates make the score.

    - Text: a Transformer layer over words and additive attention. A past search is the co-attention of the words of its
      query and of its clicked item, a recommendation click the item's text.
    - Intent: the current query, or, where there is none, the user's vector.
    - Session: a layer within each session; on the current session, which the intent ends, it is applied twice.
    - History: a layer over the states of the past sessions and the intent, and over those states and each candidate.
    - Score: the cosines of {intent in its session, intent in the history} and {candidate, candidate in the history}.

    Cross-entropy of the clicked item among it and the sampled ones, one model for both tasks.

    The code is public (jingjyyao/Personalized-Search), the data, the training and 122 features of its candidates are
    not. What differs from the code:

    - It flattens candidates row by row and histories row after row, so that in a batch most candidates meet the history
      of another user: `released` does that. It also builds positions and never adds them; here they are learnt, in
      texts, in sessions, and in the history counted from now. `released` leaves them out.
    - Its matrix of the co-attention is no parameter and keeps its random start; here it is trained.
    - It trains on both tasks first and then on each one alone; here one model serves both as it is.
    - An item's text may be short or missing, so that the item has a token of its own. A search with several clicks is
      the mean over them. Candidates have no features. Words are learnt here, not read from a file.
    - The history layer of the code also updates the past states, which nothing reads; here it is computed at the intent
      and the candidates alone, with the same result.
    """

    Config = USERConfig
    uses_query = True
    uses_history = True
    uses_user: ClassVar[Any] = ("rec",)
    quick: ClassVar[dict[str, Any]] = {"max_steps": 300, "steps_per_epoch": 100}
    search_space: ClassVar[dict[str, Any]] = {
        "d": [64, 100],
        "gap": [1800.0, 86_400.0],
        "dropout": [0.1, 0.2, 0.5],
        "output": ["tanh", "linear"],
        "lr": ("loguniform", 1e-4, 3e-3),
    }
    config: USERConfig

    def __init__(self, config: USERConfig, context: Context):
        super().__init__(config, context)
        d, catalog = config.d, self.catalog
        self.text = TextEncoder(config, catalog)
        self.coattention = CoAttention(d)
        self.user = nn.Embedding(catalog.n_users + 1, d)
        self.session = Encoder(d, config.heads, 1, config.dropout, config.hidden)
        self.history = EncoderLayer(d, config.heads, config.dropout, config.hidden)
        acts = config.history_rec + config.history_search
        self.positions = None if config.released else nn.Parameter(torch.randn(2, acts + 1, d) * 0.02)
        self.out = nn.Linear(4, 1)
        nn.init.normal_(self.user.weight, std=config.initial_std)
        nn.init.ones_(self.out.weight)

    def score(self, batch: Batch) -> Tensor:
        """(B, K) scores before the tanh, which would not change their order but tie the highest."""
        return self.out(self._matched(batch)[1]).squeeze(-1).float()

    def represent(self, batch: Batch) -> Representation:
        """Both intents and both sides of the candidate, (B, K, 4d), and their four cosines, (B, K, 4)."""
        return Representation(*self._matched(batch))

    def _matched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `_match`, for the whole batch."""
        # The official mixture of histories is one of the whole batch in its order.
        parted = (
            [(torch.arange(len(batch), device=batch.user.device), batch)] if self.config.released else by_length(batch)
        )
        parts = [(rows, part.merged(max(1, part.merged_task.shape[1]))) for rows, part in parted]
        texts, searches = self._encode(batch, [past for _, past in parts])
        of_query = self._query_text(batch.query.where(batch.task == SEARCH, 0))  # (B,)
        now = torch.where((batch.task == SEARCH)[:, None], texts.vector(of_query), self.user(batch.user))  # (B, d)
        gap = round(self.config.gap * 1000)  # ms; an integer, for float32 rounds the pauses of days
        found = []
        for rows, past in parts:
            acts = torch.where(
                (past.tasks == SEARCH)[..., None],
                masked_mean(searches.vector(self._pairs(past)), _clicked(past)),
                texts.vector(past.items * (past.tasks != SEARCH)),
            )  # (b, L, d)
            pause = batch.time[rows] - past.times.gather(1, (past.length - 1).clamp(min=0)[:, None]).squeeze(1)
            sessions = past.sessions(gap)
            going_on = (pause <= gap)[:, None]  # the last session is the current one
            current = past.mask & (sessions == sessions.amax(1, keepdim=True)) & going_on  # (b, L)
            candidates = texts.vector(batch.cand[rows])  # (b, K, d)
            found.append(self._match(acts, past.mask, sessions, current, now[rows], candidates))
        back = torch.cat([rows for rows, _ in parts]).argsort()
        vectors, cosines = (torch.cat(each)[back] for each in zip(*found, strict=True))
        return vectors, cosines

    def _encode(self, batch: Batch, pasts: list[MergedHistory]) -> tuple["Texts", "Texts"]:
        """Each text that the batch speaks of once, and each pair of a query and an item clicked in its search."""
        pairs = torch.cat([self._pairs(past).flatten() for past in pasts]).unique()
        asked, clicked = pairs // self.text.n_items, pairs % self.text.n_items  # (P,)
        asked = self._query_text(asked)
        browsed = [(past.items * (past.tasks != SEARCH)).flatten() for past in pasts]
        now = self._query_text(batch.query.where(batch.task == SEARCH, 0))
        texts = self.text(torch.cat([batch.cand.flatten(), now, asked, clicked, *browsed]).unique())
        return texts, Texts(pairs, self.coattention(texts.words(asked), texts.words(clicked)))

    def _query_text(self, query: Tensor) -> Tensor:
        """Numbers of the texts of queries; of query 0 the empty text."""
        return torch.where(query > 0, query + self.text.n_items - 1, 0)

    def _pairs(self, past: MergedHistory) -> Tensor:
        """(b, L, C) a number for each query and an item clicked in its search; 0 elsewhere."""
        return (past.queries[..., None] * self.text.n_items + past.clicks) * _clicked(past)

    def _match(
        self, acts: Tensor, mask: Tensor, sessions: Tensor, current: Tensor, now: Tensor, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is compared, (b, K, 4d), and its cosines, (b, K, 4): two intents by two sides of each candidate.

        Args:
            acts: (b, L, d) vectors of the past acts.
            mask: (b, L) bool, which are real.
            sessions: (b, L) number of each act's session.
            current: (b, L) bool, acts of the session that goes on.
            now: (b, d) query or user.
            candidates: (b, K, d).
        """
        if self.positions is not None:
            acts = acts + rows_of(self.positions[0], _place_in_session(sessions))
            now = now + rows_of(self.positions[0], current.sum(1))
        # The intent stands in front. It belongs to the current session.
        seen = F.pad(current, (1, 0), value=True)  # (b, 1 + L)
        same = (sessions[:, :, None] == sessions[:, None]) & mask[:, None]  # (b, L, L)
        pairs = torch.cat([seen[:, None], torch.cat([current[:, :, None], same], 2)], 1)  # (b, 1 + L, 1 + L)
        states = self.session(torch.cat([now[:, None], acts], 1), pairs)  # (b, 1 + L, d)
        intent = self.session.first(states, seen)[:, None]  # (b, 1, d)
        past, encoded = mask & ~current, states[:, 1:]  # (b, L), (b, L, d)
        asking = torch.cat([intent, candidates], 1)  # (b, 1 + K, d)
        if self.positions is not None:
            encoded, asking = encoded + rows_of(self.positions[1], _age(mask)), asking + self.positions[1][0]
        if self.config.released:
            found = torch.cat(
                [self._ask(asking[:, :1], encoded, past), self._ask_others(asking[:, 1:], encoded, past)], 1
            )
        else:
            found = self._ask(asking, encoded, past)  # (b, 1 + K, d)
        intents = F.normalize(torch.cat([intent, found[:, :1]], 1), dim=-1)  # (b, 2, d)
        sides = F.normalize(torch.stack([candidates, found[:, 1:]], 2), dim=-1)  # (b, K, 2, d)
        cosines = torch.einsum("bid,bkcd->bkic", intents, sides).flatten(2)  # (b, K, 4)
        whole = intents.flatten(1)[:, None].expand(-1, sides.shape[1], -1)  # (b, K, 2d)
        return torch.cat([whole, sides.flatten(2)], -1), cosines

    def _ask(self, asking: Tensor, encoded: Tensor, past: Tensor) -> Tensor:
        """The history layer at each of (b, n, d) vectors, which see themselves and the history (b, L, d), not each other."""
        itself = torch.eye(asking.shape[1], dtype=torch.bool, device=asking.device).expand(len(asking), -1, -1)
        seen = torch.cat([past[:, None].expand(-1, asking.shape[1], -1), itself], 2)  # (b, n, L + n)
        return self.history(asking, seen, torch.cat([encoded, asking], 1))

    def _ask_others(self, asking: Tensor, encoded: Tensor, past: Tensor) -> Tensor:
        """The same with the histories of the official code: candidate number i of the batch meets row i modulo b."""
        rows, n, d = asking.shape
        other = torch.arange(rows * n, device=asking.device) % rows
        return self._ask(asking.reshape(rows * n, 1, d), encoded[other], past[other]).view(rows, n, d)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the clicked item among the K; at first about ln K."""
        assert batch.label is not None
        scores = self.score(batch)
        return F.cross_entropy(scores.tanh() if self.config.output == "tanh" else scores, batch.label.argmax(1))


class Words(NamedTuple):
    """States of the words of n texts (n, W, d), and which are real (n, W)."""

    states: Tensor
    mask: Tensor


class Texts(NamedTuple):
    """Vectors (n, d) of what has the numbers `ids` (n,), ascending, and of texts their words."""

    ids: Tensor
    vectors: Tensor
    of_words: Words | None = None

    def vector(self, ids: Tensor) -> Tensor:
        """(...) numbers -> (..., d)."""
        return F.embedding(torch.searchsorted(self.ids, ids), self.vectors)

    def words(self, ids: Tensor) -> Words:
        """The words of (n,) numbers."""
        assert self.of_words is not None
        at = torch.searchsorted(self.ids, ids)
        return Words(rows_of(self.of_words.states, at), self.of_words.mask[at])


class TextEncoder(nn.Module):
    """A Transformer layer over the words of items and queries, and additive attention above it.

    Texts are numbered: items by their ids, then queries; number 0 is the empty text, a zero vector.
    """

    tokens: Tensor

    def __init__(self, config: USERConfig, catalog: Catalog):
        super().__init__()
        d, self.n_items = config.d, catalog.n_items + 1
        tables = [catalog.item_words[:, : config.words], catalog.query_words[:, : config.words]]
        width = max(1, *(table.shape[1] for table in tables))
        tokens = torch.cat([F.pad(table, (0, width - table.shape[1])) for table in tables])
        tokens = torch.cat([tokens[: self.n_items], tokens[self.n_items + 1 :]])  # query 0 is the empty text, too
        rows = 1 + catalog.n_words
        if config.item_ids:
            own = torch.zeros(len(tokens), 1, dtype=torch.long)
            own[1 : self.n_items, 0] = torch.arange(rows, rows + catalog.n_items)
            tokens, rows = torch.cat([own, tokens], 1), rows + catalog.n_items
        self.register_buffer("tokens", tokens, persistent=False)  # (texts, W)
        self.table = nn.Embedding(rows, d, padding_idx=0)
        nn.init.normal_(self.table.weight, std=config.initial_std)
        with torch.no_grad():
            self.table.weight[0] = 0
        self.position = None if config.released else nn.Parameter(torch.randn(tokens.shape[1], d) * 0.02)
        self.encoder = Encoder(d, config.heads, 1, config.dropout, config.hidden)
        self.attention = AdditiveAttention(d, d)

    def forward(self, ids: Tensor) -> Texts:
        """Texts of the numbers (n,), ascending."""
        tokens = self.tokens[ids]  # (n, W)
        mask = tokens > 0
        x = self.table(tokens)
        states = self.encoder(x if self.position is None else x + self.position, mask)  # (n, W, d)
        return Texts(ids, self.attention(states, mask), Words(states, mask))


class CoAttention(nn.Module):
    """Linear([q; d]) with q and d weighted means of the words of a query and of a clicked item.

    With L = tanh(Q W D^T), the weights of the query's words are the softmax of the rows' sums, those of the item's the
    softmax of the columns' sums.
    """

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        self.linear = nn.Linear(2 * d, d)
        nn.init.xavier_normal_(self.weight)

    def forward(self, query: Words, item: Words) -> Tensor:
        """Words of P queries and of P items -> (P, d)."""
        both = query.mask[:, :, None] & item.mask[:, None]  # (P, Wq, Wd)
        affinity = torch.tanh(query.states @ self.weight @ item.states.transpose(1, 2)) * both
        q = weighted_mean(query.states, affinity.sum(2), query.mask)  # (P, d)
        return self.linear(torch.cat([q, weighted_mean(item.states, affinity.sum(1), item.mask)], 1))


def _clicked(past: MergedHistory) -> Tensor:
    """(b, L, C) bool: clicks of searches, and the first place of a search without one."""
    clicked = past.clicks > 0
    clicked[..., 0] = True
    return clicked & (past.mask & (past.tasks == SEARCH))[..., None]


def _place_in_session(sessions: Tensor) -> Tensor:
    """(b, L) place of each act in its session, from 0."""
    place = torch.arange(sessions.shape[1], device=sessions.device).expand_as(sessions)
    begins = F.pad(sessions[:, 1:] != sessions[:, :-1], (1, 0), value=True)
    return place - (place * begins).cummax(1).values


def _age(mask: Tensor) -> Tensor:
    """(b, L) acts from each one to now: the last is 1; 0 in padding slots."""
    return (mask.sum(1, keepdim=True) - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)
