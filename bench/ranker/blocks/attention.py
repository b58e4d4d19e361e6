"""Attention over histories: pooling for many candidates at once, and Transformer layers that bear empty histories.

Masks are boolean with True = real. A row in which nothing may be attended to gets the zero vector where other
implementations return NaN; so users without a history, or without one of two behaviours, need no special case, and what
stands in padding slots never reaches a result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (..., L, d) over the True positions of `mask` (..., L): (..., d), zero where there are none."""
    total = x.masked_fill(~mask[..., None], 0).sum(-2)
    return total / mask.sum(-1, keepdim=True).clamp(min=1)


class TargetAttention(nn.Module):
    """Pools a history for each candidate: w_j = softmax_j(h_j^T W c), pooled = sum_j w_j h_j.

    One head, no 1/sqrt(d): the operator that SESRec, UniSAR and GenSR share. The history is encoded once for all
    candidates.
    """

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        nn.init.xavier_normal_(self.weight)

    def forward(self, keys: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """Keys (B, L, d), mask (B, L), candidates (B, K, d) -> (B, K, d); zero where the history is empty."""
        scores = candidates @ (keys @ self.weight).transpose(1, 2)
        weights = _masked_softmax(scores, mask[:, None, :])
        return weights @ keys.masked_fill(~mask[..., None], 0)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017), dropout on the weights."""

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        if d % heads:
            raise ValueError(f"width {d} is not a multiple of {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.weight = nn.Parameter(torch.empty(3 * d, d))  # query, key, value
        self.bias = nn.Parameter(torch.zeros(3 * d))
        self.out = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, keys: Tensor | None, mask: Tensor) -> Tensor:
        """`x` (B, Lq, d) attends to `keys` (B, Lk, d), or to itself where that is None.

        `mask` says what may be attended to: (B, Lk) of the keys, or (B, Lq, Lk) of pairs (first axis may be 1). Returns
        (B, Lq, d).
        """
        d = x.shape[-1]
        if keys is None:
            q, k, v = F.linear(x, self.weight, self.bias).chunk(3, -1)
        else:
            q = F.linear(x, self.weight[:d], self.bias[:d])
            k, v = F.linear(keys, self.weight[d:], self.bias[d:]).chunk(2, -1)
        allowed = (mask[:, None] if mask.dim() == 2 else mask)[:, None]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = _masked_softmax((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3), allowed)
        pooled = F.dropout(weights, self.dropout, self.training) @ v
        return self.out(pooled.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Post-norm layer: attention, then a ReLU network of width `hidden` (default d), each added and normalised.

    With `keys` it is the cross-attention layer of two sequences; without, self-attention.
    """

    def __init__(self, d: int, heads: int, dropout: float, hidden: int | None = None):
        super().__init__()
        self.attention = MultiHeadAttention(d, heads, dropout)
        self.network = FeedForward(d, hidden or d, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        """`x` (B, L, d), `mask` of the keys or of pairs (see MultiHeadAttention) -> (B, L, d)."""
        x = self.norm1(x + self.dropout(self.attention(x, keys, mask)))
        return self.norm2(x + self.network(x))


class Encoder(nn.Module):
    """`layers` TransformerLayers in a row; no causal order unless the mask has one."""

    def __init__(self, d: int, heads: int, layers: int, dropout: float, hidden: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(d, heads, dropout, hidden) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class DecoderLayer(nn.Module):
    """Post-norm decoder layer: self-attention, cross-attention to a memory, ReLU network."""

    def __init__(self, d: int, heads: int, dropout: float, hidden: int | None = None):
        super().__init__()
        self.attention = MultiHeadAttention(d, heads, dropout)
        self.cross = MultiHeadAttention(d, heads, dropout)
        self.network = FeedForward(d, hidden or d, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """`x` (B, L, d) with `mask`, `memory` (B, M, d) with `memory_mask` (B, M) -> (B, L, d)."""
        x = self.norm1(x + self.dropout(self.attention(x, None, mask)))
        x = self.norm2(x + self.dropout(self.cross(x, memory, memory_mask)))
        return self.norm3(x + self.network(x))


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, Linear, dropout."""

    def __init__(self, d: int, hidden: int, dropout: float):
        super().__init__()
        self.inner, self.outer = nn.Linear(d, hidden), nn.Linear(hidden, d)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(F.relu(self.inner(x)), self.dropout, self.training)
        return F.dropout(self.outer(inner), self.dropout, self.training)


def _masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax of `scores` over the last axis where `allowed` (broadcastable); all zeros where nothing is allowed."""
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    # A row without any allowed entry came out uniform over what must not be seen.
    return weights * allowed.any(-1, keepdim=True)
