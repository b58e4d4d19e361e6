"""TEM: a Transformer over the query and the user's earlier clicks (Bi et al., SIGIR 2020)."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.data.merged import Clicks
from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.product_search import PersonalisedSearch, ProductSearchConfig
from bench.ranker.contract import Batch, Context, Fraction, PositiveFloat, PositiveInt
from bench.ranker.registry import register


class TEMConfig(ProductSearchConfig):
    """The settings of the official README where it gives them: d 128, 1 layer, 8 heads, Adam 5e-4, batch 384."""

    dim: PositiveInt = 128
    """Width of words, items and the Transformer; even."""
    layers: PositiveInt = 1
    """Layers of the Transformer (1 in the README, 2 by default in the code)."""
    heads: PositiveInt = 8
    """Heads of a layer; they divide `dim`."""
    hidden: PositiveInt = 512
    """Width of a layer's network."""
    dropout: Fraction = 0.1
    """Dropout of the query, the attention weights and the layers."""
    positions: bool = True
    """Whether sinusoidal positions are added: 0 for the query, then the clicks, oldest first."""
    item_bias: bool = False
    """Whether the score adds a bias per item; the official setting is the plain product."""
    batch_size: PositiveInt = 384
    """Rows of a training batch; published are as many words."""
    lr: PositiveFloat = 5e-4
    """Learning rate of Adam."""


@register("tem", title="TEM", tasks=("search",), group="search", cite="Bi et al., SIGIR 2020")
class TEM(PersonalisedSearch):
    """s = <M, E[i]>, M = output at the query of a Transformer over [phi(q); E[h_1]; ...; E[h_n]] (section 3.1).

    Bidirectional; pre-norm but for the first layer's attention, whose input stays as it is; tanh-approximated GELU; a
    last LayerNorm, so that M has the same length for every history. Neither user ids nor the candidate are in the
    sequence. A row without history has the query alone, which the Transformer still changes: M is not phi(q).

    Loss as QEM's. Deviations from the official code: the history holds earlier clicks only (the code draws 20 of all
    other training purchases unless told otherwise), of both tasks or of searches (`history`); text terms as QEM's; LayerNorm
    adds 1e-5 to the variance instead of 1e-6.
    """

    Config = TEMConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1000}
    search_space: ClassVar[dict[str, Any]] = {
        "dim": [64, 128],
        "layers": [1, 2, 3],
        "heads": [1, 2, 4, 8],
        "dropout": [0.1, 0.3],
        "positions": [True, False],
        "history_length": [10, 20, 30],
        "lr": [3e-4, 5e-4, 1e-3],
        "text_weight": [0.1, 0.5, 1.0],
    }
    # Tokens that a click becomes.
    tokens_per_click: ClassVar[int] = 1

    def __init__(self, config: TEMConfig, context: Context):
        super().__init__(config, context)
        self.encoder = Encoder(
            config.dim,
            config.heads,
            config.layers,
            config.dropout,
            config.hidden,
            norm="pre",
            activation="gelu_tanh",
            positions="sinusoidal" if config.positions else "none",
            length=1 + self.tokens_per_click * config.history_length,
            raw_input=True,
        )
        self.dropout = Dropout(config.dropout)

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) output at the query."""
        query = self.dropout(self.query_encoder(batch.query))  # (B, d)
        return self.read(query, *self.tokens(self.past_clicks(batch)))

    def tokens(self, past: Clicks) -> tuple[Tensor, Tensor]:
        """Past clicks as tokens (B, T, d), and (B, T) which are real; here one per click, its item."""
        return self.items(past.items), past.mask

    def read(self, first: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, d) output of the Transformer at `first` (B, d), which stands before `tokens` (B, T, d) with `mask` (B, T)."""
        sequence = torch.cat([first[:, None], tokens * mask[..., None]], 1)  # (B, 1 + T, d)
        return self.encoder.first(sequence, torch.cat([torch.ones_like(mask[:, :1]), mask], 1))
