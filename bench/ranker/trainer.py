"""The one training loop: optimiser, validation, early stopping, checkpoints that resume to the same bytes."""

import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.data import hashing
from bench.data.training import TrainData
from bench.errors import RunError
from bench.ranker.config import TrainConfig
from bench.ranker.context import Context, Validation


class Trainable(Protocol):
    """What the Trainer needs of a model: a torch module with a loss, a score and a training stream."""

    context: Context
    training: bool

    def precompute(self, train: TrainData) -> None: ...
    def loss(self, batch: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]: ...
    def score(self, batch: Any) -> Tensor: ...
    def batches(self, train: TrainData, start: int, count: int) -> Iterator[Any]: ...
    def steps_per_pass(self, train: TrainData) -> int: ...
    def parameter_groups(self) -> list[dict[str, Any]]: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
    def to(self, device: Any) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...


class Trainer:
    """Fits a TorchRanker.

    All random numbers of an epoch derive from (seed, epoch), so a checkpoint at the end of an epoch needs no generator
    states: an interrupted fit repeats its unfinished epoch and ends with the same weights.
    """

    def __init__(self, ranker: Trainable, config: TrainConfig, stage: str = "fit"):
        self.ranker = ranker
        self.config = config
        self.context = ranker.context
        # Models with several stages run one Trainer each; the name keeps their random streams and states apart.
        self.stage = stage

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """Train until `epochs` or `max_steps` or until `patience` epochs brought no better `mean/N@10`.

        The weights of the best epoch are restored.

        Returns:
            facts for the record: epochs run, best epoch and its metric, whether patience ended the run, seconds.
        """
        ranker, config, context = self.ranker, self.config, self.context
        ranker.precompute(train)
        ranker.to(context.device)
        optimizer = self._optimizer()
        steps = config.steps_per_epoch or ranker.steps_per_pass(train)
        epochs = config.epochs
        if config.max_steps:
            steps = min(steps, config.max_steps)
            epochs = min(epochs, config.max_steps // steps)
        # A short training that only ever warms up would not be a shorter version of the long one.
        warmup = min(config.warmup, epochs * steps // 10)
        context.progress.begin(epochs)
        plateau = None
        if config.plateau:
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode="max", patience=config.plateau, min_lr=config.min_lr
            )
        state: dict[str, Any] = {"epoch": 0, "best": None, "best_epoch": 0, "best_state": None, "seconds": 0.0}
        stored = context.checkpoints.load()
        if stored is not None and stored.get("stage") == self.stage:
            ranker.load_state_dict(stored["model"])
            optimizer.load_state_dict(stored["optimizer"])
            if plateau:
                plateau.load_state_dict(stored["plateau"])
            state |= {name: stored[name] for name in state}
        for epoch in range(state["epoch"] + 1, epochs + 1):
            started = time.perf_counter()
            values = self._epoch(epoch, steps, warmup, optimizer, train)
            if epoch >= config.first_check or epoch == epochs:
                ranker.eval()
                values |= valid.evaluate(ranker.score)
                if plateau:
                    plateau.step(values["mean/N@10"])
                if state["best"] is None or values["mean/N@10"] > state["best"]:
                    best = {name: value.detach().clone() for name, value in ranker.state_dict().items()}
                    state |= {"best": values["mean/N@10"], "best_epoch": epoch, "best_state": best}
            state["epoch"] = epoch
            values["seconds"] = time.perf_counter() - started
            state["seconds"] += values["seconds"]
            context.progress.epoch(epoch, values)
            weights = {"stage": self.stage, "model": ranker.state_dict(), "optimizer": optimizer.state_dict()}
            rates = {"plateau": plateau.state_dict()} if plateau else {}
            context.checkpoints.save(weights | rates | state)
            if self._out_of_patience(state):
                break
        if state["best_state"] is not None:
            ranker.load_state_dict(state["best_state"])
        ranker.eval()
        return {
            "epochs": state["epoch"],
            "steps": state["epoch"] * steps,
            "best_epoch": state["best_epoch"],
            "best": state["best"],
            "converged": self._out_of_patience(state),
            "seconds": state["seconds"],
            "parameters": sum(p.numel() for p in ranker.parameters() if p.requires_grad),
        }

    def _out_of_patience(self, state: dict[str, Any]) -> bool:
        waited = state["epoch"] - max(state["best_epoch"], self.config.first_check - 1)
        return state["best"] is not None and waited >= self.config.patience

    def _epoch(
        self, epoch: int, steps: int, warmup: int, optimizer: torch.optim.Optimizer, train: TrainData
    ) -> dict[str, float]:
        ranker, config, context = self.ranker, self.config, self.context
        ranker.train()
        torch.manual_seed(hashing.seed("train", context.seed, self.stage, epoch))
        totals: dict[str, float] = {}
        first = (epoch - 1) * steps
        for step, batch in enumerate(ranker.batches(train, first, steps)):
            _warm_up(optimizer, first + step, warmup)
            batch = batch.to(context.device)
            with torch.autocast(context.device.type, torch.bfloat16, enabled=config.amp == "bf16"):
                result = ranker.loss(batch)
            loss, parts = result if isinstance(result, tuple) else (result, {})
            value = float(loss.detach())
            if not math.isfinite(value):
                raise RunError(f"the loss became {value} in epoch {epoch}, step {step + 1}; a smaller lr may help")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(ranker.parameters(), config.clip)
            optimizer.step()
            for name, part in {"loss": loss, **parts}.items():
                totals[name] = totals.get(name, 0.0) + float(part.detach() if isinstance(part, Tensor) else part)
            context.progress.step(epoch, step + 1, steps, value)
        return {f"train/{name}": total / steps for name, total in totals.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.config.optimizer]
        optimizer = kind(self.ranker.parameter_groups(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer


def _warm_up(optimizer: torch.optim.Optimizer, step: int, warmup: int) -> None:
    # Later a falling rate must not be raised again.
    if step < warmup:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (step + 1) / warmup
