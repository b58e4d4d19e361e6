"""What the product-search family shares: query encoders, noise-contrastive terms over items and words, word noise.

The family learns words and items in one space (HEM, Ai et al., SIGIR 2017; ZAM and QEM, Ai et al., CIKM 2019; TEM, Bi et
al., SIGIR 2020): a query is a bag of words, an item generates the words of its text, and every softmax is trained by
noise contrast.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.merged import Clicks
from bench.errors import NothingToReadError
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.blocks.rows import rows_of
from bench.ranker.blocks.word_bags import WordDraws, WordNoise, Words, item_words
from bench.ranker.contract import (
    Batch,
    Context,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
    TrainData,
    Window,
)


class ProductSearchConfig(TrainConfig):
    """Settings of the family. Sizes and optimiser are not published for the benchmark's data; see each model."""

    dim: PositiveInt = 64
    """Width of words, items and queries."""
    negatives: PositiveInt = 5
    """Noise items per click, drawn from the items that the user has no training event with."""
    query_encoder: Literal["fs", "mean", "projected"] = "fs"
    """How words become a query: tanh(linear(mean)) as published, their mean, or linear(mean)."""
    item_bias: bool = True
    """Whether the score adds a bias per item ("bias product" in the published code)."""
    text_weight: NonNegativeFloat = 1.0
    """Weight of the text terms beside the search term; the papers add them up."""
    text_words: PositiveInt = 4
    """Words drawn from the text of each of a step's items; the published training makes one example per word instead."""
    word_noise: PositiveInt = 5
    """Noise words per drawn word, from the unigram distribution to the power .75."""
    words: Words = "text"
    """Whether words that hold the query itself are left out of an item's text ("text") or not ("all"); see `item_words`."""
    decay: NonNegativeFloat = 0.0
    """L2 on the rows that a step reads, divided by the batch size."""
    history: Literal["search", "both"] = "both"
    """Which earlier clicks a personalised model reads: those of searches, or those of both tasks in order."""
    history_length: PositiveInt = 20
    """Most clicks that a personalised model reads, the last ones (TEM's limit)."""
    batch_size: PositiveInt = 256
    """Rows of a training batch; published are 64 words (HEM) and 384 words (TEM)."""
    # Chosen on a small simulated log, where 1e-3 learns nothing in 200 steps. It is not tuned on any real data set.
    lr: PositiveFloat = 3e-3
    """Learning rate of Adam; published is SGD .5 with linear decay (HEM, ZAM)."""
    clip: NonNegativeFloat = 5.0
    """Bound of the gradient's norm, as published."""


