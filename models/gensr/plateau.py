"""The training plateau: the release's task loss stays at the entropy of its labels for 145,000 steps and then falls.

Counts the batches of the training for what happens at its beginning, and remembers the task loss that it ended with, so
that a result can say that nothing was learnt.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.gensr.config import GenSRConfig

# The remembered loss is the mean of about so many batches.
_MEMORY = 200
# A loss above this share of the entropy is the entropy. One in five labels of every batch is Yes, so a constant answer
# has no sampling error.
_SHARE = 0.99


class Plateau(nn.Module):
    """Batches seen, and the running mean of the task loss; both belong to the weights."""

    batches: Tensor  # () int64
    task: Tensor  # () float32

    def __init__(self, config: GenSRConfig):
        super().__init__()
        self._config = config
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("task", torch.zeros(()))

    def balanced(self) -> bool:
        """Whether the next batch has one negative a click."""
        first = self._config.balanced_batches
        return bool(first) and int(self.batches) < first and self._config.negatives > 1

    def contrast_share(self) -> float:
        """Share of lambda that the next batch gets."""
        warmup = self._config.contrast_warmup
        return min(1.0, int(self.batches) / warmup) if warmup else 1.0

    @torch.no_grad()
    def saw(self, task_loss: Tensor) -> None:
        """Note the task loss of a batch."""
        since = (self.batches - self._config.balanced_batches).clamp(min=0)
        self.task.lerp_(task_loss.detach().float(), 1 / (since + 1).clamp(max=_MEMORY))
        self.batches += 1

    def evidence(self) -> dict[str, Any]:
        """The task loss that the weights were left with, and a warning where it is not below the entropy of the labels."""
        config = self._config
        if not config.negatives or int(self.batches) <= config.balanced_batches:
            return {}
        limit, loss = label_entropy(config.negatives), float(self.task)
        if loss < _SHARE * limit:
            return {"task loss": loss}
        relation = "is" if loss < limit / _SHARE else "is above"
        warning = f"task loss {loss:.4f} {relation} the entropy of the labels, {limit:.4f}: nothing was learnt"
        return {"task loss": loss, "warning": warning}


def label_entropy(negatives: int) -> float:
    """Entropy in nats of a label that is Yes for one of 1 + `negatives` candidates: the loss of a constant answer."""
    share = 1 / (1 + negatives)
    return -share * math.log(share) - (1 - share) * math.log(1 - share)
