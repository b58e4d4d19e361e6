"""What a model may ask of the harness while it is built and fitted."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.data import hashing
from bench.data.batch import Batch
from bench.data.catalog import Catalog
from bench.errors import RunError


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


@dataclass
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
            raise RunError(f"a language model ({name}) was asked for, but this Context was built without `backbones`")
        return self._backbones(name, self.catalog, self.seed, texts)


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