def noise_contrast(
    context: Tensor,
    positive: Tensor,
    noise: Tensor,
    positive_bias: Tensor | None = None,
    noise_bias: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of one positive row plus the SUM over its noise rows (HEM, eq. 7 with sampled noise).

    Args:
        context: (..., d) what predicts.
        positive: (..., d) the row that was observed.
        noise: (..., K, d) rows of the noise distribution.
        positive_bias: (...), of the positive row.
        noise_bias: (..., K), of the noise rows.

    Returns:
        (...) the loss of each context.
    """
    observed = (context * positive).sum(-1)  # (...)
    others = (context[..., None, :] * noise).sum(-1)  # (..., K)
    if positive_bias is not None and noise_bias is not None:
        observed, others = observed + positive_bias, others + noise_bias
    return F.softplus(-observed) + F.softplus(others).sum(-1)


class QueryEncoder(nn.Module):
    """A query as a bag of words: phi(q) = tanh(A mean(w) + a) ("fs"), the mean itself, or A mean(w) + a ("projected").

    The mean is over real words only, so neither their order nor the width of the padding counts. A query without words
    is the zero vector in all three forms.
    """

    query_words: Tensor

    def __init__(self, words: nn.Embedding, query_words: Tensor, form: str):
        super().__init__()
        # In a tuple: the table belongs to the model and is saved once.
        self._words = (words,)
        self.register_buffer("query_words", query_words, persistent=False)
        self.form = form
        self.linear = nn.Linear(words.embedding_dim, words.embedding_dim) if form != "mean" else None

    def forward(self, queries: Tensor) -> Tensor:
        """Query ids (n,) -> (n, d)."""
        (table,) = self._words
        ids = self.query_words[queries]  # (n, W)
        mean = masked_mean(table(ids), ids > 0)  # (n, d)
        if self.linear is None:
            return mean
        projected = self.linear(mean)
        encoded = torch.tanh(projected) if self.form == "fs" else projected
        return encoded * (ids > 0).any(1, keepdim=True)


class ProductSearch(TorchRanker):
    """Base of the family: a subclass says in `intent` what a row asks for; the score is its product with the item.

    s(row, i) = <intent(row), E[i]> + b_i. The loss is the noise contrast of the clicked item and, weighted by
    `text_weight`, that of the words of its text: the second puts items that nobody searched for beside their words.
    """

    Config = ProductSearchConfig
    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "dim": [32, 64, 128],
        "lr": ("loguniform", 1e-4, 1e-2),
        "text_weight": [0.1, 0.5, 1.0],
        "negatives": [5, 10, 20],
        "decay": [0.0, 1e-6, 1e-5, 1e-4],
    }

    def __init__(self, config: Any, context: Context):
        super().__init__(config, context)
        catalog, d = self.catalog, config.dim
        if not len(catalog.query_word_lists.values):
            raise NothingToReadError(f"the queries of {catalog.name} have no words for {self.entry.name} to read")
        self.words = nn.Embedding(catalog.n_words + 1, d, padding_idx=0)
        self.items = nn.Embedding(catalog.n_items + 1, d, padding_idx=0)
        for table in (self.words, self.items):
            nn.init.normal_(table.weight, std=d**-0.5)
            with torch.no_grad():
                table.weight[0] = 0
        # The log odds of an observed row among its noise; public code starts at 0. From there the first steps lower every
        # product instead: what a history adds is random then, and ZAM's attention leaves it for its zero vector for good.
        start = -math.log(config.negatives) if config.item_bias else 0.0
        self.item_biases = nn.Parameter(torch.full((catalog.n_items + 1,), start), requires_grad=config.item_bias)
        self.word_biases = nn.Parameter(torch.full((catalog.n_words + 1,), -math.log(config.word_noise)))
        self.query_encoder = QueryEncoder(self.words, catalog.query_words, config.query_encoder)
        self._text = ""

    def precompute(self, train: TrainData) -> None:
        """Gather the words of the items and their noise distribution from the training side."""
        lists, self._text = item_words(self.catalog, train, self.config.words)
        self.item_draws = WordDraws(lists).to(self.context.device)
        counts = np.bincount(lists.values, minlength=self.catalog.n_words + 1)
        self.noise = WordNoise(counts).to(self.context.device)
        self._text += f" ({int(counts[1:].sum())} words)"

    def evidence(self) -> dict[str, Any]:
        """Which words the language-model terms predict."""
        return super().evidence() | {"words of items": self._text}

    @property
    def window(self) -> Window:
        """No history; the personalised members of the family override this."""
        return Window(rec=0, search=0)

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) what the row asks for; the query alone here."""
        return self.query_encoder(batch.query)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Search term plus text terms; both are means over the rows."""
        search = self.contrast_items(self.intent(batch), clicked(batch), drawn(batch)).mean()
        text = self.text_loss(batch)
        total = search + self.config.text_weight * text
        if self.config.decay:
            total = total + self.config.decay * self.squares(batch) / len(batch)
        return total, {"search": search, "text": text}

    def contrast_items(self, context: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """(n,) noise contrast of contexts (n, d) with clicked items (n,) and noise items (n, K)."""
        return noise_contrast(
            context,
            self.items(positive),
            self.items(negatives),
            rows_of(self.item_biases, positive),
            rows_of(self.item_biases, negatives),
        )

    def contrast_words(self, context: Tensor, words: Tensor, real: Tensor) -> Tensor:
        """Mean noise contrast of contexts (n, d) with `words` (n, w) from their bags; 0 for those not `real` (n,)."""
        noise = self.noise(*words.shape, self.config.word_noise)  # (n, w, K)
        each = noise_contrast(
            context[:, None],
            self.words(words),
            self.words(noise),
            rows_of(self.word_biases, words),
            rows_of(self.word_biases, noise),
        )  # (n, w)
        return (each.mean(1) * real).sum() / len(real)

    def text_loss(self, batch: Batch) -> Tensor:
        """Items predict words of their text: the clicked ones and as many drawn ones, searched for or not."""
        items = torch.cat([clicked(batch), self.item_draws.owners(len(batch))])  # (2B,)
        words, real = self.item_draws(items, self.config.text_words)
        return self.contrast_words(self.items(items), words, real)

    def squares(self, batch: Batch) -> Tensor:
        """Sum of squares of the rows that the search term reads."""
        items = torch.cat([clicked(batch)[:, None], drawn(batch)], 1)  # (B, 1 + N)
        words = self.query_encoder.query_words[batch.query]  # (B, W)
        return self.items(items).square().sum() + self.words(words).square().sum()

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d + 1) what an item's vector is multiplied with; the last entry meets its bias."""
        intent = self.intent(batch)
        return torch.cat([intent, intent.new_ones(len(intent), 1)], 1)

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d + 1) item rows with their biases."""
        return torch.cat([self.items.weight, self.item_biases[:, None]], 1)


class PersonalisedSearch(ProductSearch):
    """Base of the members that read earlier clicks: the last `history_length` of them, of searches or of both tasks."""

    uses_history: ClassVar[bool] = True

    @property
    def window(self) -> Window:
        """Enough units for `history_length` clicks."""
        length = self.config.history_length
        return Window(rec=length if self.config.history == "both" else 0, search=length, clicks=5)

    def past_clicks(self, batch: Batch) -> Clicks:
        """The last clicks of each row, oldest first."""
        return batch.merged(self.config.history_length).last_clicks(self.config.history_length)


class AttentiveSearch(PersonalisedSearch):
    """Base of AEM and ZAM: intent = phi(q) + sum over earlier clicks of a_j E[h_j].

    f(q, j) = (E[h_j]^T tanh(Wf phi(q) + bf)) . Wh without an additive constant (ZAM paper, section 3.3): a constant would
    move ZAM's threshold. Past clicks and candidates share the table E.
    """

    def __init__(self, config: Any, context: Context):
        super().__init__(config, context)
        self.projection = nn.Linear(config.dim, config.dim * config.heads)
        # Xavier: the unit normal of public code saturates the softmax.
        self.head_weights = nn.Parameter(torch.empty(config.heads, 1))
        nn.init.xavier_normal_(self.head_weights)

    def attention(self, query: Tensor, items: Tensor, real: Tensor) -> Tensor:
        """(B, L) logits f of past items (B, L, d) under encoded queries (B, d); -inf where not `real` (B, L)."""
        keys = torch.tanh(self.projection(query)).view(len(query), self.config.dim, self.config.heads)  # (B, d, heads)
        logits = (torch.einsum("bld,bdh->blh", items, keys) @ self.head_weights).squeeze(-1)  # (B, L)
        return logits.masked_fill(~real, -torch.inf)

    def weights(self, logits: Tensor) -> Tensor:
        """(B, L) weights of the past clicks from their logits (B, L); rows without any are all 0."""
        raise NotImplementedError

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) phi(q) + u(q); phi(q) alone for a row without history."""
        query = self.query_encoder(batch.query)  # (B, d)
        past = self.past_clicks(batch)
        items = self.items(past.items)  # (B, L, d)
        weights = self.weights(self.attention(query, items, past.mask))  # (B, L)
        return query + torch.einsum("bl,bld->bd", weights, items)


def clicked(batch: Batch) -> Tensor:
    """(B,) the clicked items of a training batch."""
    assert batch.item is not None, "only training batches say what was clicked"
    return batch.item


def drawn(batch: Batch) -> Tensor:
    """(B, N) the negatives of a training batch."""
    assert batch.negatives is not None, "only training batches have negatives"
    return batch.negatives
