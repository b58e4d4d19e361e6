"""Words that language-model losses predict: the text of items and users as bags, draws from them, and word noise."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.catalog import Catalog
from bench.data.log import WordBags
from bench.data.ragged import Ragged
from bench.data.training import TrainData
from bench.errors import NothingToReadError

Words = Literal["text", "all"]


def item_words(catalog: Catalog, train: TrainData, words: Words) -> tuple[Ragged, str]:
    """The words of each item's text, and a sentence about them for the record.

    The text is what the catalogue says of the item (title, description), and all words of its training reviews where
    there are reviews. Reviews of held-out purchases are in neither. "text" leaves out the words that hold the query itself:
    those of the item's categories where the data set says where its words come from, else those of the queries that
    could be generated for the item. Real queries are made from no item, so there nothing is left out.

    Args:
        catalog: of the log.
        train: the training side of its split.
        words: "text", or "all" with the words of categories.

    Returns:
        (n_items + 1) lists of word ids, each word as often as it occurs, and the sentence.
    """
    reviews, of_reviews = _reviews(train, "item")
    left_out = ("category",) if words == "text" else ()
    try:
        # Words that reviews lend to the text are in the bags of training reviews already.
        lists = catalog.word_lists_without(*left_out, *(("reviews",) if reviews is not None else ()))
        rest = " without category words" if left_out else ""
    except NothingToReadError:
        lists, rest = catalog.item_word_lists, ""
        if left_out and catalog.item_queries is not None:
            lists = _without(lists, _query_words(catalog, catalog.item_queries))
            rest = " without words of the item's queries"
    if reviews is not None:
        lists = _joined(lists, reviews)
    return lists, f"text of the item{rest}{of_reviews}"


def user_words(catalog: Catalog, train: TrainData, words: Words) -> tuple[Ragged, str]:
    """The words of each user, and a sentence about them for the record.

    Those of the user's training reviews; where a data set has none, the text (see `item_words`) of the items that the user
    has a training event with.

    Returns:
        (n_users + 1) lists of word ids, each word as often as it occurs, and the sentence.
    """
    written, _ = _reviews(train, "user")
    if written is not None:
        return written, "training reviews of the user"
    text, sentence = item_words(catalog, train, words)
    events = train.arrays()
    pairs = np.unique(np.stack([events["user"], events["item"]], 1).astype(np.int64), axis=0)
    read = text.take(pairs[:, 1])
    lists = Ragged.from_pairs(np.repeat(pairs[:, 0], read.lengths), read.values, catalog.n_users + 1)
    return lists, f"no reviews; {sentence}, of the items that the user has a training event with"


class WordDraws(nn.Module):
    """Draws words from the bags of owners (items or users), in proportion to how often they occur."""

    offsets: Tensor
    values: Tensor
    worded: Tensor

    def __init__(self, lists: Ragged):
        super().__init__()
        self.register_buffer("offsets", torch.from_numpy(lists.offsets.astype(np.int64)), persistent=False)
        self.register_buffer("values", torch.from_numpy(lists.values.astype(np.int32)), persistent=False)
        worded = np.flatnonzero(lists.lengths)
        self.register_buffer("worded", torch.as_tensor(worded if len(worded) else [0]), persistent=False)

    def owners(self, count: int) -> Tensor:
        """(count,) owners drawn uniformly from those that have words; 0 where nobody has."""
        return self.worded[torch.randint(len(self.worded), (count,), device=self.worded.device)]

    def forward(self, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` words with replacement per owner (n,): (n, count) word ids, and (n,) whether the owner has any."""
        start, length = self.offsets[owners], self.offsets[owners + 1] - self.offsets[owners]  # (n,)
        draw = torch.rand(len(owners), count, dtype=torch.float64, device=owners.device)  # (n, count)
        index = (draw * length[:, None]).long().minimum((length - 1).clamp(min=0)[:, None])
        if not len(self.values):
            return torch.zeros_like(index), length > 0
        index = (start[:, None] + index).clamp(max=len(self.values) - 1)  # (n, count)
        return self.values[index].long() * (length > 0)[:, None], length > 0


class WordNoise(nn.Module):
    """Draws words from counts^.75 (Mikolov et al., NeurIPS 2013), the noise of every language-model term here.

    Args:
        counts: (n_words + 1,) how often each word occurs in the text that is predicted; entry 0 (padding) is ignored.
        power: of the counts.
    """

    cumulative: Tensor

    def __init__(self, counts: np.ndarray, power: float = 0.75):
        super().__init__()
        weights = np.where(np.arange(len(counts)) > 0, counts, 0).astype(np.float64) ** power
        total = np.cumsum(weights)
        self.register_buffer("cumulative", torch.from_numpy(total / max(total[-1], 1e-300)), persistent=False)

    def forward(self, *shape: int) -> Tensor:
        """Word ids (*shape), int64."""
        uniform = torch.rand(shape, dtype=torch.float64, device=self.cumulative.device)
        return torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=len(self.cumulative) - 1)


def _reviews(train: TrainData, of: Literal["item", "user"]) -> tuple[Ragged | None, str]:
    try:
        return _repeated(train.review_words(of)), " and its training reviews"
    except NothingToReadError:
        return None, ""


def _repeated(bags: WordBags) -> Ragged:
    """Each word as often as it occurs."""
    ends = np.concatenate([[0], np.cumsum(bags.counts.values, dtype=np.int64)])
    return Ragged(ends[bags.words.offsets], np.repeat(bags.words.values, bags.counts.values))


def _joined(first: Ragged, second: Ragged) -> Ragged:
    """List by list the values of both."""
    owners = np.concatenate([first.owners(), second.owners()])
    return Ragged.from_pairs(owners, np.concatenate([first.values, second.values]), len(first))


def _query_words(catalog: Catalog, queries: Ragged) -> Ragged:
    """For each item the words of the queries that could be generated for it."""
    words = catalog.query_word_lists.take(queries.values)
    return Ragged.from_pairs(np.repeat(queries.owners(), words.lengths), words.values, len(queries))


def _without(lists: Ragged, others: Ragged) -> Ragged:
    """The values of each list that are not in the other list of the same row."""
    width = 1 + max(int(part.values.max(initial=0)) for part in (lists, others))
    unshared = ~np.isin(lists.owners() * width + lists.values, others.owners() * width + others.values)
    return Ragged.from_pairs(lists.owners()[unshared], lists.values[unshared], len(lists))
