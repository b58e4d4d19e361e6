"""Embeddings of items, queries and users from ids, features and words: tanh(Linear(concatenation))."""

from typing import Protocol

import torch
from torch import Tensor, nn

from bench.data.catalog import Catalog
from bench.ranker.blocks.pooling import masked_mean


class Table(Protocol):
    """A module that gives each of `rows` ids, padding with them, a vector."""

    rows: int

    def __call__(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, d)."""


class QueryEmbedding(nn.Module):
    """tanh(Linear(mean of the word vectors)); id 0 is the zero vector. The same network reads item text."""

    query_words: Tensor

    def __init__(self, catalog: Catalog, inner: int, d: int):
        super().__init__()
        self.rows = catalog.n_queries + 1
        self.words = nn.Embedding(catalog.n_words + 1, inner)
        self.linear = nn.Linear(inner, d)
        nn.init.xavier_normal_(self.words.weight)
        self.register_buffer("query_words", catalog.query_words, persistent=False)

    def text(self, words: Tensor) -> Tensor:
        """Word ids (n, W), 0 = padding -> (n, d)."""
        return torch.tanh(self.linear(masked_mean(self.words(words), words > 0)))

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) query ids -> (n, d)."""
        return self.text(self.query_words[ids]) * (ids > 0)[:, None]


class FeatureEmbedding(nn.Module):
    """tanh(Linear([id; features; text])) of an item or a user; item id 0 is the zero vector.

    Args:
        rows: number of ids with padding.
        features: codes of each id, (rows,) int64 each, 0 = padding.
        text: with `words` (rows, W) adds the text vector of a QueryEmbedding of width `d`.
    """

    codes: Tensor
    item_words: Tensor

    def __init__(
        self,
        rows: int,
        features: dict[str, Tensor],
        inner: int,
        d: int,
        text: QueryEmbedding | None = None,
        words: Tensor | None = None,
    ):
        super().__init__()
        self.rows = rows
        self.id = nn.Embedding(rows, inner)
        sizes = [int(codes.max()) + 1 for codes in features.values()]
        self.features = nn.ModuleList(nn.Embedding(size, inner) for size in sizes)
        for table in (self.id, *self.features):
            nn.init.xavier_normal_(table.weight)
        codes = torch.stack(list(features.values()), 1) if features else torch.zeros(rows, 0, dtype=torch.long)
        self.register_buffer("codes", codes, persistent=False)
        # In a tuple, so that its parameters stay the caller's alone and are saved once.
        self._text = (text,)
        if text is not None:
            self.register_buffer("item_words", words, persistent=False)
        self.linear = nn.Linear(inner * (1 + len(sizes)) + (d if text is not None else 0), d)

    def forward(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, d)."""
        parts = [self.id(ids)]
        parts += [table(self.codes[ids, column]) for column, table in enumerate(self.features)]
        (text,) = self._text
        if text is not None:
            parts.append(text.text(self.item_words[ids]))
        return torch.tanh(self.linear(torch.cat(parts, -1))) * (ids > 0)[:, None]


def lookup(table: Table, *ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Vectors (n, d), and for each of the id tensors (any shapes) the rows of `vectors` that belong to it.

    Each id goes through the network once, however often it occurs; `F.embedding(rows, vectors)` spreads the result.
    """
    flat = torch.cat([part.reshape(-1) for part in ids])
    if len(flat) >= table.rows:
        return table(torch.arange(table.rows, device=flat.device)), list(ids)
    distinct, inverse = flat.unique(return_inverse=True)
    split = inverse.split([part.numel() for part in ids])
    return table(distinct), [rows.view(part.shape) for rows, part in zip(split, ids, strict=True)]
