"""Deep Interest Network (Zhou et al., KDD 2018) with RecBole's network."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.baselines.recbole.bridge import RecBoleRanker
from bench.baselines.recbole.classes import EXEMPT
from bench.ranker.contract import (
    Batch,
    Field,
    Fraction,
    PositiveInt,
    Representation,
    TrainConfig,
)
from bench.ranker.registry import register


class DINConfig(TrainConfig):
    """Names are RecBole's; d 64 for the item and layers of 80 and 40 are the authors', whose batches have 32 rows."""

    embedding_size: PositiveInt = 64
    """Width of the item embeddings."""
    mlp_hidden_size: Annotated[list[PositiveInt], Field(min_length=1)] = Field(default_factory=lambda: [80, 40])
    """Widths of the layers, of the attention network and of the one that scores."""
    dropout_prob: Fraction = 0.0
    """Dropout of the layers."""
    pooling_mode: Literal["mean", "max", "sum"] = "mean"
    """RecBole's pooling of features with several values; a history is pooled by attention."""
    batch_size: PositiveInt = 128
    """Clicks of a training batch; each is a row per candidate."""


@register("din", title="DIN", tasks=("rec",), group="rec", cite="Zhou et al., KDD 2018")
class DIN(RecBoleRanker):
    """An attention network pools the history for each candidate; another one reads pooled, candidate and their product.

    Score = the logit before RecBole's sigmoid; loss = binary cross-entropy over the clicked item and its negatives.
    Where RecBole's network differs from the paper's and the authors' code: attention weights are set to zero at
    padding and divided by sqrt(d), without the softmax of the code; one list of layer sizes serves both networks;
    Dice has neither a trained alpha nor a normalisation of its own, so after batch normalisation it is s *
    sigmoid(s); there is no item bias; a table of user embeddings exists and is never read. Only item ids are features
    here. Adam instead of plain SGD with lr 1.
    """

    Config = DINConfig
    recbole: ClassVar[str] = "DIN"
    exempt: ClassVar[dict[str, str]] = EXEMPT["DIN"]
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "embedding_size": [32, 64],
        "mlp_hidden_size": [[80, 40], [200, 80]],
        "dropout_prob": [0.0, 0.1, 0.2, 0.5],
        "weight_decay": [0.0, 1e-6, 1e-5],
        "lr": ("loguniform", 1e-4, 1e-2),
    }

    def represent(self, batch: Batch) -> Representation:
        """Pooled history, candidate and their product, (B, K, 3d), and the last hidden layer; zero without a history."""
        seen: dict[str, list[Tensor]] = {"input": [], "hidden": []}
        handles = [
            self.net.dnn_mlp_layers.register_forward_pre_hook(lambda _, read: seen["input"].append(read[0])),
            self.net.dnn_predict_layers.register_forward_pre_hook(lambda _, read: seen["hidden"].append(read[0])),
        ]
        try:
            self.score(batch)
        finally:
            for handle in handles:
                handle.remove()
        known = batch.rec_len > 0
        out = []
        for name, width in (("input", 3 * self.config.embedding_size), ("hidden", self.config.mlp_hidden_size[-1])):
            values = torch.zeros((*batch.cand.shape, width), device=batch.cand.device)
            if seen[name]:
                values[known] = torch.cat(seen[name]).view(int(known.sum()), batch.cand.shape[1], width)
            out.append(values)
        return Representation(*out)
