"""A fitted model under examination, and how its scores are compared."""

import random
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.data.catalog import Catalog
from bench.ranker.contract import Ranker
from bench.testing.report import Failed

# float32 sums in another order differ by this much of the largest score.
RELATIVE, ABSOLUTE = 1e-5, 1e-6


class Examined(ABC):
    """What the checks of scores ask of a model: here a fresh fit on the planted log, elsewhere a finished run.

    Attributes:
        name: what reports call it.
        cls: the model's class.
        tasks: those that it is examined on.
        catalog: of the data that it was fitted on.
    """

    name: str
    cls: type[Ranker]
    tasks: tuple[str, ...]
    catalog: Catalog

    @property
    @abstractmethod
    def fitted(self) -> Ranker:
        """The fitted model."""

    @property
    @abstractmethod
    def batch(self) -> Batch:
        """Rows of the tasks with candidates; nothing in it tells the clicked item."""

    def reads(self, flag: str) -> tuple[str, ...]:
        """The tasks at hand in which the class says that it reads an input.

        Args:
            flag: "uses_query", "uses_history" or "uses_user"; its value is a bool for all tasks or a tuple of tasks.
        """
        declared = getattr(self.cls, flag)
        if isinstance(declared, bool):
            return self.tasks if declared else ()
        return tuple(task for task in self.tasks if task in declared)

    @cached_property
    def reference(self) -> Tensor:
        """(B, K) scores of `batch` as it is."""
        return self.scores(self.batch)

    def scores(self, batch: Batch, model: Ranker | None = None, seed: int = 0) -> Tensor:
        """(B, K) scores of a copy of the batch.

        The global generators start from the same state each time, so that randomness at scoring time is found by the
        check made for it and does not fail the others.
        """
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        with torch.no_grad():
            scores = evaluating(model or self.fitted).score(clone(batch))
        if not isinstance(scores, Tensor):
            raise Failed(f"score returned {type(scores).__name__}; a float32 tensor is expected")
        return scores.detach()


def evaluating(model: Ranker) -> Ranker:
    """The model as the harness scores with it."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    return model


def clone(batch: Batch) -> Batch:
    """The batch with tensors of its own."""
    return replace(batch, **{f.name: v.clone() for f in fields(batch) if (v := getattr(batch, f.name)) is not None})


def row_differences(first: Tensor, second: Tensor) -> Tensor:
    """(B,) largest difference of each row beyond what float32 explains; 0 where a row stayed as it was.

    Two NaN count as equal, for the check `finite` speaks of them.
    """
    if first.shape != second.shape:
        raise Failed(f"scores have shape {tuple(second.shape)} where {tuple(first.shape)} came before")
    if not first.numel() or first.dim() < 2:
        first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
    first, second = first.double(), second.double()
    largest = torch.nan_to_num(first, nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    difference = (first - second).abs()
    difference = torch.where(first.isnan() & second.isnan() | (first == second), 0.0, difference)
    difference = torch.where(difference.isnan(), torch.inf, difference)
    return torch.where(difference > ABSOLUTE + RELATIVE * largest, difference, 0.0).flatten(1).amax(1)
