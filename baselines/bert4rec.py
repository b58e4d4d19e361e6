"""BERT4Rec: a bidirectional Transformer that fills in hidden clicks (Sun et al., CIKM 2019)."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.losses import LossType, of_products
from bench.ranker.contract import (
    Batch,
    Context,
    Field,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SequenceBatch,
    Stream,
    TorchRanker,
    TrainConfig,
    TrainData,
    Window,
)
from bench.ranker.registry import register


class BERT4RecConfig(TrainConfig):
    """The authors' network and masks for Amazon Beauty; the learning rate is higher, for fewer steps."""

    d: PositiveInt = 64
    """Width of items and states."""
    layers: PositiveInt = 2
    """Layers of the Transformer; their inner width is 4 d."""
    heads: PositiveInt = 2
    """Heads of a layer."""
    dropout: Fraction = 0.5
    """After the embedding and in the layers."""
    attention_dropout: Fraction = 0.2
    """Of the attention weights."""
    mask_share: PositiveFloat = Field(0.6, le=1)
    """Share of a sequence that is hidden, at least one click; .6 for Beauty, .2 for the authors' MovieLens data."""
    last_only: Fraction = 0.1
    """Share of the sequences in which the last click alone is hidden, as in scoring; theirs is one in eleven."""
    loss_type: LossType = "CE"
    """Cross-entropy over all items, or a loss against the sampled `negatives` of each hidden click."""
    history_rec: PositiveInt = 49
    """Clicks in a history; with [MASK] behind them the authors' 50 positions."""
    initial_std: PositiveFloat = 0.02
    """Standard deviation of all initial weights."""
    optimizer: Literal["adam", "adamw", "adagrad", "sgd", "row_adagrad"] = "adamw"
    """As published."""
    # Deviation: the authors take 400,000 steps of 256 sequences at 1e-4.
    lr: PositiveFloat = 1e-3
    """Learning rate after the warm-up."""
    batch_size: PositiveInt = 64
    """Sequences of a training batch."""
    weight_decay: NonNegativeFloat = 0.01
    """As published; biases and normalisations bear none."""
    clip: NonNegativeFloat = 5.0
    """As published."""
    warmup: NonNegativeInt = 100
    """As published."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "linear"
    """As published."""
    steps_per_epoch: NonNegativeInt = 250
    """A pass over the sequences is short: one step for every few thousand clicks."""
    epochs: PositiveInt = 200
    """Most epochs, 50,000 steps."""
    patience: PositiveInt = 10
    """Checks without a better one before the training stops."""


@register("bert4rec", title="BERT4Rec", tasks=("rec",), group="rec", cite="Sun et al., CIKM 2019")
class BERT4Rec(TorchRanker):
    """Cloze: clicks are replaced by [MASK] and predicted from both sides (eq. 8); at scoring [MASK] follows the history.

    x = LN(item + position); layers with normalisation after each part and GELU (eq. 1 to 6); at a [MASK] z =
    LN(GELU(W h + b)) and the score of item i is z . e(i) + b_i (eq. 7), with the item embeddings of the input.

    As in the official code (FeiSun/BERT4Rec) the number of hidden clicks is rounded from their share, and in some
    sequences the last one alone is hidden. There each sequence is written ten times with masks drawn beforehand and
    windows slide over long ones; here masks and cuts are drawn in every pass. Other than RecBole's class
    (`recbole:BERT4Rec`), scores depend on the first click of a history, the last training click of a user is a label
    like any other, and a mask at the first position counts in the loss.
    """

    Config = BERT4RecConfig
    trains_on: ClassVar[Literal["events", "sequences"]] = "sequences"
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "mask_share": [0.2, 0.4, 0.6],
        "dropout": [0.1, 0.2, 0.5],
        "layers": [1, 2],
        "loss_type": ["CE", "sampled-CE", "BCE", "BPR"],
        "negatives": [1, 4, 16, 64],
        "lr": ("loguniform", 1e-4, 5e-3),
    }
    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig, context: Context):
        super().__init__(config, context)
        d = config.d
        self.mask_id = self.catalog.n_items + 1
        self.items = nn.Embedding(self.catalog.n_items + 2, d, padding_idx=0)  # padding, items, [MASK]
        self.positions = nn.Embedding(config.history_rec + 1, d)
        self.norm, self.dropout = nn.LayerNorm(d), Dropout(config.dropout)
        self.encoder = Encoder(
            d,
            config.heads,
            config.layers,
            config.dropout,
            4 * d,
            activation="gelu",
            attention_dropout=config.attention_dropout,
        )
        self.head = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d))
        self.item_bias = nn.Parameter(torch.zeros(self.catalog.n_items + 1))
        for name, value in self.named_parameters():
            if value.dim() > 1:
                nn.init.trunc_normal_(
                    value, std=config.initial_std, a=-2 * config.initial_std, b=2 * config.initial_std
                )
            elif "bias" in name:
                nn.init.zeros_(value)
        with torch.no_grad():
            self.items.weight[0] = 0

    @property
    def window(self) -> Window:
        """The last clicks that fit before [MASK]; no searches."""
        return Window(rec=self.config.history_rec, search=0)

    def stream(self, train: TrainData) -> Stream:
        """Windows of users' clicks, as long as a history with its [MASK]; negatives only where the loss reads them."""
        config = self.config
        negatives = 0 if config.loss_type == "CE" else max(config.negatives, 1)
        return train.sequences(config.batch_size, length=config.history_rec + 1, negatives=negatives)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """No decay of biases and normalisations, as published."""
        return [
            {"params": [p for p in self.parameters() if p.dim() > 1]},
            {"params": [p for p in self.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States of all positions.

        Args:
            ids: (B, L) items and [MASK], right padded with 0.
            mask: (B, L) bool, True on real positions.

        Returns:
            (B, L, d).
        """
        x = self.items(ids) + self.positions.weight[: ids.shape[1]]  # (B, L, d)
        return self.encoder(self.dropout(self.norm(x)), mask)

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d + 1) the prediction at a [MASK] behind the history, and a one that meets the items' bias."""
        last = batch.rec_len[:, None]  # (B, 1)
        ids = F.pad(batch.rec_items.where(batch.rec_mask, 0), (0, 1)).scatter(1, last, self.mask_id)  # (B, Lr + 1)
        mask = torch.arange(ids.shape[1], device=ids.device) <= last  # (B, Lr + 1)
        states = self.states(ids, mask)  # (B, Lr + 1, d)
        return self._predictions(states[torch.arange(len(states), device=ids.device), batch.rec_len])

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d + 1) embeddings and bias, without [MASK]."""
        return torch.cat([self.items.weight[: self.mask_id], self.item_bias[:, None]], 1)

    def _predictions(self, states: Tensor) -> Tensor:
        """States (n, d) at [MASK]s to vectors (n, d + 1), whose product with `item_vectors` is the score."""
        return F.pad(self.head(states), (0, 1), value=1.0)

    def hidden(self, mask: Tensor) -> Tensor:
        """(B, L) bool, the positions that [MASK] replaces: some of the real ones (`mask`) in every row, drawn anew."""
        length = mask.sum(1, keepdim=True)  # (B, 1)
        draw = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0)
        rank = draw.argsort(1).argsort(1)  # (B, L)
        chosen = rank < (self.config.mask_share * length).round().clamp(min=1)
        last = torch.arange(mask.shape[1], device=mask.device) == length - 1  # (B, L)
        alone = torch.rand(len(mask), 1, device=mask.device) < self.config.last_only
        return torch.where(alone, last, chosen) & mask

    def loss(self, batch: SequenceBatch) -> Tensor:
        """The mean of the chosen loss over the hidden clicks; fresh cross-entropy is ln(n_items)."""
        hidden = self.hidden(batch.mask)  # (B, L)
        states = self.states(batch.items.masked_fill(hidden, self.mask_id), batch.mask)
        predictions, clicked = self._predictions(states[hidden]), batch.items[hidden]  # (n, d + 1), (n,)
        negatives = None if batch.negatives is None else batch.negatives[hidden]  # (n, N)
        return of_products(self.config.loss_type, predictions, self.item_vectors(), clicked, negatives)
