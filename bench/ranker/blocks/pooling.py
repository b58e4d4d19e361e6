"""Pooling of a sequence of vectors into one: mean, additive attention, term importance, attention of a candidate.

Masks are boolean with True = real. Where nothing is real the result is the zero vector, and what stands in padding
slots never reaches a result.
"""

import torch
from torch import Tensor, nn

# Score of a place that gets no weight; finite, so that an empty row gives no NaN.
_NEVER = -1e16


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (..., L, d) over the True positions of `mask` (..., L): (..., d), zero where there are none."""
    total = x.masked_fill(~mask[..., None], 0).sum(-2)  # (..., d)
    return total / mask.sum(-1, keepdim=True).clamp(min=1)


def weighted_mean(x: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (..., L, d) with weights softmax(`scores`) (..., L) over the True positions of `mask` (..., L)."""
    weights = scores.masked_fill(~mask, _NEVER).softmax(-1)  # (..., L)
    # A weight of exactly 0 does not remove a NaN or an infinity that stands in a padding slot.
    pooled = (weights[..., None] * x.masked_fill(~mask[..., None], 0)).sum(-2)  # (..., d)
    return pooled * mask.any(-1, keepdim=True)


class AdditiveAttention(nn.Module):
    """w_j = softmax_j(v . tanh(U x_j + b)), pooled = sum_j w_j x_j (Bahdanau et al., ICLR 2015; NAML, IJCAI 2019)."""

    def __init__(self, d: int, hidden: int):
        super().__init__()
        self.project = nn.Linear(d, hidden)
        self.importance = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (..., L, d), `mask` (..., L) -> (..., d)."""
        return weighted_mean(x, self.scores(x), mask)

    def scores(self, x: Tensor) -> Tensor:
        """(..., d) -> (...) before the softmax. They depend on the vector alone: one per distinct id is enough."""
        return self.importance(torch.tanh(self.project(x))).squeeze(-1)


class TermImportance(nn.Module):
    """w_j = softmax_j(omega(word_j)) with one learnt number per word (Zamani and Croft, DESIRES 2018).

    All numbers start at 0, so the pooling starts as the mean.
    """

    def __init__(self, rows: int):
        super().__init__()
        self.importance = nn.Embedding(rows, 1)
        nn.init.zeros_(self.importance.weight)

    def forward(self, vectors: Tensor, words: Tensor) -> Tensor:
        """`vectors` (..., L, d) of the word ids `words` (..., L), 0 = padding -> (..., d)."""
        return weighted_mean(vectors, self.importance(words).squeeze(-1), words > 0)


class TargetAttention(nn.Module):
    """Pools a history for each candidate: w_j = softmax_j(h_j^T W c), pooled = sum_j w_j h_j.

    One head, no 1/sqrt(d): the operator that SESRec and UniSAR share. The history is encoded once for all candidates.
    """

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        nn.init.xavier_normal_(self.weight)

    def forward(self, keys: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """Keys (B, L, d), mask (B, L), candidates (B, K, d) -> (B, K, d); zero where the history is empty."""
        scores = (candidates @ self.weight.T) @ keys.transpose(1, 2)  # (B, K, L)
        weights = scores.masked_fill(~mask[:, None, :], _NEVER).softmax(-1)  # (B, K, L)
        return (weights @ keys) * mask.any(1)[:, None, None]
