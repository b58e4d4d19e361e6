"""What a model is to the harness.

A model is a `Ranker`: it serves tasks, learns in `fit`, and gives every candidate of a batch a score. Most models are
`TorchRanker`s: they define `loss(batch)` and `score(batch)` and the one Trainer fits them. A model sees tensors and the
`Context`; it never sees files, MLflow, Ray or the command line.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bench.data.batch import Batch, SequenceBatch, TrainData
from bench.data.catalog import Catalog
from bench.data.history import Window

T = TypeVar("T")
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
strict = ConfigDict(extra="forbid", validate_assignment=True)


def shortens(setting: str) -> bool:
    """Whether a setting is about the length of a training: epochs of any stage (`cf_epochs`), steps, patience."""
    lengths = ("epochs", "steps_per_epoch", "max_steps", "patience", "first_check")
    return setting in lengths or setting.endswith("_epochs")


@dataclass(config=strict)
class Config:
    """Settings of a model; a subclass adds its own fields. Unknown keys and values out of bounds are refused."""


@dataclass(config=strict)
class TrainConfig(Config):
    """Settings of the Trainer, part of the config of every model that it fits; a model overrides the defaults."""

    epochs: Positive = 50
    steps_per_epoch: Annotated[int, Field(ge=0, description="0 = one pass over the training rows")] = 0
    max_steps: Annotated[int, Field(ge=0, description="of all epochs together, 0 = no bound; in whole epochs")] = 0
    batch_size: Positive = 1024
    negatives: Annotated[int, Field(ge=0, description="sampled for each clicked item")] = 4
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NotNegative = 0.0
    clip: Annotated[float, Field(ge=0, description="bound of the gradient norm, 0 = none")] = 0.0
    warmup: Annotated[int, Field(ge=0, description="steps of linear warm-up, at most a tenth of the training")] = 0
    plateau: Annotated[
        int, Field(ge=0, description="epochs without a better one before lr falls to a tenth, 0 = never")
    ] = 0
    min_lr: NotNegative = 1e-6
    patience: Annotated[int, Field(ge=1, description="epochs without a better validation before stopping")] = 5
    first_check: Annotated[int, Field(ge=1, description="first epoch that is validated")] = 1
    amp: Literal["off", "bf16"] = "off"
    history_rec: Positive = 30
    history_search: Positive = 30


class Progress(Protocol):
    """Where a fit reports to (a progress bar, the curve of the run)."""

    def begin(self, epochs: int) -> None:
        """Training starts; it takes at most so many epochs."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """One optimiser step done."""

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """One epoch done: training loss and parts, validation metrics, seconds."""


class Checkpoints(Protocol):
    """Keeps the state of an unfinished fit, so that an interrupted one resumes."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state: tensors, numbers, strings, lists and dicts of them."""

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None."""


class Validation(Protocol):
    """The validation rows with their candidates."""

    def evaluate(self, score: Callable[[Batch], Tensor]) -> dict[str, float]:
        """Metrics such as `rec/N@10`, and `mean/N@10` over the tasks at hand: the declared selection metric."""


@dataclass(config=ConfigDict(arbitrary_types_allowed=True))
class Backbone:
    """A sequence-to-sequence language model with its tokenizer. `name` says which one: it is part of every result."""

    name: str
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast


class Context:
    """What a model may ask of the harness. The only doors to the outside are `cached` and `backbone`."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        seed: int = 0,
        tasks: tuple[str, ...] = ("rec", "search"),
        device: str | torch.device = "cpu",
        cache: Callable[[str, str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]] | None = None,
        backbones: Callable[[str, Catalog, int, list[str]], Backbone] | None = None,
        progress: Progress | None = None,
        checkpoints: Checkpoints | None = None,
    ):
        self.catalog = catalog
        self.seed = seed
        self.tasks = tasks
        self.device = torch.device(device)
        self.progress = progress or Silent()
        self.checkpoints = checkpoints or InMemory()
        self._cache = cache
        self._backbones = backbones

    def generator(self, purpose: str, *parts: object) -> torch.Generator:
        """A CPU generator of its own for each purpose, derived from the run's seed."""
        from bench.data import hashing

        return torch.Generator().manual_seed(hashing.seed(purpose, self.seed, *parts))

    def cached(self, name: str, key: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that cost time to build (a pretrained table): built once for (name, key, data, split, code), then read.

        `key` must say everything that the result depends on besides data, split and code: settings and seed.
        """
        return self._cache(name, key, build) if self._cache else build()

    def backbone(self, name: str, texts: list[str]) -> Backbone:
        """A language model by name: `small-t5` (built here, tokenizer trained on the log's text and on `texts`), a hub name
        or a folder. Its weights are drawn from the run's seed where they are not pretrained.
        """
        if self._backbones is None:
            from bench.ranker.backbone import load

            return load(name, self.catalog, self.seed, texts)
        return self._backbones(name, self.catalog, self.seed, texts)


class Ranker(ABC):
    """Base of every model.

    A subclass is constructed as `cls(config, context)`. Class attributes declare what the harness may rely on.
    """

    # What `@register` declared; absent on classes that are not registered.
    entry: ClassVar[Any]
    Config: ClassVar[type] = Config
    # What `--budget quick` changes: the length of the training (see `shortens`) and the backbone, nothing else. The battery
    # holds a model to it.
    quick: ClassVar[dict[str, Any]] = {}
    # Settings that the authors published for a data set, by its name (`kuaisar`, `amazon-kindle`); both budgets start
    # from them there. The defaults of the config serve every other data set.
    published: ClassVar[dict[str, dict[str, Any]]] = {}
    # For `bench tune`: field name -> list of values, or ("loguniform", low, high).
    search_space: ClassVar[dict[str, Any]] = {}
    # Which inputs change the score; the conformance battery checks both directions.
    uses_query: ClassVar[bool] = False
    uses_history: ClassVar[bool] = True
    uses_user: ClassVar[bool] = False
    # Checks of the battery that do not apply: name of the check -> a sentence that says why.
    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Any, context: Context):
        self.config = config
        self.context = context
        self.catalog = context.catalog

    @property
    def window(self) -> Window:
        """How much history the model wants in its batches."""
        return Window()

    @abstractmethod
    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """Learn. Returns facts about the fit for the record (epochs, best epoch, whether it converged)."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """Scores of the candidates, float32 (B, K), higher is better; logits rather than probabilities."""

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record that the config does not say, such as the backbone's name and size."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything learnt, as tensors; `load_state` on a fresh object must give the same scores."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""


class TorchRanker(Ranker, nn.Module):
    """A model fitted by the Trainer: define `__init__`, `loss` and `score`.

    `prepare` runs once before training (and again on resume), for what is derived from the training events. Buffers
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

    def prepare(self, train: TrainData) -> None:
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
        from bench.ranker.trainer import Trainer

        return Trainer(self, self.config).fit(train, valid)

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)


class Silent:
    """Progress that reports nowhere."""

    def begin(self, epochs: int) -> None:
        pass

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pass

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        pass


class InMemory:
    """Checkpoints that live as long as the process."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        # The tensors of a running fit change in place.
        self._state = copy.deepcopy(state)

    def load(self) -> dict[str, Any] | None:
        return self._state


__all__ = [
    "Backbone",
    "Batch",
    "Config",
    "Context",
    "Fraction",
    "NotNegative",
    "Positive",
    "Ranker",
    "SequenceBatch",
    "TorchRanker",
    "TrainConfig",
    "TrainData",
    "Validation",
    "Window",
    "dataclass",
    "field",
    "strict",
]
