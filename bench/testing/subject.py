"""A model under examination: built, fitted and asked for scores on the planted log."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.data.catalog import Catalog
from bench.data.training import TrainData
from bench.errors import BenchError, UsageError, unknown
from bench.messages import first_line, first_violation
from bench.ranker import backbone
from bench.ranker.context import Backbone, Checkpoints, Progress
from bench.ranker.contract import Config, Context, Ranker, Stage
from bench.testing.examined import Examined, clone, evaluating
from bench.testing.planted import Planted, planted
from bench.testing.report import Failed

# A few steps are enough to move every weight; nothing here is about quality.
STEPS, BATCH = 6, 32


class Subject(Examined):
    """One class with one config on the planted log.

    `quick` settings of the class are applied first, then ones that cut the training to a few steps (only where the
    config has them), then the caller's.

    Args:
        name: what reports call it.
        cls: the model's class, registered.
        overrides: the caller's settings.
        tasks: those that it is trained for and examined on; by default all that it serves.
    """

    def __init__(
        self,
        name: str,
        cls: type[Ranker],
        overrides: dict[str, Any] | None = None,
        tasks: tuple[str, ...] | None = None,
    ):
        self.name = name
        self.cls = cls
        self.tasks: tuple[str, ...] = tasks or cls.entry.tasks
        self.planted: Planted = planted()
        self.catalog = self.planted.catalog
        self.failed: set[str] = set()  # checks that failed so far
        self.overrides = overrides or {}
        self.config = self.settings()
        self._cached: dict[tuple[str, str], dict[str, Tensor]] = {}
        self._backbones: dict[tuple[str, tuple[str, ...]], Backbone] = {}
        self._fitted: Ranker | Failed | None = None

    def only(self, task: str) -> "Subject":
        """The same class and settings where a single task is at hand."""
        return Subject(self.name, self.cls, self.overrides, (task,))

    def settings(self, **more: Any) -> Config:
        """The class's config: `quick`, then the short training of the checks, then `more`, then the caller's overrides."""
        from pydantic import ValidationError

        known = self.cls.Config.model_fields
        for key in self.overrides:
            if key not in known:
                raise unknown(f"setting of {self.name}", key, known)
        short: dict[str, Any] = {
            "steps_per_epoch": STEPS,
            "batch_size": BATCH,
            "first_check": 1,
            "patience": 1,
            "warmup": 0,
        }
        # Stages before the main one are named like it: cf_epochs, pretrain_epochs, ...
        short |= {key: 1 for key in known if key == "epochs" or key.endswith("_epochs")} | more
        if "backbone" in known:
            short["backbone"] = "small-t5"
        values = self.cls.quick | {key: value for key, value in short.items() if key in known} | self.overrides
        try:
            return self.cls.Config(**values)
        except ValidationError as error:
            raise UsageError(first_violation(error, self.name)) from None

    def build(
        self,
        config: Config | None = None,
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        progress: Progress | None = None,
        cached: bool = True,
    ) -> Ranker:
        """A fresh object.

        Args:
            config: its settings, by default those of the subject.
            seed: of the global generator that initial weights come from; the run's seed is always the same.
            checkpoints: where its fit stores what it resumes from.
            progress: hears of the steps of its fit.
            cached: whether `context.cached` keeps what an earlier object built.
        """
        torch.manual_seed(seed)
        context = Context(
            self.catalog,
            seed=0,
            tasks=self.tasks,
            cache=self._cache if cached else None,
            backbones=self._backbone,
            checkpoints=checkpoints,
            progress=progress,
        )
        return self.cls(config or self.config, context)

    def _backbone(self, name: str, catalog: Catalog, seed: int, texts: list[str]) -> Backbone:
        """A language model of its own for each object, loaded once."""
        key = (name, tuple(texts))
        if key not in self._backbones:
            self._backbones[key] = backbone.load(name, catalog, seed, texts)
        loaded = self._backbones[key]
        return Backbone(loaded.name, copy.deepcopy(loaded.model), loaded.tokenizer)

    def _cache(self, name: str, key: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if (name, key) not in self._cached:
            self._cached[name, key] = build()
        return {entry: value.clone() for entry, value in self._cached[name, key].items()}

    @property
    def has_stages(self) -> bool:
        """Whether it is a torch module with stages of training, which the Trainer can run."""
        return issubclass(self.cls, torch.nn.Module) and callable(getattr(self.cls, "stages", None))

    @cached_property
    def train(self) -> TrainData:
        """The training events of the tasks."""
        return self.planted.train(self.tasks)

    @property
    def fitted(self) -> Ranker:
        """The model after a few training steps.

        Raises:
            Failed: it cannot be built or fitted; the same each time. BenchError: it needs something that is not here.
        """
        if self._fitted is None:
            self._fitted = self._fit()
        if isinstance(self._fitted, Failed):
            raise self._fitted
        return self._fitted

    def _fit(self) -> Ranker | Failed:
        try:
            model = self.build()
        except BenchError:
            raise
        except Exception as error:
            return Failed(f"building it raised {error_line(error)}")
        try:
            facts = model.fit(self.train, RisingValidation(self.tasks))
        except Exception as error:
            return Failed(f"fit raised {error_line(error)}")
        if not isinstance(facts, dict):
            return Failed(f"fit returned {type(facts).__name__}; a dict of facts for the record is expected")
        return evaluating(model)

    def prepared(self, config: Config | None = None) -> tuple[Any, list[Stage]]:
        """A fresh torch model, ready for its first loss, and the stages of its fit."""
        model: Any = self.build(config)
        model.precompute(self.train)
        return model, model.stages(self.train)

    @cached_property
    def batch(self) -> Batch:
        """Rows of the model's tasks, histories long, short and empty; nothing in it tells the clicked item."""
        return self.planted.scoring(self.tasks, self.fitted.window)

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        """() the loss of a copy of the batch in a stage of the fitted model, without dropout and from one generator state."""
        _ = evaluating(self.fitted)
        torch.manual_seed(0)
        with torch.no_grad():
            result = stage.loss(clone(batch))
        return (result[0] if isinstance(result, tuple) else result).detach()


class RisingValidation:
    """A Validation without rows: its value grows with each check, so that a fit ends with its last weights.

    Args:
        tasks: those with metrics.
        start: value before the first check.
    """

    def __init__(self, tasks: tuple[str, ...], start: float = 0.5):
        self._tasks, self._value = tasks, start

    def evaluate(self, score: Callable[[Batch], Tensor]) -> dict[str, float]:
        """A little more than before, for every metric."""
        self._value += 0.01
        return {f"{task}/N@10": self._value for task in (*self._tasks, "mean")}


def error_line(error: BaseException) -> str:
    """An exception's class and the first line of its text."""
    text = first_line(error)
    return type(error).__name__ if text == type(error).__name__ else f"{type(error).__name__}: {text}"


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
