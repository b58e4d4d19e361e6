"""Prompts of language models: a text with fields that hold tokens of the row and slots that take vectors.

P prompts of T tokens each, width d of the language model. Built for many rows at once, without a loop over them.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.rows import rows_of

_PARTS = re.compile(r"\{(\w+)\}|<(\w+)>")


class Tokens(nn.Module):
    """Texts by id, tokenised once and cut.

    Args:
        tokenizer: of the language model.
        texts: (n + 1) texts, entry 0 empty.
        limit: tokens of a text that are kept.
        end: closes every text that is not empty, such as the comma of a list; it does not count.
    """

    ids: Tensor  # (n + 1, W) int32, right padded
    lengths: Tensor  # (n + 1,) int64

    def __init__(self, tokenizer: Any, texts: list[str], limit: int, end: str = ""):
        super().__init__()
        self.pad = tokenizer.pad_token_id
        lists = (
            tokenizer(texts, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"] if texts else []
        )
        close = tokenizer(end, add_special_tokens=False)["input_ids"] if end else []
        lists = [row + close if row else row for row in lists]
        lengths = np.array([len(row) for row in lists], dtype=np.int64)
        padded = np.full((len(lists), max(1, lengths.max(initial=1))), self.pad, dtype=np.int32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.fromiter((i for row in lists for i in row), np.int32)
        # Kept out of the saved weights: they follow from the log and the tokenizer.
        self.register_buffer("ids", torch.from_numpy(padded), persistent=False)
        self.register_buffer("lengths", torch.from_numpy(lengths), persistent=False)

    def forward(self, ids: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens of the texts of each row, one text after the other, with gaps where a text is shorter than others.

        Args:
            ids: (P,) or (P, L) ids of texts.
            real: (P, L) bool, False where an id means nothing.

        Returns:
            (P, L * W) int64 tokens and (P, L * W) bool, True on tokens.
        """
        tokens = self.ids[ids].long()  # (P, L, W)
        mask = torch.arange(tokens.shape[-1], device=ids.device) < self.lengths[ids][..., None]
        if real is not None:
            mask = mask & real[..., None]
        return tokens.flatten(1), mask.flatten(1)

    def mean(self, ids: Tensor, words: nn.Embedding) -> Tensor:
        """Title embeddings: the mean word vector of each text, zero for an empty one; ids (...) to (..., d)."""
        distinct, inverse = ids.unique(return_inverse=True)
        return F.embedding_bag(self.ids[distinct], words.weight, mode="mean", padding_idx=self.pad)[inverse]


@dataclass(frozen=True)
class Prompt:
    """P prompts, right padded."""

    ids: Tensor  # (P, T) int64 token ids; -1 - s in slot s; the padding id where `mask` is False
    mask: Tensor  # (P, T) bool, True on tokens and slots

    def places(self, slots: int) -> Tensor:
        """(P, slots) column of each slot."""
        return torch.stack([(self.ids == -1 - slot).long().argmax(1) for slot in range(slots)], 1)


class Template(nn.Module):
    """A prompt as text: `{name}` is a field that takes tokens, `<name>` a slot that takes one vector.

    The pieces of text between them are tokenised apart.

    Args:
        tokenizer: of the language model.
        text: such as "Search for {query}"; each slot occurs once.
        closed: whether the end-of-sequence token closes the prompt.
    """

    def __init__(self, tokenizer: Any, text: str, closed: bool = True):
        super().__init__()
        self.pad = tokenizer.pad_token_id
        self.slots: list[str] = []
        self._parts: list[tuple[str, str]] = []  # ("piece", buffer) or ("field", name)
        last = 0
        for found in _PARTS.finditer(text):
            self._piece(tokenizer, text[last : found.start()])
            last = found.end()
            field, slot = found.groups()
            if field:
                self._parts.append(("field", field))
            else:
                self._add([-1 - len(self.slots)])
                self.slots.append(slot)
        self._piece(tokenizer, text[last:])
        if closed:
            self._add([tokenizer.eos_token_id])

    def _piece(self, tokenizer: Any, text: str) -> None:
        if text.strip():
            self._add(tokenizer(text.strip(), add_special_tokens=False)["input_ids"])

    def _add(self, ids: list[int]) -> None:
        name = f"piece{len(self._parts)}"
        self.register_buffer(name, torch.tensor(ids), persistent=False)
        self._parts.append(("piece", name))

    def forward(self, rows: int, **fields: tuple[Tensor, Tensor]) -> Prompt:
        """Prompts of P = `rows` rows.

        Args:
            rows: their number.
            fields: for each field its tokens (P, W), any width, and which of them are real (P, W) bool.
        """
        ids, masks = [], []
        for kind, name in self._parts:
            if kind == "field":
                tokens, real = fields[name]
            else:
                tokens = getattr(self, name).expand(rows, -1)
                real = torch.ones_like(tokens, dtype=torch.bool)
            ids.append(tokens)
            masks.append(real)
        laid, mask = torch.cat(ids, 1), torch.cat(masks, 1)
        if not mask.all():
            # Positions count in a language model, so gaps are closed.
            order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
            laid, mask = laid.gather(1, order), mask.gather(1, order)
        return Prompt(laid.masked_fill(~mask, self.pad), mask)


def embed(prompt: Prompt, words: nn.Embedding, inserts: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
    """Input vectors (P, T, d) of prompts.

    Args:
        prompt: P prompts.
        words: word embeddings of the language model, V rows.
        inserts: (P, S, d) the vectors of the slots.
        extra: (N, d) rows of an extra vocabulary, which tokens from V on stand for.
    """
    ids, known = prompt.ids, len(words.weight)
    vectors = words(ids.clamp(0, known - 1))
    if extra is not None:
        new = ids >= known
        vectors = vectors.index_put((new,), rows_of(extra, ids[new] - known).to(vectors.dtype))
    if inserts is not None:
        row, column = torch.nonzero(ids < 0, as_tuple=True)
        vectors = vectors.index_put((row, column), inserts[row, -1 - ids[row, column]].to(vectors.dtype))
    return vectors
