"""The structure that simulated logs have: tastes, intents, transitions, popularity; and the scorer that knows it.

Every strength can be 0. With all of them 0 a click is a uniform draw from the items that can be clicked, independent
of user, query, time and past.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bench.data import hashing
from bench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.batch import Batch
    from bench.data.log import Log

DAY_MS = 86_400_000
START_MS = 1_684_737_000_000  # 2023-05-22 14:30 in Beijing, as in KuaiSAR
_FAVOURITES = np.asarray([0.65, 0.35])  # share of a user's first and second favourite topic
POOL = 41  # words of an intent; a prime, so that steps through it never repeat a word
COMMON = 100_000  # words that every caption may hold
_FIRST_WORD = 1_000_000


class Parameters(BaseModel):
    """Size of a simulated release and strength of what is planted; a strength of 0 plants nothing."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    seed: int = 0
    """Of everything that is drawn."""
    users: int = Field(default=500, ge=1)
    """Number of users, exactly."""
    items: int = Field(default=4_000, ge=10)
    """Number of items, exactly."""
    events: int = Field(default=80_000, ge=100)
    """Rows of both interaction files together, exactly."""
    search_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the rows that belong to searches."""
    days: float = Field(default=9.8, gt=0, le=400)
    """Length of the period."""
    clickable: float = Field(default=0.5, gt=0, le=1)
    """Share of the items that anybody ever clicks."""
    topics: int = Field(default=12, ge=1)
    """Number of topics."""
    intents: int = Field(default=4, ge=1)
    """Intents per topic; an item belongs to one."""
    queries: int = Field(default=4, ge=1)
    """Fixed keyword tuples by which an intent is searched."""
    taste: float = Field(default=0.7, ge=0, le=1)
    """Probability that a click or search without a predecessor follows the user's favourite topics."""
    transition: float = Field(default=0.4, ge=0, le=1)
    """Probability that a recommendation click takes the topic of the user's last search, and a search that of the last
    click."""
    direction: Literal["both", "to-rec", "to-search"] = "both"
    """Which of the two takes the topic of the other."""
    relevance: float = Field(default=0.8, ge=0, le=1)
    """Probability that a clicked search result is of the intent of the search."""
    vague: float = Field(default=0.0, ge=0, le=1)
    """Probability that the query of a search is one of any intent, so that it says nothing about the clicks."""
    vague_intents: int = Field(default=0, ge=0)
    """Intents whose queries stand for vague ones, the first; 0 = all. One makes a query that never misleads, such as "gift"."""
    popularity: float = Field(default=0.5, ge=0, le=2)
    """Exponent of Zipf's law within the items."""


def full_size(scale: float = 1.0, seed: int = 0) -> Parameters:
    """Parameters with the counts of the full KuaiSAR release times `scale`."""
    topics = max(2, round(297 * min(scale, 1.0)))
    return Parameters(
        seed=seed,
        users=max(20, round(25_877 * scale)),
        items=max(500, round(6_890_707 * scale)),
        events=max(2_000, round(19_664_885 * scale)),
        search_share=5_059_169 / 19_664_885,
        days=18.79,
        clickable=0.17,
        topics=topics,
        intents=20,
        queries=76,
        popularity=0.4,
    )


