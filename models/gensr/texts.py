"""Token ids of items and queries: their text cut by the backbone's tokenizer, or words that are tokens themselves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.data.catalog import Catalog
from bench.data.ragged import Ragged
from bench.models.gensr.config import GenSRConfig
from bench.ranker.backbone import item_texts, query_texts


@dataclass(frozen=True)
class TokenIds:
    """Token ids of every item and query, row 0 empty; `added` of them are new to the backbone."""

    items: Ragged
    queries: Ragged
    added: int = 0


def token_ids(config: GenSRConfig, tokenizer: Any, catalog: Catalog, size: int, known: dict[str, int]) -> TokenIds:
    """Token ids of the texts, or of words that are ids, as `word_ids` asks; `size` and `known` as in `word_tokens`."""
    limits = max(config.title_tokens, config.history_title_tokens), config.query_tokens
    if config.word_ids == "text" or (config.word_ids == "auto" and not words_are_ids(catalog)):
        return text_tokens(tokenizer, catalog, *limits)
    return word_tokens(tokenizer, catalog, size, known, config.word_limit, *limits)


def add_words(lm: Any, added: int, generator: torch.Generator) -> None:
    """Rows for new words in the table of embeddings; the output head keeps the words it had where it is untied."""
    if not added:
        return
    head, table = lm.get_output_embeddings(), lm.get_input_embeddings().weight
    untied = head.weight is not table
    lm.resize_token_embeddings(len(table) + added, mean_resizing=False)
    std = float(table.detach().std())
    with torch.no_grad():
        lm.get_input_embeddings().weight[-added:].normal_(0, std, generator=generator)
    if untied:
        lm.set_output_embeddings(head)


def words_are_ids(catalog: Catalog) -> bool:
    """Whether words are numbers that stand for something, as in logs whose text is anonymised."""
    if any(catalog.item_text.tolist()) or not catalog.n_words:
        return False
    return all(word.isdigit() for word in catalog.word_text[1:].tolist())


def text_tokens(tokenizer: Any, catalog: Catalog, item_limit: int, query_limit: int) -> TokenIds:
    """First tokens of the texts of items and queries."""
    return TokenIds(
        _cut(tokenizer, item_texts(catalog), item_limit), _cut(tokenizer, query_texts(catalog), query_limit)
    )


def word_tokens(
    tokenizer: Any, catalog: Catalog, size: int, known: dict[str, int], limit: int, item_limit: int, query_limit: int
) -> TokenIds:
    """A token for each word of the log.

    Args:
        tokenizer: its unknown (else its padding) token stands for the words beyond `limit`.
        catalog: items and queries as lists of words.
        size: rows of the backbone's table of embeddings; new tokens follow them.
        known: tokens that words have already, by word.
        limit: most frequent words that get a token.
        item_limit: first words of an item that are kept.
        query_limit: first words of a query that are kept.
    """
    items, queries = catalog.item_word_lists, catalog.query_word_lists
    counts = np.bincount(items.values, minlength=catalog.n_words + 1)
    counts += np.bincount(queries.values, minlength=catalog.n_words + 1)
    counts[0] = 0
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.pad_token_id
    token = np.full(catalog.n_words + 1, unknown, dtype=np.int64)
    names, added = catalog.word_text, 0
    for word in np.argsort(-counts, kind="stable")[:limit].tolist():
        if not counts[word]:
            break
        present = known.get(str(names[word]))
        token[word] = size + added if present is None else present
        added += present is None
    return TokenIds(_mapped(items, token, item_limit), _mapped(queries, token, query_limit), added)


def padded(ids: Ragged, pad: int, limit: int) -> np.ndarray:
    """(n + 1, W) int32 first token ids of each row, right padded with `pad`."""
    width = max(1, min(limit, int(ids.lengths.max(initial=1))))
    table = Ragged(ids.offsets, ids.values.astype(np.int32) + 1).padded(width)
    return np.where(table == 0, pad, table - 1).astype(np.int32)


def _cut(tokenizer: Any, texts: list[str], limit: int) -> Ragged:
    options = {"add_special_tokens": False, "truncation": True, "max_length": limit}
    return Ragged.from_lists(tokenizer(texts, **options)["input_ids"] if texts else [])


def _mapped(lists: Ragged, token: np.ndarray, limit: int) -> Ragged:
    kept = lists.cut(limit)
    return Ragged(kept.offsets, token[kept.values])
