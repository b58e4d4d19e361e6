"""SASRec (Kang and McAuley, ICDM 2018) with RecBole's network."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bench.baselines.recbole_bridge import RecBoleRanker
from bench.ranker.contract import Config, Fraction, Positive, TrainConfig, dataclass, strict
from bench.ranker.registry import register


@dataclass(config=strict)
class SASRecConfig(TrainConfig):
    """Names are RecBole's; the sizes are the paper's (d 50, 2 blocks, 1 head, inner layer as wide as d, dropout .5)."""

    n_layers: Positive = 2
    n_heads: Positive = 1
    hidden_size: Positive = 50
    inner_size: Positive = 50
    hidden_dropout_prob: Fraction = 0.5
    attn_dropout_prob: Fraction = 0.5
    hidden_act: Literal["relu", "gelu"] = "relu"
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    loss_type: Literal["CE", "BPR"] = "CE"
    batch_size: Positive = 128


@register("sasrec", title="SASRec", tasks=("rec",), group="rec", cite="Kang and McAuley, ICDM 2018")
class SASRec(RecBoleRanker):
    """Causal self-attention over the recommendation clicks; score = state at the last click . item embedding.

    Where RecBole's network differs from the paper's: layer normalisation after each block instead of before, no
    factor sqrt(d) on the embeddings, and the loss at the last position only, so that every click with its past is a
    row of its own. The paper's loss (binary, one negative) is not among RecBole's; the default here is its
    cross-entropy over all items, which usually does better (Klenitskiy and Vasilev, RecSys 2023). The paper's beta2 =
    .98 of Adam stays at .999.
    """

    Config: ClassVar[type[Config]] = SASRecConfig
    recbole: ClassVar[str] = "SASRec"
    search_space: ClassVar[dict[str, Any]] = {
        "hidden_size": [50, 64, 128],
        "n_layers": [1, 2],
        "n_heads": [1, 2],
        "hidden_dropout_prob": [0.2, 0.5],
        "attn_dropout_prob": [0.2, 0.5],
        "loss_type": ["CE", "BPR"],
        "lr": ("loguniform", 1e-4, 1e-2),
    }
