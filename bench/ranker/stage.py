"""A stage of a fit: what is trained, by which loss, on which stream, and what selects its best state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from bench.data.streams import Stream
from bench.data.training import TrainData
from bench.ranker.config import TrainConfig

Loss = Callable[[Any], Tensor | tuple[Tensor, dict[str, Tensor]]]
Select = Literal["mean", "rec", "search", "loss", "last"]


@dataclass
class Stage:
    """One stage of a fit. A model with alternating rounds lists each round as a stage ("a-1", "b-1", "a-2", ...).

    All parameters exist before the first stage. A parameter that no group of the stage holds gets no gradient.

    Attributes:
        name: distinguishes the stage's random numbers, facts and lines of the curve; unique within the fit.
        config: settings of the training; the batch size counts where `stream` passes it on.
        loss: scalar loss of a batch of the stream, optionally with named parts for the curve.
        stream: gives the training batches of the stage. Every stage but "fit" is handed a TrainData with a seed of its own.
        parameters: groups for the optimiser: dicts with `params` and, where they differ from the config, `lr`,
            `weight_decay` or `optimizer`.
        select: what the best state has the most of: N@10 on the validation rows as the mean over the tasks ("mean") or of
            one task, or the least of: "loss" in training. "last" keeps the last state. Only the first three score the
            validation rows, and only "last" never stops early.
        start: called before the first step, and again where the stage resumes. What it writes into parameters and
            persistent buffers is then replaced by the checkpoint's; what it leaves elsewhere must not depend on
            weights that the stage itself changes.
        finish: called once the best state is restored. What it changes must stand in parameters or persistent buffers.
    """

    name: str
    config: TrainConfig
    loss: Loss
    stream: Callable[[TrainData], Stream]
    parameters: Callable[[], list[dict[str, Any]]]
    select: Select = "mean"
    start: Callable[[], None] | None = None
    finish: Callable[[], None] | None = None


@dataclass(frozen=True)
class Check:
    """A check of a stage, reported after the checkpoint is saved.

    Attributes:
        stage: name of the stage.
        epoch: epoch of the stage, from 1.
        step: optimiser steps of the stage so far.
        values: training loss and parts, validation metrics (`rec/N@10`, `mean/N@10`).
    """

    stage: str
    epoch: int
    step: int
    values: dict[str, float]
