"""Query-SeqRec: queries and items as tokens of one sequence (He et al., CIKM 2022)."""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.catalog import Catalog
from bench.data.merged import Interleaved, MergedHistory
from bench.data.ragged import Ragged
from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.losses import full_softmax
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.contract import (
    Batch,
    Context,
    Field,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SequenceBatch,
    Stream,
    TorchRanker,
    TrainConfig,
    TrainData,
)
from bench.ranker.registry import register

BAG = 5  # ids of a token at most


class QuerySeqRecConfig(TrainConfig):
    """The authors' network; augmentation as they use it on Unsplash, dropout from the middle of their grid."""

    d: PositiveInt = 64
    """Width of ids and states."""
    layers: PositiveInt = 2
    """Blocks of attention and feed-forward network, the latter as wide as `d`."""
    heads: PositiveInt = 2
    """Heads of a block."""
    dropout: Fraction = 0.2
    """Of embeddings, attention weights and layers; .6 on Diginetica, none on Unsplash."""
    length: PositiveInt = Field(50, ge=2)
    """Tokens of a sequence, queries and items together."""
    p_item: NonNegativeFloat = Field(0.1, le=1)
    """Probability that an item of the input is replaced in training; .25 on Diginetica."""
    p_query: NonNegativeFloat = Field(0.1, le=1)
    """Probability that a query is replaced; .25 on Diginetica."""
    p_graph: NonNegativeFloat = Field(0.3, le=1)
    """Probability that the substitute comes from the query-item graph, else from the whole pool; .2 on Diginetica."""
    released: bool = False
    """Train sequences that fill the window at their queries alone, as the official code does by mistake."""
    initial_std: PositiveFloat = 0.02
    """Standard deviation that the tables start with."""
    history_rec: PositiveInt = 50
    """Last recommendation clicks to choose the tokens from."""
    history_search: PositiveInt = 50
    """Last searches to choose the tokens from."""
    batch_size: PositiveInt = 128
    """Sequences of a training batch."""
    steps_per_epoch: NonNegativeInt = 250
    """A pass over the sequences is short: one step for every few thousand tokens."""
    epochs: PositiveInt = 200
    """Most epochs, 50,000 steps."""
    patience: PositiveInt = 10
    """Checks without a better one before the training stops."""


