"""Attention over histories, and what Transformer layers are made of; users without a history are served.

Masks are boolean with True = real. A row in which nothing may be attended to gets the zero vector where other
implementations return NaN; so users without a history, or without one of two behaviours, need no special case, and what
stands in padding slots never reaches a result.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import UsageError
from bench.ranker.blocks.dropout import Dropout

# Added to (or put for) the score of what must not be attended to; finite, so that an empty row gives no NaN.
_NEVER = -1e16

Activation = Literal["relu", "gelu", "gelu_tanh", "leaky_relu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "leaky_relu": F.leaky_relu,
}


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017), dropout on the weights.

    Args:
        d: width of queries, keys and values.
        heads: they share `d`.
        dropout: probability.

    Raises:
        UsageError: `heads` do not divide `d`.
    """

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        if d % heads:
            raise UsageError(f"d = {d} cannot be shared by {heads} heads; choose heads that divide d")
        self.heads, self.dropout = heads, Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(3 * d, d))  # query, key, value
        self.bias = nn.Parameter(torch.zeros(3 * d))
        self.out = nn.Linear(d, d)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, keys: Tensor | None, mask: Tensor) -> Tensor:
        """Attend to `keys`, or to `x` itself where that is None.

        Args:
            x: (B, Lq, d).
            keys: (B, Lk, d).
            mask: what may be attended to, (B, Lk) of the keys or (B, Lq, Lk) of pairs (first axis may be 1).

        Returns:
            (B, Lq, d).
        """
        d = x.shape[-1]
        if keys is None:
            projected = [F.linear(x, self.weight, self.bias)]  # (B, L, 3d)
        else:
            projected = [F.linear(x, self.weight[:d], self.bias[:d]), F.linear(keys, self.weight[d:], self.bias[d:])]
        allowed = mask[:, None] if mask.dim() == 2 else mask  # (B, 1 or Lq, Lk)
        bias = torch.zeros(allowed.shape, dtype=projected[0].dtype, device=x.device).masked_fill_(~allowed, _NEVER)
        p = self.dropout.p if self.training else 0.0
        if p and x.device.type == "cpu":
            pooled = self._by_heads(projected, bias)
        else:
            parts = [part for each in projected for part in each.split(d, -1)]
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, h, L, d / h)
            pooled = F.scaled_dot_product_attention(q, k, v, bias[:, None], p).transpose(1, 2).flatten(2)
        # Where nothing is allowed the softmax came out uniform over what must not be seen.
        return self.out(pooled * allowed.any(-1, keepdim=True))  # (B, Lq, d)

    def _by_heads(self, projected: list[Tensor], bias: Tensor) -> Tensor:
        """Attention with dropout on a CPU, where PyTorch's copies every head and draws a number per weight.

        A product per head copies nothing, and backward puts the parts of a projection together once
        (benchmarks/attention.py has both).
        """
        heads, width = self.heads, self.weight.shape[1] // self.heads
        parts = [part for each in projected for part in each.split(width, -1)]  # 3h of (B, L, d / h)
        pooled = []
        for q, k, v in zip(parts[:heads], parts[heads : 2 * heads], parts[2 * heads :], strict=True):
            scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=width**-0.5)  # (B, Lq, Lk)
            pooled.append(self.dropout(scores.softmax(-1)) @ v)  # (B, Lq, d / h)
        return torch.cat(pooled, -1)


class DecoderLayer(nn.Module):
    """Post-norm decoder layer: self-attention, cross-attention to a memory, ReLU network."""

    def __init__(self, d: int, heads: int, dropout: float, hidden: int | None = None):
        super().__init__()
        self.attention = MultiHeadAttention(d, heads, dropout)
        self.cross = MultiHeadAttention(d, heads, dropout)
        self.network = FeedForward(d, hidden or d, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """`x` (B, L, d) with `mask`, `memory` (B, M, d) with `memory_mask` (B, M) -> (B, L, d)."""
        x = self.norm1(x + self.dropout(self.attention(x, None, mask)))
        x = self.norm2(x + self.dropout(self.cross(x, memory, memory_mask)))
        return self.norm3(x + self.network(x))


class Decoder(nn.Module):
    """`layers` DecoderLayers in a row."""

    def __init__(self, d: int, heads: int, layers: int, dropout: float, hidden: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d, heads, dropout, hidden) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Shapes as in DecoderLayer."""
        for layer in self.layers:
            x = layer(x, mask, memory, memory_mask)
        return x


class FeedForward(nn.Module):
    """Linear, activation, dropout, Linear, dropout."""

    def __init__(self, d: int, hidden: int, dropout: float, activation: Activation = "relu"):
        super().__init__()
        self.inner, self.outer = nn.Linear(d, hidden), nn.Linear(hidden, d)
        self.dropout = Dropout(dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.dropout(self.outer(self.dropout(self.activation(self.inner(x)))))
