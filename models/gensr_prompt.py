"""The two prompts of GenSR: five segments of text a task around four inserted vectors (eq. 7)."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.log import SEARCH, TASKS
from bench.data.ragged import Ragged

QUERY = "{query}"
# p1 <c_hat> p2 <s_hat> p3 <e_i> p4 <t_i> p5. What follows the query starts with a word, so that a subword tokenizer
# cuts the segment in the same way whether it reads it in one piece or in three.
SEGMENTS = {
    "rec": ("Recommend to a user liking", "and", "the item", "titled", "? Yes or No"),
    "search": ("Search by a user liking", "and", f"for {QUERY} with item", "titled", "? Yes or No"),
}
YES, NO = "Yes", "No"
TEXTS = [*(text.replace(QUERY, " ") for segments in SEGMENTS.values() for text in segments), YES, NO]
INSERTS = 4


@dataclass(frozen=True)
class Prompt:
    """Token plan of P prompts, right padded."""

    ids: Tensor  # (P, T) int64 token ids; the padding id at inserts and in padding
    inserts: Tensor  # (P, 4) int64 columns of c_hat, s_hat, e_i, t_i
    mask: Tensor  # (P, T) bool, True on tokens and inserts


class Prompts(nn.Module):
    """Tokenises the segments once and lays them out for a batch of queries.

    Args:
        tokenizer: of the backbone.
        queries: text of every query, entry 0 empty.
        limit: tokens of a query that are kept.
    """

    _offsets: Tensor  # (n_queries + 2,) where the tokens of each query start in `_words`
    _words: Tensor  # (total,) token ids of all queries

    def __init__(self, tokenizer: Any, queries: list[str], limit: int):
        super().__init__()
        self.queries = queries
        self.pad = tokenizer.pad_token_id
        self._decode = tokenizer.decode
        cut = (
            tokenizer(queries, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
            if queries
            else []
        )
        words = Ragged.from_lists(cut)
        # Kept out of the saved weights: they follow from the log and the tokenizer.
        self.register_buffer("_offsets", torch.as_tensor(words.offsets), persistent=False)
        self.register_buffer("_words", torch.as_tensor(words.values, dtype=torch.long), persistent=False)
        for task in TASKS:
            head, tail = _around_query(tokenizer, SEGMENTS[task])
            self.register_buffer(f"_{task}_head", torch.tensor(head), persistent=False)
            self.register_buffer(f"_{task}_tail", torch.tensor(tail), persistent=False)

    def plan(self, task: int, query: Tensor) -> Prompt:
        """Prompts of one task (0 = rec, 1 = search) for query ids (P,); rec prompts do not read them."""
        head: Tensor = getattr(self, f"_{TASKS[task]}_head")
        tail: Tensor = getattr(self, f"_{TASKS[task]}_tail")
        start = self._offsets[query]
        length = (self._offsets[query + 1] - start) * (task == SEARCH)
        total = len(head) + length + len(tail)
        column = torch.arange(int(total.max()), device=query.device)
        # A column reads from the head, the query or the tail.
        after = column - len(head) - length[:, None]
        ids = torch.where(after >= 0, tail[after.clamp(0, len(tail) - 1)], head[column.clamp(max=len(head) - 1)])
        if len(self._words):
            inside = (column >= len(head)) & (after < 0)
            place = (start[:, None] + column - len(head)).clamp(0, len(self._words) - 1)
            ids = torch.where(inside, self._words[place], ids)
        mask = column < total[:, None]
        inserts = torch.nonzero((ids < 0) & mask)[:, 1].view(len(query), INSERTS)
        return Prompt(torch.where((ids < 0) | ~mask, self.pad, ids), inserts, mask)

    def segments(self, task: int, query: int) -> list[str]:
        """The text of p1 to p5 for one query."""
        return [text.replace(QUERY, self.queries[query]) for text in SEGMENTS[TASKS[task]]]

    def decode(self, prompt: Prompt, row: int) -> list[str]:
        """The five segments of one laid-out prompt, from its tokens."""
        cuts = [-1, *prompt.inserts[row].tolist(), int(prompt.mask[row].sum())]
        spans = [prompt.ids[row, low + 1 : high] for low, high in itertools.pairwise(cuts)]
        return [self._decode(span, skip_special_tokens=True) for span in spans]


def single_token(tokenizer: Any, word: str) -> int:
    """The one token of a label.

    Raises:
        ValueError: the tokenizer cuts it into several or does not know it.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"'{word}' is {len(ids)} tokens of this tokenizer; GenSR needs one that knows it as one token")
    return ids[0]


def _around_query(tokenizer: Any, segments: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Token ids before and after the query; -1 stands for an insert."""
    text = " <> ".join(segments)
    before, _, after = text.partition(QUERY)
    parts = []
    for side in (before, after):
        ids: list[int] = []
        for number, segment in enumerate(side.split("<>")):
            ids += [-1] * (number > 0) + tokenizer(segment.strip(), add_special_tokens=False)["input_ids"]
        parts.append(ids)
    # Without a query (rec) the head holds everything but the closing token.
    return parts[0], [*parts[1], tokenizer.eos_token_id]
