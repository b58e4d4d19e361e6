"""Titles as vectors of the language model's words: one mean per item, or every token of a history."""

import torch.nn.functional as F
from torch import Tensor, nn


def title_means(titles: Tensor, items: Tensor, words: nn.Embedding, pad: int) -> Tensor:
    """Mean word embedding of each item's tokens.

    Args:
        titles: (n_items + 1, W) token ids, those beyond the limit cut off.
        items: (B, n) ids.
        words: the table of embeddings.
        pad: id of the padding token.

    Returns:
        (B, n, width), zero for an item without text.
    """
    distinct, inverse = items.unique(return_inverse=True)
    table = F.embedding_bag(titles[distinct], words.weight, mode="mean", padding_idx=pad)
    return F.embedding(inverse, table)  # table[inverse] adds up its gradients in any order on several threads


def title_tokens(titles: Tensor, items: Tensor, mask: Tensor, words: nn.Embedding, pad: int) -> tuple[Tensor, Tensor]:
    """Every token of the titles of a history, real ones first.

    Args:
        titles: (n_items + 1, W) token ids, those beyond the limit cut off.
        items: (B, L) ids.
        mask: (B, L) True on real places.
        words: the table of embeddings.
        pad: id of the padding token.

    Returns:
        embeddings (B, M, width) and their mask (B, M).
    """
    ids = titles[items].long()  # (B, L, W)
    real = ((ids != pad) & mask[..., None]).flatten(1)
    order = real.long().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(real.sum(1).max()))]
    return words(ids.flatten(1).gather(1, order)), real.gather(1, order)