@register("seqrec", title="Query-SeqRec", tasks=("rec",), group="rec", cite="He et al., CIKM 2022")
class QuerySeqRec(TorchRanker):
    """A causal Transformer over "query, item, item, query, item, ..."; score = state at the last token . item embedding.

    A token is a bag: an item's own id, or the first five words of a query, in one table of items and words. It is the
    mean of their rows, plus a type (query or not), plus a position. Cross-entropy over all items is taken wherever the
    next token is an item, after items and after queries; queries are no labels. Of a search with several clicks the one
    that the act is about in this pass is the label, the others are input. The query of the row to be ranked is unknown.

    In training, items and queries of the input (not the labels) are replaced now and then: by another neighbour of one
    of their neighbours in the graph of training queries and their clicked items (the walk may come back), or by any.

    The official code (AaronHeee/Query-SeqRec) computes its window mask with a slice that covers everything where a
    sequence fills the window, so that such sequences train at queries alone: `released` does that. Its blocks lack the
    residual around attention and add that of the network twice; here they are SASRec's, normalised before each part, as
    the paper says. Its table has one row more, which nothing reads.
    """

    Config = QuerySeqRecConfig
    trains_on: ClassVar[Literal["events", "sequences"]] = "sequences"
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1000}
    search_space: ClassVar[dict[str, Any]] = {
        "p_item": [0.0, 0.1, 0.25, 0.5],
        "p_query": [0.0, 0.1, 0.25, 0.5],
        "p_graph": [0.1, 0.2, 0.3],
        "dropout": [0.0, 0.2, 0.4, 0.6, 0.8],
        "weight_decay": [0.0, 1e-6, 1e-4, 1e-2],
        "lr": ("loguniform", 1e-4, 5e-3),
    }
    config: QuerySeqRecConfig
    bags: Tensor

    def __init__(self, config: QuerySeqRecConfig, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.d
        self.register_buffer("bags", _query_bags(catalog), persistent=False)  # (n_queries + 1, BAG)
        self.table = nn.Embedding(1 + catalog.n_items + catalog.n_words, d, padding_idx=0)
        self.types = nn.Embedding(2, d)
        self.positions = nn.Embedding(config.length, d)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(d, config.heads, config.layers, config.dropout, norm="pre", causal=True)
        for each in (self.table, self.types, self.positions):
            nn.init.normal_(each.weight, std=config.initial_std)
        with torch.no_grad():
            self.table.weight[0] = 0
        self._graph: QueryItemGraph | None = None

    def precompute(self, train: TrainData) -> None:
        """Build the graph of the training searches; scoring does not need it."""
        searches = train.arrays("search")
        self._graph = QueryItemGraph(
            searches["query"], searches["item"], self.catalog.n_queries, self.catalog.n_items, self.context.device
        )

    def stream(self, train: TrainData) -> Stream:
        """Windows of both behaviours, with as many acts as have `length` + 1 tokens on average."""
        events = train.arrays()
        acts = np.unique(events["event_id"])
        asked = np.unique(events["event_id"][events["query"] > 0])
        per_act = 1 + len(asked) / max(len(acts), 1)
        acts_per_window = max(2, math.ceil((self.config.length + 1) / per_act))
        return train.sequences(self.config.batch_size, length=acts_per_window, every_task=True)

    def states(self, ids: Tensor, is_query: Tensor, mask: Tensor) -> Tensor:
        """States of all tokens, each of those up to it.

        Args:
            ids: (B, T) query id where `is_query`, else item id; 0 in padding slots.
            is_query: (B, T) bool.
            mask: (B, T) bool, True on real tokens.

        Returns:
            (B, T, d).
        """
        single = F.pad(torch.where(is_query, 0, ids)[..., None], (0, BAG - 1))  # (B, T, BAG)
        bags = torch.where(is_query[..., None], self.bags[torch.where(is_query, ids, 0)], single)  # (B, T, BAG)
        tokens = masked_mean(self.table(bags), bags > 0)  # (B, T, d)
        tokens = tokens + self.types(is_query.long()) + self.positions.weight[: ids.shape[1]]
        return self.encoder(self.dropout(tokens), mask)

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d) states at the last token of the history; zero without one."""
        past = batch.merged(self.config.length).interleaved(self.config.length)
        states = self.states(past.ids, past.is_query, past.mask)  # (B, T, d)
        last = states[torch.arange(len(states), device=states.device), (past.length - 1).clamp(min=0)]  # (B, d)
        return last * (past.length > 0)[:, None]

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d) rows of the items."""
        return self.table.weight[: self.catalog.n_items + 1]

    def loss(self, batch: SequenceBatch) -> Tensor:
        """Cross-entropy of the items that come next; fresh value ln(n_items)."""
        tokens = interleaved(batch, self.config.length + 1)
        wanted = labels(tokens, batch.target, self.config.released)  # (B, T)
        ids, is_query, mask = tokens.ids[:, :-1], tokens.is_query[:, :-1], tokens.mask[:, :-1]
        states = self.states(self.replaced(ids, is_query, mask), is_query, mask)[wanted]  # (n, d)
        if not len(states):
            return states.sum()  # no sequence of the batch holds an item with a past
        return full_softmax(states, self.item_vectors(), tokens.ids[:, 1:][wanted])

    def replaced(self, ids: Tensor, is_query: Tensor, mask: Tensor) -> Tensor:
        """(B, T) the ids with some items and queries replaced by others."""
        config, graph = self.config, self._graph
        if not (config.p_item or config.p_query):
            return ids
        assert graph is not None  # precompute comes before the first loss
        draw = torch.rand((2, *ids.shape), device=ids.device)
        chosen = (draw[0] < torch.where(is_query, config.p_query, config.p_item)) & mask
        by_graph = draw[1] < config.p_graph
        items = graph.items(torch.where(is_query, 0, ids), by_graph)
        queries = graph.queries(torch.where(is_query, ids, 0), by_graph)
        return torch.where(chosen, torch.where(is_query, queries, items), ids)


