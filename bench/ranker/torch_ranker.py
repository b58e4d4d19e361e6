"""Base of the models that the Trainer fits."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.data.history import Window
from bench.data.streams import Stream
from bench.data.training import TrainData
from bench.ranker.config import TrainConfig
from bench.ranker.context import Context, Validation
from bench.ranker.ranker import Ranker
from bench.ranker.stage import Stage
from bench.ranker.trainer import Trainer


class TorchRanker(Ranker, nn.Module):
    """A model fitted by the Trainer: define `__init__`, `score`, and `loss` or `stages`.

    `precompute` runs once before training (and again on resume), for what is derived from the training events. Buffers
    that it fills must exist with their final shape after `__init__` and be persistent, so that saved weights can be
    loaded.
    """

    Config = TrainConfig
    # What `loss` reads: "events" (Batch: one clicked item a row) or "sequences" (SequenceBatch: windows of users).
    trains_on: ClassVar[Literal["events", "sequences"]] = "events"
    config: Any

    def __init__(self, config: Any, context: Context):
        nn.Module.__init__(self)
        Ranker.__init__(self, config, context)

    @property
    def window(self) -> Window:
        """How much history the model wants in its batches: `history_rec` clicks and `history_search` searches."""
        return Window(rec=self.config.history_rec, search=self.config.history_search)

    def precompute(self, train: TrainData) -> None:
        """Called before the first step with the training side of the split."""

    def loss(self, batch: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of a batch of the stream; optionally with named parts for the curve."""
        raise NotImplementedError(f"{type(self).__name__} defines neither `loss` nor `stages`")

    def stream(self, train: TrainData) -> Stream:
        """The training batches; override to sample differently."""
        config = self.config
        if self.trains_on == "sequences":
            return train.sequences(config.batch_size, length=config.history_rec, negatives=config.negatives)
        return train.events(
            config.batch_size, negatives=config.negatives, window=self.window, sampling=config.negative_sampling
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; override for learning rates, weight decay or optimisers of parts."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def stages(self, train: TrainData) -> list[Stage]:
        """The stages of the fit, one after the other; override for several."""
        return [Stage("fit", self.config, self.loss, self.stream, self.parameter_groups)]

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """Run the stages; see `Trainer.fit`."""
        self.precompute(train)
        return Trainer(self, self.context, self.score).fit(self.stages(train), train, valid)

    def scoring(self) -> AbstractContextManager:
        """The precision of the training, which the harness enters around scoring."""
        return torch.autocast(self.context.device.type, torch.bfloat16, enabled=self.config.amp == "bf16")

    def state(self) -> dict[str, Tensor]:
        """Every parameter and persistent buffer, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.load_state_dict(state)
