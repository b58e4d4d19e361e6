"""Base of the models that the Trainer fits."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from bench.data.batch import Batch, SequenceBatch
from bench.data.history import Window
from bench.data.training import TrainData
from bench.ranker.config import TrainConfig
from bench.ranker.context import Context, Validation
from bench.ranker.ranker import Ranker
from bench.ranker.trainer import Trainer


class TorchRanker(Ranker, nn.Module):
    """A model fitted by the Trainer: define `__init__`, `loss` and `score`.

    `precompute` runs once before training (and again on resume), for what is derived from the training events. Buffers
    that it fills must exist with their final shape after `__init__` and be persistent, so that saved weights can be
    loaded.
    """

    Config: ClassVar[type] = TrainConfig
    # What `loss` reads: "events" (Batch: one clicked item a row) or "sequences" (SequenceBatch: one user a row).
    trains_on: ClassVar[Literal["events", "sequences"]] = "events"
    config: Any

    def __init__(self, config: Any, context: Context):
        nn.Module.__init__(self)
        Ranker.__init__(self, config, context)

    @property
    def window(self) -> Window:
        return Window(rec=self.config.history_rec, search=self.config.history_search)

    def precompute(self, train: TrainData) -> None:
        """Called before the first step with the training side of the split."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of a Batch or SequenceBatch; optionally with named parts for the curve."""

    def batches(self, train: TrainData, start: int, count: int) -> Iterator[Batch | SequenceBatch]:
        """The training stream; override to sample differently."""
        config = self.config
        if self.trains_on == "sequences":
            return train.sequences(config.batch_size, config.history_rec, start, count)
        popularity = config.negative_sampling == "popularity"
        return train.batches(config.batch_size, config.negatives, self.window, start, count, popularity)

    def steps_per_pass(self, train: TrainData) -> int:
        size = self.config.batch_size
        return train.sequence_steps(size) if self.trains_on == "sequences" else train.steps(size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser; override for learning rates or weight decay of parts."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        return Trainer(self, self.config).fit(train, valid)

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)
