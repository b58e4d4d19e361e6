"""Textual ids: what a language model writes about a text, kept distinct.

P texts, G groups of one beam each, V words, width d of the language model.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.ranker.blocks.language import Continuations, encode
from bench.ranker.blocks.prompts import Prompt

# (rows) -> for each of them candidates in the order of preference.
Wave = Callable[[np.ndarray], list[list[str]]]
DIGITS = " ".join("0123456789")  # words that a tokenizer must know, so that equal names can be numbered
_WORD = re.compile(r"\w+")


def wordless_tokens(lm: Any, tokenizer: Any) -> Tensor:
    """(V,) bool: tokens without a letter or a digit, special tokens, and rows of the head that no token has."""
    size = len(lm.get_output_embeddings().weight)
    pieces = tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))
    bare = [not _WORD.search(piece.strip("▁#_")) for piece in pieces]
    mask = torch.ones(size, dtype=torch.bool)
    mask[: len(bare)] = torch.tensor(bare)
    mask[[token for token in tokenizer.all_special_ids if token < size]] = True
    return mask


@torch.no_grad()
def diverse_beams(
    lm: Any, prompt: Prompt, banned: Tensor, *, groups: int, penalty: Tensor | float, least: int, most: int
) -> Tensor:
    """Diverse beam search with groups of one beam (Vijayakumar et al., AAAI 2018).

    One group after the other takes its best token; what earlier groups took at the same step costs it `penalty` each
    time. So the first group is the greedy continuation. A group ends with its end token.

    Args:
        lm: a T5ForConditionalGeneration.
        prompt: P prompts.
        banned: (V,) bool, tokens that are never written; not the end token.
        groups: G.
        penalty: in units of log-probability; one for all prompts, or (P, 1).
        least: tokens before the end token may come.
        most: tokens at most, the end token among them.

    Returns:
        (P, G, most) tokens, padding behind the end token.
    """
    words, head = lm.get_input_embeddings(), lm.get_output_embeddings().weight
    end, pad = lm.config.eos_token_id, lm.config.pad_token_id
    rows, device = len(prompt.ids), prompt.ids.device
    states = encode(lm, words(prompt.ids), prompt.mask)
    names = Continuations(lm, states, prompt.mask, groups)
    written = torch.empty(rows, groups, 0, dtype=torch.int64, device=device)
    done = torch.zeros(rows, groups, dtype=torch.bool, device=device)
    for step in range(most):
        log_probs = (names.said @ head.T).log_softmax(-1).masked_fill(banned, -torch.inf)
        if step < least:
            log_probs[..., end] = -torch.inf
        taken = torch.zeros(rows, len(head), device=device)
        chosen = []
        for group in range(groups):
            best = (log_probs[:, group] - penalty * taken).argmax(-1)
            best = torch.where(done[:, group], pad, best)
            taken.scatter_add_(1, best[:, None], torch.ones_like(taken[:, :1]))
            chosen.append(best)
        step_tokens = torch.stack(chosen, 1)  # (P, G)
        written = torch.cat([written, step_tokens[..., None]], -1)
        done |= step_tokens == end
        if done.all() or step + 1 == most:
            break
        names.write(step_tokens)
    return nn.functional.pad(written, (0, most - written.shape[-1]), value=pad)


def as_words(text: str) -> str:
    """The words of a text; what stands between them is left out."""
    return " ".join(_WORD.findall(text))


def distinct(tokenizer: Any, rows: np.ndarray, waves: Iterable[Wave], width: int) -> tuple[list[list[int]], int]:
    """One name for each row, as tokens with the end token; no two are equal.

    In each wave the rows that have no name yet take, one after the other, the first of their candidates that no row has.
    Rows that are left after the last wave take their first candidate with a number behind it.

    Args:
        tokenizer: of the language model; candidates are tokenised anew.
        rows: what is to be named.
        waves: each gives candidates for the rows at hand.
        width: tokens of a name at most, the end token among them.

    Returns:
        the names in the order of `rows`, and how many of them bear a number.
    """
    names: dict[int, list[int]] = {}
    used: set[tuple[int, ...]] = set()
    first: dict[int, list[int]] = {}
    for wave in waves:
        left = np.array([row for row in rows.tolist() if row not in names], dtype=np.int64)
        if not len(left):
            break
        for row, tokens in zip(left.tolist(), _tokenised(tokenizer, wave(left), width - 1), strict=True):
            first.setdefault(row, tokens[0] if tokens else [])
            free = next((name for name in tokens if name and tuple(name) not in used), None)
            if free is not None:
                names[row] = free
                used.add(tuple(free))
    numbered = [row for row in rows.tolist() if row not in names]
    for row in numbered:
        number = 1
        while row not in names:
            number += 1
            digits = tokenizer(str(number), add_special_tokens=False)["input_ids"]
            name = [*first.get(row, [])[: width - 1 - len(digits)], *digits]
            if tuple(name) not in used:
                names[row] = name
                used.add(tuple(name))
    return [[*names[row], tokenizer.eos_token_id] for row in rows.tolist()], len(numbered)


def _tokenised(tokenizer: Any, candidates: list[list[str]], limit: int) -> list[list[list[int]]]:
    """Tokens of the words of each candidate."""
    flat = [as_words(text) for row in candidates for text in row]
    ids = tokenizer(flat, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"] if flat else []
    tokens = iter(ids)
    return [[next(tokens) for _ in row] for row in candidates]
