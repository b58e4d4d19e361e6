"""ZAM: attention over earlier clicks that may also look at nothing (Ai et al., CIKM 2019)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.aem import AEM, AEMConfig
from bench.ranker.blocks.product_search import AttentiveSearch
from bench.ranker.registry import register


@register("zam", title="ZAM", tasks=("search",), group="search", cite="Ai et al., CIKM 2019")
class ZAM(AttentiveSearch):
    """AEM with a zero vector beside the past clicks whose logit is 0: a_j = exp f_j / (1 + sum exp f) (eq. 11).

    The zero vector has neither a key nor a value of its own, so a query that needs no personalisation gets none. Loss
    and deviations as AEM's.
    """

    Config = AEMConfig
    search_space: ClassVar[dict[str, Any]] = AEM.search_space

    def weights(self, logits: Tensor) -> Tensor:
        """(B, L) softmax over the real clicks and a logit of 0, without the weight of that logit."""
        return torch.softmax(F.pad(logits, (0, 1)), 1)[:, :-1]
