"""FMLP-Rec: learnable filters in the frequency domain instead of attention (Zhou et al., WWW 2022)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.dropout import Dropout
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
    Window,
)
from bench.ranker.registry import register


class FMLPConfig(TrainConfig):
    """The authors' settings for Amazon Beauty: width 64, two blocks, window 50, dropout .5, Adam 1e-3, one negative."""

    dim: PositiveInt = 64
    """Width of items and hidden states."""
    layers: PositiveInt = 2
    """Blocks of filter and feed-forward network."""
    dropout: Fraction = 0.5
    """After the embedding, the filter and the feed-forward network."""
    history_rec: PositiveInt = 50
    """Length of the window; the filters have one weight per frequency of it, so it is fixed."""
    initial_std: PositiveFloat = 0.02
    """Standard deviation of all initial weights."""
    negatives: PositiveInt = 1
    """Items sampled for each click; the authors' is one uniform negative."""
    batch_size: PositiveInt = 256
    """Clicks of a training batch, each with its past."""
    epochs: PositiveInt = 200
    """Most passes over the training clicks."""
    patience: PositiveInt = 10
    """Checks without a better one before the training stops; the authors look at the MRR, here it is N@10."""


class FilterLayer(nn.Module):
    """X -> LN(X + Dropout(irfft(W * rfft(X)))), a circular convolution over the window (section 3.2).

    It is not causal: a loss at every position would show each position its own label, so only the last one is trained.
    """

    def __init__(self, length: int, dim: int, dropout: float, std: float):
        super().__init__()
        self.length = length
        self.weight = nn.Parameter(torch.randn(length // 2 + 1, dim, 2) * std)  # real and imaginary parts
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * torch.view_as_complex(self.weight)  # (B, L/2+1, d)
        filtered = torch.fft.irfft(spectrum, n=self.length, dim=1, norm="ortho")  # (B, L, d)
        return self.norm(x + self.dropout(filtered))


class FeedForwardLayer(nn.Module):
    """X -> LN(X + Dropout(W2 GELU(W1 X))) with an inner width of 4 d (section 3.2)."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return self.norm(x + self.dropout(self.outer(F.gelu(self.inner(x)))))


@register("fmlp", title="FMLP-Rec", tasks=("rec",), group="rec", cite="Zhou et al., WWW 2022")
class FMLP(TorchRanker):
    """User state = output at the last slot of a left-padded window; score = its product with the item's embedding.

    Every click is a training row with the clicks before it. Loss: -log sigma(s+) - log(1 - sigma(s-)).
    As in the authors' code (Woeee/FMLP-Rec), padding is not masked: empty slots pass through the filters as the padding
    row plus their position. That row is zero here; theirs keeps its random start.
    """

    Config = FMLPConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    fresh_loss: ClassVar[tuple[float, float]] = (1.386, 0.05)
    search_space: ClassVar[dict[str, Any]] = {
        "dropout": [0.1, 0.3, 0.5],
        "layers": [1, 2, 4],
        "history_rec": [30, 50],
        "lr": ("loguniform", 1e-4, 5e-3),
    }
    config: FMLPConfig

    def __init__(self, config: FMLPConfig, context: Context):
        super().__init__(config, context)
        self.items = nn.Embedding(self.catalog.n_items + 1, config.dim, padding_idx=0)
        self.positions = nn.Embedding(config.history_rec, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(config.layers)
                for layer in (
                    FilterLayer(config.history_rec, config.dim, config.dropout, config.initial_std),
                    FeedForwardLayer(config.dim, config.dropout),
                )
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.initial_std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.items.weight[0] = 0

    @property
    def window(self) -> Window:
        """The last clicks that fit the filters; no searches."""
        return Window(rec=self.config.history_rec, search=0)

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d) states at the last slot of the window."""
        length = self.config.history_rec
        # Left padding: the newest click always stands in the last slot.
        column = torch.arange(length, device=batch.user.device) - length + batch.rec_len[:, None]  # (B, L)
        real = column >= 0
        clicks = batch.rec_items.gather(1, column.clamp(0, batch.rec_items.shape[1] - 1))  # (B, L)
        x = self.items(torch.where(real, clicks, 0)) + self.positions.weight  # (B, L, d)
        return self.layers(self.dropout(self.norm(x)))[:, -1]

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d)."""
        return self.items.weight

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of the clicked item and, averaged, of the negatives; fresh value 2 ln 2."""
        assert batch.item is not None and batch.negatives is not None
        state = self.row_vectors(batch)  # (B, d)
        positive = (state * self.items(batch.item)).sum(-1)
        negative = torch.einsum("bd,bkd->bk", state, self.items(batch.negatives))
        return (F.softplus(-positive) + F.softplus(negative).mean(1)).mean()
