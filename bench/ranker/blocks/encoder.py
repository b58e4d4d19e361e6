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
    ICML 2020). With `keys` it is the cross-attention layer of two sequences; without, self-attention.
    """

    def __init__(
        self,
        d: int,
        heads: int,
        dropout: float,
        hidden: int | None = None,
        norm: Norm = "post",
        activation: Activation = "relu",
        attention_dropout: float | None = None,
    ):
        super().__init__()
        self.attention = MultiHeadAttention(d, heads, dropout if attention_dropout is None else attention_dropout)
        self.network = FeedForward(d, hidden or d, dropout, activation)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
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
    ):
        super().__init__()
        self.positions, self.causal, self.from_end = positions, causal, from_end
        if positions == "learned":
            self.position = nn.Embedding(length, d)
        if positions == "sinusoidal":
            self.register_buffer("sinusoids", sinusoidal(length, d), persistent=False)
        self.layers = nn.ModuleList(
            EncoderLayer(d, heads, dropout, hidden, norm, activation, attention_dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d) if norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, L, d), right padded, `mask` (B, L) True on real places -> (B, L, d)."""
        x = self.placed(x, mask)
        seen = mask
        if self.causal:
            earlier = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()  # (L, L)
            seen = mask[:, None, :] & earlier  # (B, L, L)
        for layer in self.layers:
            x = layer(x, seen)
        return self.norm(x)

    def placed(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` (B, L, d) plus the vectors of its positions."""
        if self.positions == "none":
            return x
        place = torch.arange(mask.shape[1], device=x.device)  # (L,)
        if self.from_end:
            place = (mask.sum(1, keepdim=True) - 1 - place).clamp(min=0)  # (B, L)
        return x + (self.position(place) if self.positions == "learned" else self.sinusoids[place])


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