class Structure:
    """What is planted, by index from 0: favourite topics of users, intent and weight of items."""

    def __init__(self, parameters: Parameters):
        self.parameters = parameters
        n_intents = parameters.topics * parameters.intents
        rng = generator("structure", parameters)
        n_clickable = round(parameters.items * parameters.clickable)
        if n_clickable < n_intents:
            raise UsageError(
                f"simulated: {n_clickable} items that can be clicked cannot fill {n_intents} intents; more items or "
                "fewer topics"
            )
        self.favourites = rng.integers(parameters.topics, size=(parameters.users, len(_FAVOURITES)), dtype=np.int32)
        # Clickable items first in a random order, the intents dealt out in turn.
        shuffled = rng.permutation(parameters.items)
        self.intent = np.empty(parameters.items, dtype=np.int32)
        self.intent[shuffled] = np.arange(parameters.items) % n_intents
        clickable = shuffled[:n_clickable]
        weight = (rng.permutation(n_clickable) + 1.0) ** -parameters.popularity
        self.weight = np.zeros(parameters.items)
        self.weight[clickable] = weight
        order = np.argsort(self.intent[clickable], kind="stable")
        self._items = clickable[order].astype(np.int32)
        self._cumulative = np.concatenate([[0.0], np.cumsum(weight[order])])
        self._bounds = np.searchsorted(self.intent[self._items], np.arange(n_intents + 1))

    @property
    def topic(self) -> np.ndarray:
        """(items,) topic of each item."""
        return self.intent // self.parameters.intents

    def mass(self) -> np.ndarray:
        """(intents,) total weight of each intent."""
        return np.diff(self._cumulative[self._bounds])

    def topic_mass(self) -> np.ndarray:
        """(topics,) total weight of each topic."""
        return self.mass().reshape(self.parameters.topics, self.parameters.intents).sum(1)

    def draw(self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """One item of the intents [low, high) for each entry, proportional to weight."""
        start, stop = self._cumulative[self._bounds[low]], self._cumulative[self._bounds[high]]
        at = start + rng.random(len(low)) * (stop - start)
        cell = np.searchsorted(self._cumulative, at, side="right") - 1
        # Rounding may reach the next intent's first item.
        return self._items[np.clip(cell, self._bounds[low], self._bounds[high] - 1)]

    def liked(self, rng: np.random.Generator, user: np.ndarray) -> np.ndarray:
        """A favourite topic of each user."""
        return self.favourites[user, (rng.random(len(user)) >= _FAVOURITES[0]).astype(np.int64)]


def generator(purpose: str, parameters: Parameters) -> np.random.Generator:
    """Random numbers of one purpose of the simulation."""
    return np.random.Generator(np.random.Philox(key=hashing.seed("simulated", purpose, parameters.seed)))


def query_words(intent: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words of query `number` of an intent: ((n, 4) token ids, (n,) how many of them count); 1 to 4, distinct."""
    value = hashing.draw(hashing.key("simulated-query"), intent, number)
    first, step = value % np.uint64(POOL), (value >> np.uint64(16)) % np.uint64(POOL - 1) + np.uint64(1)
    length = (value >> np.uint64(32)) % np.uint64(4) + np.uint64(1)
    inner = (first[:, None] + step[:, None] * np.arange(4, dtype=np.uint64)) % np.uint64(POOL)
    return intent_word(intent[:, None], inner.astype(np.int64)), length.astype(np.int64)


def intent_word(intent: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Token id of a word of an intent."""
    return _FIRST_WORD + intent.astype(np.int64) * POOL + place


def common_word(place: np.ndarray) -> np.ndarray:
    """Token id of a word without meaning."""
    return 10 + place


def oracle(log: "Log", parameters: Parameters) -> "Callable[[Batch], Tensor]":
    """A scorer that knows the structure: log probability of a click on each candidate, up to a constant.

    It sees what every model sees (the batch), and reads tastes, intents and weights from the simulation. Of the past
    it needs the user's last search. Not a model of the table: no log of the real world has one.

    Raises:
        UsageError: queries are vague, so that a search does not tell its topic.
    """
    import torch

    if parameters.vague:
        raise UsageError(f"the oracle reads topics off queries, which vague = {parameters.vague} hides; use vague = 0")

    structure = Structure(parameters)
    item = np.asarray(log.items.id[1:], dtype=np.int64) - 1
    user = np.asarray(log.users.id[1:], dtype=np.int64) - 1
    weight, intent, topic = (np.r_[0, values[item]] for values in (structure.weight, structure.intent, structure.topic))
    favourites = np.r_[np.full((1, len(_FAVOURITES)), -1), structure.favourites[user]]
    # The first word of a query tells its intent.
    words = np.asarray(log.words.id[1:], dtype=np.int64)
    keywords = log.queries.words
    assert keywords is not None  # every simulated query has words
    of_query = np.r_[-1, (words[keywords.values[keywords.offsets[1:-1]] - 1] - _FIRST_WORD) // POOL]
    intent_mass = structure.mass()
    topic_mass = structure.topic_mass()
    whole = intent_mass.sum()

    def score(batch: "Batch") -> "Tensor":
        arrays = {
            name: getattr(batch, name).cpu().numpy()
            for name in ("user", "task", "query", "cand", "search_query", "search_len")
        }
        cand, last = arrays["cand"], np.maximum(arrays["search_len"] - 1, 0)
        before = np.take_along_axis(arrays["search_query"], last[:, None], 1)[:, 0]
        follows = parameters.transition * (parameters.direction != "to-search")
        copied = follows * (arrays["search_len"] > 0)
        own = np.zeros(cand.shape)
        for place, share in enumerate(_FAVOURITES):
            own += share * (topic[cand] == favourites[arrays["user"], place][:, None])
        from_search = topic[cand] == (of_query[before] // parameters.intents)[:, None]
        fresh = parameters.taste * own / topic_mass[topic[cand]] + (1 - parameters.taste) / whole
        rec = copied[:, None] * from_search / topic_mass[topic[cand]] + (1 - copied)[:, None] * fresh
        wanted = intent[cand] == of_query[arrays["query"]][:, None]
        search = parameters.relevance * wanted / intent_mass[intent[cand]] + (1 - parameters.relevance) / whole
        value = weight[cand] * np.where(arrays["task"][:, None] == 1, search, rec)
        return torch.as_tensor(np.log(np.maximum(value, 1e-30)), dtype=torch.float32)

    return score
