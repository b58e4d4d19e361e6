"""GRU4Rec (Hidasi et al., ICLR 2016) with RecBole's network."""

from typing import Any, ClassVar

from bench.baselines.recbole.losses import DotProductLosses
from bench.ranker.blocks.losses import LossType
from bench.ranker.contract import Fraction, PositiveInt, TrainConfig
from bench.ranker.registry import register


class GRU4RecConfig(TrainConfig):
    """Names are RecBole's; one layer of 100 units and batches of 64 are the authors', dropout is RecBole's."""

    embedding_size: PositiveInt = 100
    """Width of the item embeddings."""
    hidden_size: PositiveInt = 100
    """Units of a layer."""
    num_layers: PositiveInt = 1
    """Layers of the GRU."""
    dropout_prob: Fraction = 0.3
    """Dropout of the embeddings."""
    loss_type: LossType = "CE"
    """Cross-entropy over all items, or a loss against the sampled `negatives`."""
    batch_size: PositiveInt = 64
    """Rows of a training batch."""


@register("gru4rec", title="GRU4Rec", tasks=("rec",), group="rec", cite="Hidasi et al., ICLR 2016")
class GRU4Rec(DotProductLosses):
    """A GRU over the recommendation clicks; score = projected state at the last click . item embedding.

    RecBole's network follows Tan et al. (DLRS 2016): every click with its past is a training row, instead of
    session-parallel batches; no bias in the GRU and none for items; cross-entropy over all items or a loss with a
    few negatives instead of BPR-max with thousands. The authors train with Adagrad (lr .05), here it is Adam. They warn
    that such versions fall short of theirs.
    """

    Config = GRU4RecConfig
    recbole: ClassVar[str] = "GRU4Rec"
    quick: ClassVar[dict[str, Any]] = {"max_steps": 3000}
    search_space: ClassVar[dict[str, Any]] = {
        "hidden_size": [64, 100, 128, 256],
        "embedding_size": [64, 100, 128],
        "dropout_prob": [0.1, 0.3, 0.5],
        "loss_type": ["CE", "sampled-CE", "BCE", "BPR"],
        "negatives": [1, 4, 16, 64],
        "lr": ("loguniform", 1e-4, 1e-2),
    }
