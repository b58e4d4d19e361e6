"""What the product-search family shares: query encoders, noise-contrastive terms over items and words, word noise.

The family learns words and items in one space (HEM, Ai et al., SIGIR 2017; ZAM and QEM, Ai et al., CIKM 2019; TEM, Bi et
al., SIGIR 2020): a query is a bag of words, an item generates the words of its text, and every softmax is trained by
noise contrast.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.ragged import Ragged
from bench.errors import NothingToReadError
from bench.ranker.blocks.attention import masked_mean
from bench.ranker.contract import (
    Batch,
    Context,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
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
    text_words: PositiveInt = 8
    """Words drawn from an item's text per click; the published training makes one example per word instead."""
    word_noise: PositiveInt = 5
    """Noise words per drawn word, from the unigram distribution to the power .75."""
    words: Literal["text", "all"] = "text"
    """Whether the words of an item's categories, which generated queries consist of, are part of its text."""
    decay: NonNegativeFloat = 0.0
    """L2 on the rows that a step reads, divided by the batch size."""
    history: Literal["search", "both"] = "both"
    """Which earlier clicks a personalised model reads: those of searches, or of both tasks in order."""
    history_length: PositiveInt = 20
    """Clicks at most, the last ones (TEM's limit)."""
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    clip: NonNegativeFloat = 5.0


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
    drawn = (context[..., None, :] * noise).sum(-1)  # (..., K)
    if positive_bias is not None and noise_bias is not None:
        observed, drawn = observed + positive_bias, drawn + noise_bias
    return F.softplus(-observed) + F.softplus(drawn).sum(-1)


class WordNoise(nn.Module):
    """Draws words from counts^.75 (Mikolov et al., NeurIPS 2013), the noise of every language-model term here."""

    cumulative: Tensor

    def __init__(self, counts: np.ndarray, power: float = 0.75):
        super().__init__()
        weights = counts.astype(np.float64) ** power
        weights[0] = 0  # padding
        total = weights.sum()
        self.register_buffer("cumulative", torch.from_numpy(np.cumsum(weights) / max(total, 1.0)), persistent=False)

    def forward(self, *shape: int) -> Tensor:
        """Word ids (*shape), int64."""
        uniform = torch.rand(shape, dtype=torch.float64, device=self.cumulative.device)
        return torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=len(self.cumulative) - 1)


class WordBags(nn.Module):
    """Bags of words per owner (items or users), from which words are drawn in proportion to their counts."""

    offsets: Tensor
    values: Tensor

    def __init__(self, lists: Ragged):
        super().__init__()
        self.register_buffer("offsets", torch.as_tensor(lists.offsets, dtype=torch.long), persistent=False)
        self.register_buffer("values", torch.as_tensor(np.asarray(lists.values), dtype=torch.long), persistent=False)

    def forward(self, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Draw `count` words with replacement per owner (n,): (n, count) word ids and (n,) whether the bag has any."""
        start, length = self.offsets[owners], self.offsets[owners + 1] - self.offsets[owners]  # (n,)
        place = (torch.rand(len(owners), count, device=owners.device) * length[:, None]).long()  # (n, count)
        place = start[:, None] + place.minimum((length - 1).clamp(min=0)[:, None])
        if not len(self.values):
            return torch.zeros_like(place), length > 0
        return self.values[place.clamp(max=len(self.values) - 1)], length > 0


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

    Config: ClassVar[type] = ProductSearchConfig
    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False
    quick: ClassVar[dict[str, Any]] = {"max_steps": 2000}
    search_space: ClassVar[dict[str, Any]] = {
        "dim": [32, 64, 128],
        "lr": ("loguniform", 1e-4, 3e-3),
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
        self.word_biases = nn.Parameter(torch.zeros(catalog.n_words + 1))
        self.item_biases = nn.Parameter(torch.zeros(catalog.n_items + 1), requires_grad=config.item_bias)
        self.query_encoder = QueryEncoder(self.words, catalog.query_words, config.query_encoder)
        bags = catalog.item_text_words(categories=config.words == "all")
        self.item_bags = WordBags(bags)
        self.noise = WordNoise(np.bincount(bags.values, minlength=catalog.n_words + 1))

    @property
    def window(self) -> Window:
        """No history; the personalised members of the family override this."""
        return Window(rec=0, search=0)

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) what the row asks for; the query alone here."""
        return self.query_encoder(batch.query)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Search term plus text terms; both are means over the rows."""
        assert batch.item is not None and batch.negatives is not None
        intent = self.intent(batch)  # (B, d)
        search = self.contrast_items(intent, batch.item, batch.negatives).mean()
        text = self.text_loss(batch)
        total = search + self.config.text_weight * text
        if self.config.decay:
            total = total + self.config.decay * self.squares(batch) / len(batch)
        return total, {"search": search, "text": text}

    def contrast_items(self, context: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """(n,) noise contrast of contexts (n, d) with clicked items (n,) and noise items (n, K)."""
        return noise_contrast(
            context, self.items(positive), self.items(negatives), self.item_biases[positive], self.item_biases[negatives]
        )

    def contrast_words(self, context: Tensor, words: Tensor, real: Tensor) -> Tensor:
        """Mean noise contrast of contexts (n, d) with `words` (n, w) drawn from their bags; rows that are not `real` (n,)
        have no bag and count nothing.
        """
        noise = self.noise(*words.shape, self.config.word_noise)  # (n, w, K)
        spread = context[:, None].expand(*words.shape, -1)  # (n, w, d)
        each = noise_contrast(
            spread, self.words(words), self.words(noise), self.word_biases[words], self.word_biases[noise]
        )  # (n, w)
        return (each.mean(1) * real).sum() / len(real)

    def text_loss(self, batch: Batch) -> Tensor:
        """Each clicked item predicts words of its text."""
        words, real = self.item_bags(batch.item, self.config.text_words)
        return self.contrast_words(self.items(batch.item), words, real)

    def squares(self, batch: Batch) -> Tensor:
        """Sum of squares of the rows that the search term reads."""
        items = torch.cat([batch.item[:, None], batch.negatives], 1)  # type: ignore[index,list-item]  # training rows have both
        words = self.query_encoder.query_words[batch.query]
        return self.items(items).square().sum() + self.words(words).square().sum()

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d + 1) what an item's vector is multiplied with; the last entry meets its bias."""
        intent = self.intent(batch)
        return torch.cat([intent, intent.new_ones(len(intent), 1)], 1)

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d + 1) item rows with their biases."""
        return torch.cat([self.items.weight, self.item_biases[:, None]], 1)

    def score(self, batch: Batch) -> Tensor:
        """(B, K) <intent, item> + bias."""
        return torch.einsum("bd,bkd->bk", self.row_vectors(batch), F.embedding(batch.cand, self.item_vectors()))


class PersonalisedSearch(ProductSearch):
    """Base of the members that read earlier clicks: the last `history_length` of them, of searches or of both tasks."""

    uses_history: ClassVar[bool] = True

    @property
    def window(self) -> Window:
        """Enough units for `history_length` clicks."""
        length = self.config.history_length
        return Window(rec=length if self.config.history == "both" else 0, search=length, clicks=5)

    def past_items(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Items (B, L) of the last clicks, oldest first and right padded with 0, and (B, L) which are real."""
        return batch.merged_clicks(self.config.history_length)
