"""The Transformer encoder of sequences: where it normalises, its activation, its order and its positions are choices."""

from typing import Literal

import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.ranker.blocks.attention import Activation, FeedForward, MultiHeadAttention
from bench.ranker.blocks.dropout import Dropout

Norm = Literal["post", "pre"]
Positions = Literal["none", "learned", "sinusoidal"]


class EncoderLayer(nn.Module):
    """Attention, then a network of width `hidden` (default d), each added to its input.

    `norm` "post" normalises after each addition (Vaswani et al., 2017), "pre" the input of each part (Xiong et al.,
    ICML 2020). With `keys` it is the cross-attention layer of two sequences; without, self-attention. `raw_input` leaves
    the attention's input of a "pre" layer as it is.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        dropout: float,
        hidden: int | None = None,
        norm: Norm = "post",
        activation: Activation = "relu",
        raw_input: bool = False,
        attention_dropout: float | None = None,
    ):
        super().__init__()
        self.attention = MultiHeadAttention(d, heads, dropout if attention_dropout is None else attention_dropout)
        self.network = FeedForward(d, hidden or d, dropout, activation)
        self.norm1 = nn.Identity() if norm == "pre" and raw_input else nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.dropout = Dropout(dropout)
        self.pre = norm == "pre"

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        """`x` (B, L, d), `mask` of the keys or of pairs (see MultiHeadAttention) -> (B, L, d).

        `keys` are used as they are; a pre-norm model normalises them itself.
        """
        if self.pre:
            x = x + self.dropout(self.attention(self.norm1(x), keys, mask))  # (B, L, d)
            return x + self.network(self.norm2(x))
        x = self.norm1(x + self.dropout(self.attention(x, keys, mask)))  # (B, L, d)
        return self.norm2(x + self.network(x))


class Encoder(nn.Module):
    """Positions and `layers` EncoderLayers in a row; a "pre" encoder ends with one more normalisation.

    Args:
        d: width of the sequence.
        heads: number of heads; divides `d`.
        layers: number of layers.
        dropout: probability, in the layers; what enters is not dropped here.
        hidden: width of the layers' network, default `d`.
        norm: see EncoderLayer.
        activation: see EncoderLayer.
        attention_dropout: of the attention weights, default `dropout`.
        causal: a place sees itself and earlier places only.
        positions: "learned" rows, drawn from N(0, 1); "sinusoidal" ones (Vaswani et al., 2017); or "none".
        length: longest sequence, needed for positions.
        from_end: position 0 is the last real place of a row instead of the first.
        raw_input: the first layer of a "pre" encoder attends to its input as it is (TEM, Bi et al., SIGIR 2020).

    Raises:
        UsageError: `heads` does not divide `d`, or sinusoidal positions are asked of an odd width.
    """

    sinusoids: Tensor

    def __init__(
        self,
        d: int,
        heads: int,
        layers: int,
        dropout: float,
        hidden: int | None = None,
        *,
        norm: Norm = "post",
        activation: Activation = "relu",
        attention_dropout: float | None = None,
        causal: bool = False,
        positions: Positions = "none",
        length: int = 0,
        from_end: bool = False,
        raw_input: bool = False,
    ):
        super().__init__()
        self.positions, self.causal, self.from_end = positions, causal, from_end
        if positions == "learned":
            self.position = nn.Embedding(length, d)
        if positions == "sinusoidal":
            self.register_buffer("sinusoids", sinusoidal(length, d), persistent=False)
        self.layers = nn.ModuleList(
            EncoderLayer(d, heads, dropout, hidden, norm, activation, raw_input and layer == 0, attention_dropout)
            for layer in range(layers)
        )
        self.norm = nn.LayerNorm(d) if norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, L, d), right padded, `mask` (B, L) True on real places -> (B, L, d)."""
        x, seen = self._enter(x, mask)
        for layer in self.layers:
            x = layer(x, seen)
        return self.norm(x)

    def first(self, x: Tensor, mask: Tensor) -> Tensor:
        """The output at the first place alone, (B, d): what `forward` has there, with a last layer for one place."""
        x, seen = self._enter(x, mask)
        *before, last = self.layers
        for layer in before:
            x = layer(x, seen)
        keys = last.norm1(x) if last.pre else x  # (B, L, d)
        return self.norm(last(x[:, :1], seen[:, :1] if self.causal else seen, keys)).squeeze(1)

    def _enter(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The input with its positions, and what may be attended to: (B, L) or, if causal, (B, L, L)."""
        x = self.placed(x, mask)
        if not self.causal:
            return x, mask
        earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()  # (L, L)
        return x, mask[:, None, :] & earlier

    def placed(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, L, d) plus the vectors of its positions."""
        if self.positions == "none":
            return x
        position = torch.arange(mask.shape[1], device=x.device)  # (L,)
        if self.from_end:
            position = (mask.sum(1, keepdim=True) - 1 - position).clamp(min=0)  # (B, L)
        return x + (self.position(position) if self.positions == "learned" else self.sinusoids[position])


def sinusoidal(length: int, d: int) -> Tensor:
    """(length, d) sines in even and cosines in odd columns, wavelengths from 2 pi to 20,000 pi (Vaswani et al., 3.5).

    Raises:
        UsageError: `d` is odd.
    """
    if d % 2:
        raise UsageError(f"sinusoidal positions need an even width, d = {d} is odd")
    rate = 10_000.0 ** (-torch.arange(0, d, 2) / d)  # (d / 2,)
    angle = torch.arange(length)[:, None] * rate  # (length, d / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
