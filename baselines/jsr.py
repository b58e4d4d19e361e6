"""JSR (re-implementation): two towers above one representation of items (Zamani and Croft, DESIRES 2018).

No code of this model is public; public code of the name is that of another model of the same authors (WSDM 2020). The
abstract tells the idea: search and recommendation are learnt together because they share the items. What it leaves open
is reconstruction, as the class says.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.data.log import REC, SEARCH
from bench.errors import NothingToReadError
from bench.ranker.blocks.experts import mlp
from bench.ranker.blocks.losses import bce, bpr
from bench.ranker.blocks.pooling import TermImportance
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
    Window,
)
from bench.ranker.registry import register


class JSRConfig(TrainConfig):
    """Settings of the reconstruction; none is published.

    Items, loss, rate and scale were chosen on the validation rows of MovieLens-100K (mean N@10 of both tasks, at most 1,476
    steps): .468. With ids in place of the text it is .454, with both .467. At the rate 1e-2 and the scale .3 binary
    cross-entropy has .452 with both, pairs .443.
    """

    d: PositiveInt = 64
    """Width of users, items and words."""
    hidden: PositiveInt = 64
    """Width of the two layers of each tower's network."""
    dropout: Fraction = 0.2
    """Between the layers of the towers."""
    item: Literal["text", "id", "both"] = "text"
    """What an item is: its words, pooled as a query's are; a vector of its id; or the sum of the two."""
    loss_type: Literal["BPR", "BCE"] = "BCE"
    """Of each task: binary cross-entropy of clicks and negatives, or cross-entropy of their pairs."""
    search_weight: NonNegativeFloat = 1.0
    """Weight of the search loss beside the rec loss; 0 leaves the recommendation tower alone."""
    initial_std: PositiveFloat = 0.1
    """Standard deviation that the tables start with; the towers read products of two of them."""
    batch_size: PositiveInt = 256
    """Rows of a training batch, of both tasks as they come."""
    lr: PositiveFloat = 5e-3
    """Learning rate of Adam."""


@register(
    "jsr", title="JSR (re-implementation)", tasks=("rec", "search"), group="unified", cite="Zamani and Croft, 2018"
)
class JSR(TorchRanker):
    """Search f(q, i) = psi_S(phi_Q(q) * phi_I(i)); recommendation g(u, i) = psi_R(phi_U(u) * phi_I(i)); loss = L_R + L_S.

    phi_Q weighs the words of a query by a softmax over one learnt importance per word; phi_I does so with the words of
    an item's text; phi_U is a vector per user; `*` is the product by element; each psi is a network of its own with two
    hidden layers. The table of words (and that of items, where `item` says "id" or "both") is shared by the tasks. Search is
    not personalised and nothing reads a history. Where items have no words, `item="id"` is what can be run.

    Reconstruction: all widths, two hidden layers, and the pointwise loss with four uniform negatives.
    """

    Config = JSRConfig
    uses_query = True
    uses_history = False
    uses_user = ("rec",)
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "d": [32, 64, 128],
        "lr": ("loguniform", 1e-3, 3e-2),
        "dropout": [0.0, 0.2, 0.5],
        "item": ["text", "id", "both"],
        "loss_type": ["BPR", "BCE"],
        "search_weight": [0.1, 1.0, 10.0],
        "weight_decay": [0.0, 1e-6, 1e-5],
    }
    config: JSRConfig
    item_words: Tensor
    query_words: Tensor

    def __init__(self, config: JSRConfig, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.d
        if config.item == "text" and not len(catalog.item_word_lists.values):
            raise NothingToReadError(f"the items of {catalog.name} have no words; set jsr.item to id")
        if context.tasks != ("rec",) and not len(catalog.query_word_lists.values):
            raise NothingToReadError(f"the queries of {catalog.name} have no words for jsr to read")
        self.register_buffer("item_words", catalog.item_words, persistent=False)  # (n_items + 1, W)
        self.register_buffer("query_words", catalog.query_words, persistent=False)  # (n_queries + 1, W')
        self.users = nn.Embedding(catalog.n_users + 1, d)
        self.words = nn.Embedding(catalog.n_words + 1, d)
        self.importance = TermImportance(catalog.n_words + 1)
        tables = [self.users, self.words]
        if config.item != "text":
            self.items = nn.Embedding(catalog.n_items + 1, d)
            tables.append(self.items)
        for table in tables:
            nn.init.normal_(table.weight, std=config.initial_std)
        # By task code: psi_R, psi_S.
        self.towers = nn.ModuleList(mlp([d, config.hidden, config.hidden, 1], config.dropout) for _ in (REC, SEARCH))

    @property
    def window(self) -> Window:
        """No history."""
        return Window(rec=0, search=0)

    def text(self, words: Tensor) -> Tensor:
        """Word ids (..., W), 0 = padding -> (..., d), zero without words."""
        return self.importance(self.words(words), words)

    def item_vectors_of(self, ids: Tensor) -> Tensor:
        """phi_I of items (...): (..., d)."""
        if self.config.item == "id":
            return self.items(ids)
        # Each item is pooled once, however often it stands in the batch.
        distinct, place = ids.unique(return_inverse=True)
        vectors = self.text(self.item_words[distinct])  # (n, d)
        if self.config.item == "both":
            vectors = vectors + self.items(distinct)
        return rows_of(vectors, place)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tasks (B,) and phi_U or phi_Q of each row, (B, d)."""
        search = batch.task == SEARCH
        asked = self.text(self.query_words[batch.query])  # (B, d)
        return batch.task, torch.where(search[:, None], asked, self.users(batch.user))

    def score_items(self, encoded: tuple[Tensor, Tensor], cand: Tensor) -> Tensor:
        """(B, K) logits of the towers of the rows' tasks."""
        task, rows = encoded
        product = rows[:, None] * self.item_vectors_of(cand)  # (B, K, d)
        scores = torch.zeros(cand.shape, device=cand.device)
        for code, tower in enumerate(self.towers):
            own = task == code
            if own.any():
                scores = scores.masked_scatter(own[:, None], tower(product[own]).squeeze(-1).float())
        return scores

    def represent(self, batch: Batch) -> Representation:
        """phi_U or phi_Q beside phi_I, (B, K, 2d), and the product that the towers read, (B, K, d)."""
        _, rows = self.encode(batch)
        items = self.item_vectors_of(batch.cand)  # (B, K, d)
        return Representation(torch.cat([rows[:, None].expand_as(items), items], -1), rows[:, None] * items)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_rec + search_weight * L_search, each the mean over its rows; fresh value near ln 2 each."""
        assert batch.item is not None and batch.negatives is not None
        scores = self.score_items(
            self.encode(batch), torch.cat([batch.item[:, None], batch.negatives], 1)
        )  # (B, 1 + N)
        of = bpr if self.config.loss_type == "BPR" else bce
        total, parts = scores.new_zeros(()), {}
        for code, task in ((REC, "rec"), (SEARCH, "search")):
            rows = batch.task == code
            if rows.any():
                part = parts[task] = of(scores[rows, 0], scores[rows, 1:])
                # A run of search alone has nothing to be weighted against.
                alone = len(self.context.tasks) == 1
                total = total + part * (1.0 if task == "rec" or alone else self.config.search_weight)
        return total, parts