def interleaved(batch: SequenceBatch, length: int) -> Interleaved:
    """The last `length` tokens of training sequences: of a search its query and its clicks, the act's target first."""
    acts = MergedHistory(batch.clicks, batch.queries, batch.tasks, batch.times, batch.length)
    return acts.interleaved(length)


def labels(tokens: Interleaved, target: Tensor, released: bool = False) -> Tensor:
    """Where a state is trained to tell the next token.

    Args:
        tokens: (B, T + 1) tokens; the first T are the input.
        target: (B, L) bool, acts whose past is everything before them.
        released: in sequences that fill the input, at queries only.

    Returns:
        (B, T) bool: the next token is the item that its act is about, and what stands before it is its past.
    """
    following, before = tokens.unit[:, 1:], tokens.unit[:, :-1]
    first = tokens.is_query[:, :-1] | (following != before)  # (B, T), further clicks of a search are no labels
    wanted = tokens.mask[:, 1:] & ~tokens.is_query[:, 1:] & first & target.gather(1, following)
    if released:
        full = tokens.length > wanted.shape[1]
        wanted &= tokens.is_query[:, :-1] | ~full[:, None]
    return wanted


class QueryItemGraph:
    """Training queries and the items clicked under them, and substitutes drawn from it.

    Args:
        queries: (E,) query of each search click, from 1.
        items: (E,) clicked item, from 1; a repeated pair is as many edges.
        n_queries: the highest query id.
        n_items: the highest item id.
        device: of the results.
    """

    def __init__(self, queries: np.ndarray, items: np.ndarray, n_queries: int, n_items: int, device: torch.device):
        self.n_queries, self.n_items = n_queries, n_items
        self._of_query = _Neighbours(queries, items, n_queries, device)
        self._of_item = _Neighbours(items, queries, n_items, device)

    def items(self, ids: Tensor, by_graph: Tensor) -> Tensor:
        """Substitutes of items (any shape): clicked under a query of the item where `by_graph` and there is one, else any."""
        query = self._of_item.draw(ids)
        return self._or_any(self._of_query.draw(query), by_graph, self.n_items)

    def queries(self, ids: Tensor, by_graph: Tensor) -> Tensor:
        """Substitutes of queries (any shape): another that led to an item of the query, or any."""
        item = self._of_query.draw(ids)
        return self._or_any(self._of_item.draw(item), by_graph, self.n_queries)

    def _or_any(self, found: Tensor, by_graph: Tensor, highest: int) -> Tensor:
        anything = torch.randint(1, max(highest, 1) + 1, found.shape, device=found.device)
        return torch.where(by_graph & (found > 0), found, anything)


class _Neighbours:
    """Lists of neighbours, one of which is drawn for each id; 0 has none."""

    def __init__(self, owners: np.ndarray, values: np.ndarray, highest: int, device: torch.device):
        lists = Ragged.from_pairs(owners, values, highest + 1)
        self._offsets = torch.as_tensor(lists.offsets, dtype=torch.long, device=device)
        # One entry more, so that there is something to read where all lists are empty.
        self._values = torch.as_tensor(np.append(lists.values, 0), dtype=torch.long, device=device)

    def draw(self, ids: Tensor) -> Tensor:
        start = self._offsets[ids]
        count = self._offsets[ids + 1] - start
        step = (torch.rand(ids.shape, device=ids.device) * count).long().clamp(max=(count - 1).clamp(min=0))
        return torch.where(count > 0, self._values[start + step], 0)


def _query_bags(catalog: Catalog) -> Tensor:
    """(n_queries + 1, BAG) rows of the joint table: words stand behind the items."""
    words = catalog.query_words[:, :BAG]
    return F.pad(torch.where(words > 0, words + catalog.n_items, 0), (0, BAG - words.shape[1]))
