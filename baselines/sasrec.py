"""SASRec (Kang and McAuley, ICDM 2018) with RecBole's network."""

from typing import Any, ClassVar, Literal

from bench.baselines.recbole.losses import DotProductLosses
from bench.ranker.blocks.losses import LossType
from bench.ranker.contract import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    TrainConfig,
)
from bench.ranker.registry import register


class SASRecConfig(TrainConfig):
    """Names are RecBole's; the sizes are the paper's (d 50, 2 blocks, 1 head, inner layer as wide as d, dropout .5)."""

    n_layers: PositiveInt = 2
    """Blocks of self-attention."""
    n_heads: PositiveInt = 1
    """Heads of a block."""
    hidden_size: PositiveInt = 50
    """Width d of item embeddings and states."""
    inner_size: PositiveInt = 50
    """Width of the feed-forward layer."""
    hidden_dropout_prob: Fraction = 0.5
    """Dropout of embeddings and layers."""
    attn_dropout_prob: Fraction = 0.5
    """Dropout of attention weights."""
    hidden_act: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward layer."""
    layer_norm_eps: PositiveFloat = 1e-12
    """Added to the variance in layer normalisation."""
    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the weights at the start."""
    loss_type: LossType = "CE"
    """Cross-entropy over all items, or a loss against the sampled `negatives`."""
    batch_size: PositiveInt = 128
    """Rows of a training batch."""


@register("sasrec", title="SASRec", tasks=("rec",), group="rec", cite="Kang and McAuley, ICDM 2018")
class SASRec(DotProductLosses):
    """Causal self-attention over the recommendation clicks; score = state at the last click . item embedding.

    Where RecBole's network differs from the paper's: layer normalisation after each block instead of before, no
    factor sqrt(d) on the embeddings, and the loss at the last position only, so that every click with its past is a
    row of its own. The paper's loss is `loss_type` "BCE" with one of the `negatives`, which RecBole lacks; the default
    here is its cross-entropy over all items, which usually does better (Klenitskiy and Vasilev, RecSys 2023). The
    paper's beta2 = .98 of Adam stays at .999, and its sum over the labels of a click is the mean here.
    """

    Config = SASRecConfig
    recbole: ClassVar[str] = "SASRec"
    quick: ClassVar[dict[str, Any]] = {"max_steps": 3000}
    search_space: ClassVar[dict[str, Any]] = {
        "hidden_size": [50, 64, 128],
        "n_layers": [1, 2],
        "n_heads": [1, 2],
        "hidden_dropout_prob": [0.2, 0.5],
        "attn_dropout_prob": [0.2, 0.5],
        "loss_type": ["CE", "sampled-CE", "BCE", "BPR"],
        "negatives": [1, 4, 16, 64],
        "lr": ("loguniform", 1e-4, 1e-2),
    }
