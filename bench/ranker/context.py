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
from bench.ranker.stage import Check


class Progress(Protocol):
    """Where a fit reports to (a progress bar, the curve of the run)."""

    def begin(self, epochs: int) -> None:
        """A stage of training starts or resumes; it takes at most so many epochs."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Optimiser step `step` of the `steps` of an epoch is done; `loss` is the one read last, on a GPU not every step's."""

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """An epoch of a stage is done, or a part of it that ends in a check.

        `values` holds `stage` (its name), `step` (of the stage), `train/loss` and its parts as means since the last call,
        the metrics where the validation rows were scored, and `seconds`.
        """


class Checkpoints(Protocol):
    """Stores the state of an unfinished fit, so that an interrupted one resumes."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state: tensors, numbers, strings, lists and dicts of them."""

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None."""


class Validation(Protocol):
    """The validation rows with their candidates."""

    def evaluate(self, score: Callable[[Batch], Tensor]) -> dict[str, float]:
        """Metrics such as `rec/N@10`, and `mean/N@10` over the tasks at hand: the declared selection metric."""


Listener = Callable[[Check], str | None]


@dataclass
class Backbone:
    """A sequence-to-sequence language model with its tokenizer. `name` says which one: it is part of every result."""

    name: str
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast


class Context:
    """What a model may ask of the harness. The only doors to the outside are `cached` and `backbone`.

    Args:
        catalog: items, queries and users.
        seed: of the run.
        tasks: of "rec" and "search", those that the model is trained for.
        device: where it is trained.
        cache: stores what `cached` builds; without it everything is built anew.
        backbones: loads language models.
        progress: hears of steps and epochs.
        checkpoints: stores the state of the fit; without it an interrupted fit starts over.
        listener: hears of each check after the checkpoint is saved. A string that it returns ends the fit and stands in the
            facts of the fit as `ended_by`. A check that was saved just before an interruption is not repeated to it.
    """

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
        listener: Listener | None = None,
    ):
        self.catalog = catalog
        self.seed = seed
        self.tasks = tasks
        self.device = torch.device(device)
        self.progress = progress or Silent()
        self.checkpoints = checkpoints or InMemory()
        self.listener = listener
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

    def part(self, name: str) -> "Context":
        """For a training inside the fit, such as that of a table which `cached` builds.

        Its checkpoints are apart from those of the fit and end with the fit's first one; no listener and no curve hear of it.
        """
        part = copy.copy(self)
        part.progress, part.listener = Silent(), None
        part.checkpoints = PartCheckpoints(self.checkpoints, name)
        return part

    def backbone(self, name: str, texts: list[str]) -> Backbone:
        """A language model by name.

        `small-t5` is built here, its tokenizer trained on the log's text and on `texts`, its weights drawn from the run's
        seed; other names are those of the hub or of a folder.

        Raises:
            RunError: there is no such backbone here, or the Context was built without `backbones`.
        """
        if self._backbones is None:
            raise RunError(f"a language model ({name}) was asked for, but this Context was built without `backbones`")
        return self._backbones(name, self.catalog, self.seed, texts)


class Silent:
    """Progress that reports nowhere."""

    def begin(self, epochs: int) -> None:
        """Nothing."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Nothing."""

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Nothing."""


class InMemory:
    """Checkpoints that live as long as the process."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state by a copy: the tensors of a running fit change in place."""
        self._state = copy.deepcopy(state)

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None."""
        return self._state


class PartCheckpoints:
    """Checkpoints of a training inside a fit, stored beside the fit's own.

    Args:
        checkpoints: those of the fit.
        name: of the part.
    """

    def __init__(self, checkpoints: Checkpoints, name: str):
        self._checkpoints, self._name = checkpoints, name

    def save(self, state: dict[str, Any]) -> None:
        """Replace the part's state; the rest of the checkpoint stays."""
        whole = self._checkpoints.load() or {}
        self._checkpoints.save(whole | {"parts": whole.get("parts", {}) | {self._name: state}})

    def load(self) -> dict[str, Any] | None:
        """The part's state, or None."""
        return (self._checkpoints.load() or {}).get("parts", {}).get(self._name)
