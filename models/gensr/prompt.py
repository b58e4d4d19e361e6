"""The two prompts of GenSR: five segments of text a task around four inserted vectors (eq. 7)."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.log import TASKS
from bench.data.ragged import Ragged
from bench.models.gensr.config import GenSRConfig

QUERY = "{query}"
KIND = "{kind}"
YES, NO = "Yes", "No"
# p1 <c_hat> p2 <s_hat> p3 <e_i> p4 <t_i> p5. What follows the query starts with a word, so that a subword tokenizer
# cuts the segment in the same way whether it reads it in one piece or in three.
_SEGMENTS = {
    "rec": ("Recommend to a user liking", "and", "the {kind}", "titled", "? Yes or No"),
    "search": ("Search by a user liking", "and", "for {query} with {kind}", "titled", "? Yes or No"),
}
# In the release's template the query stands at the end, which its faulty cut reaches; the text before the candidate
# is lost.
_QUERY_LAST = ("Search by a user liking", "and", "the {kind}", "titled", "for {query} ? Yes or No")
# Placeholders that the release leaves in its prompts.
_LITERAL_QUERY, _LITERAL_ITEM = "<query>", "<item>"
# Inserts by number: c_hat, s_hat, e_i, t_i; and the segments around those of a view. What joins two views is left out.
_INSERTS = {"both": (0, 1, 2, 3), "cf": (0, 2), "semantic": (1, 3)}
_AROUND = {"both": ((0,), (1,), (2,), (3,), (4,)), "cf": ((0,), (2,), (4,)), "semantic": ((0,), (2, 3), (4,))}
_INSERT, _QUERY = -1, -2


@dataclass(frozen=True)
class Wording:
    """Segments of both tasks, `QUERY` where the query stands, and which vectors are inserted between them."""

    segments: dict[str, tuple[str, ...]]  # one more than there are inserts
    inserts: tuple[int, ...]

    def texts(self) -> list[str]:
        """All that the language model must have words for."""
        return [text.replace(QUERY, " ") for segments in self.segments.values() for text in segments] + [YES, NO]

    def of(self, task: str, query: str) -> list[str]:
        """The segments of a task for one query."""
        return [text.replace(QUERY, query) for text in self.segments[task]]


def wording(config: GenSRConfig, kind: str) -> Wording:
    """The prompts under a config for items of a kind ("film")."""
    query = QUERY if config.query_in_prompt else _LITERAL_QUERY
    made = {}
    for task, text in _SEGMENTS.items():
        segments = list(text)
        if config.third_segment == "repeated":
            segments = list(_QUERY_LAST if task == "search" else text)
            segments[2] = f"{segments[3]} {_LITERAL_ITEM} {segments[4]}"
        kept = [" ".join(segments[number] for number in numbers) for numbers in _AROUND[config.views]]
        made[task] = tuple(part.replace(QUERY, query).replace(KIND, kind) for part in kept)
    return Wording(made, _INSERTS[config.views])


@dataclass(frozen=True)
class Prompt:
    """Token plan of P prompts, right padded."""

    ids: Tensor  # (P, T) int64 token ids; the padding id at inserts and in padding
    inserts: Tensor  # (P, I) int64 columns of the inserted vectors
    mask: Tensor  # (P, T) bool, True on tokens and inserts


class Prompts(nn.Module):
    """Tokenises the segments once and lays them out for a batch of queries.

    Args:
        tokenizer: of the backbone.
        wording: the segments.
        queries: token ids of every query, entry 0 empty.
    """

    _offsets: Tensor  # (n_queries + 2,) where the tokens of each query start in `_words`
    _words: Tensor  # (total,) token ids of all queries

    def __init__(self, tokenizer: Any, wording: Wording, queries: Ragged):
        super().__init__()
        self.pad = tokenizer.pad_token_id
        self._decode = tokenizer.decode
        # Kept out of the saved weights: they follow from the log and the tokenizer.
        self.register_buffer("_offsets", torch.as_tensor(queries.offsets), persistent=False)
        self.register_buffer("_words", torch.as_tensor(queries.values, dtype=torch.long), persistent=False)
        for task in TASKS:
            self.register_buffer(f"_{task}", torch.tensor(_template(tokenizer, wording.segments[task])), False)

    def plan(self, task: int, query: Tensor) -> Prompt:
        """Prompts of one task (0 = rec, 1 = search) for query ids (P,)."""
        template: Tensor = getattr(self, f"_{TASKS[task]}")  # (E,)
        start, length = self._span(query)
        is_query = template == _QUERY
        sizes = torch.where(is_query, length[:, None], 1)  # (P, E)
        places = sizes.cumsum(1) - sizes  # (P, E) first column of each element
        total = sizes.sum(1)
        ids = template.new_full((len(query), int(total.max())), self.pad)
        words = template[~is_query].expand(len(query), -1)
        ids.scatter_(1, places[:, ~is_query], words.where(words >= 0, self.pad))
        column = torch.arange(int(length.max()) if bool(is_query.any()) else 0, device=query.device)
        inside = column < length[:, None]  # (P, longest query)
        for at in places[:, is_query].unbind(1):
            rows, offset = torch.nonzero(inside, as_tuple=True)
            ids[rows, at[rows] + offset] = self._words[start[rows] + offset]
        mask = torch.arange(ids.shape[1], device=query.device) < total[:, None]
        return Prompt(ids, places[:, template == _INSERT], mask)

    def lengths(self, task: int, query: Tensor) -> Tensor:
        """(P,) tokens and inserts of the prompts that `plan` lays out."""
        template: Tensor = getattr(self, f"_{TASKS[task]}")
        queries = (template == _QUERY).sum()
        return len(template) - queries + queries * self._span(query)[1]

    def _span(self, query: Tensor) -> tuple[Tensor, Tensor]:
        start = self._offsets[query]
        return start, self._offsets[query + 1] - start

    def decode(self, prompt: Prompt, row: int) -> list[str]:
        """The segments of one laid-out prompt, from its tokens."""
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
        found = "the unknown token" if len(ids) == 1 else f"{len(ids)} tokens"
        raise ValueError(f"'{word}' is {found} of this tokenizer; GenSR needs one that knows it as one token")
    return int(ids[0])


def _template(tokenizer: Any, segments: tuple[str, ...]) -> list[int]:
    """Token ids of a prompt; -1 stands for an insert, -2 for the query. The end of text closes it."""
    ids: list[int] = []
    for number, segment in enumerate(segments):
        ids += [_INSERT] * (number > 0)
        for part, text in enumerate(segment.split(QUERY)):
            ids += [_QUERY] * (part > 0)
            if text.strip():
                ids += tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]
