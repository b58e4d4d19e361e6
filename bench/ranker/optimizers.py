"""Optimisers of a stage: one for each kind that its parameter groups name, learning rates by step, clipping."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import RunError
from bench.ranker.config import TrainConfig


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per row: the mean of the row's squared gradient entries (Naumov et al., 2019, DLRM).

    A sparse gradient touches the rows of the batch alone: a step of 1,024 rows takes 1.05 times as long on a table of
    6,900,000 x 64 as on one of 69,000 x 64 (benchmarks/sparse_tables.py). The state of a table (n, d) has n numbers.

    Args:
        params: tables (n, ...) or groups of them.
        lr: learning rate.
        eps: added to the root of the accumulator.
    """

    def __init__(self, params: Any, lr: float = 1e-2, eps: float = 1e-10):
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step on every parameter that has a gradient, dense or sparse."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["sum"] = torch.zeros(len(table), device=table.device)
                total = state["sum"]  # (n,)
                if not table.grad.is_sparse:
                    total += table.grad.square().flatten(1).mean(1)
                    root = total.sqrt().add_(group["eps"]).view(-1, *[1] * (table.dim() - 1))
                    table.addcdiv_(table.grad, root, value=-group["lr"])
                    continue
                gradient = table.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()  # (r,), (r, ...)
                touched = total[rows] + values.square().flatten(1).mean(1)  # (r,)
                total[rows] = touched
                root = touched.sqrt().add_(group["eps"]).view(-1, *[1] * (table.dim() - 1))
                table.index_add_(0, rows, values / root, alpha=-group["lr"])


class Optimizers:
    """The optimisers of a stage as one.

    Args:
        groups: dicts with `params` and optionally `lr`, `weight_decay` and `optimizer`; the config serves what is absent.
        config: settings of the stage.
        steps: optimiser steps of the stage, the length of the schedule.
        mode: whether the metric of a check is better when it is larger ("max") or smaller ("min").

    Raises:
        RunError: no group holds a parameter, or one names an unknown optimiser or a setting that its optimiser lacks.
    """

    def __init__(self, groups: list[dict[str, Any]], config: TrainConfig, steps: int, mode: str = "max"):
        self._config, self._steps = config, steps
        # A short training that only ever warms up would not be a shorter version of the long one.
        self._warmup = min(config.warmup, steps // 10)
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for group in groups:
            if group["params"]:
                kind = group.get("optimizer", config.optimizer)
                settings = {name: value for name, value in group.items() if name != "optimizer"}
                by_kind.setdefault(kind, []).append(settings)
        if not by_kind:
            raise RunError("there is no parameter to train; look at the stage's `parameters`")
        self._all = [_optimizer(kind, members, config) for kind, members in by_kind.items()]
        for group in self._groups():
            group["base_lr"] = group["lr"]
        self._plateaus = [
            torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode=mode, patience=config.plateau, min_lr=config.min_lr
            )
            for optimizer in (self._all if config.plateau else [])
        ]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every parameter of every group."""
        return [parameter for group in self._groups() for parameter in group["params"]]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def step(self, number: int) -> None:
        """Set the rates of step `number` (from 0) and take it."""
        falling = self._config.schedule != "constant"
        # With the constant schedule the rate after the warm-up is the plateau's, which must not be raised again.
        if falling or number < self._warmup:
            for group in self._groups():
                group["lr"] = rate(group["base_lr"], number, self._steps, self._warmup, self._config)
        for optimizer in self._all:
            optimizer.step()

    def checked(self, metric: float) -> None:
        """A check is done; where the config has a plateau the rates may fall."""
        for plateau in self._plateaus:
            plateau.step(metric)

    def state(self) -> dict[str, Any]:
        """Moments, rates and plateaus, for a checkpoint."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._all],
            "plateaus": [plateau.state_dict() for plateau in self._plateaus],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        for optimizer, stored in zip(self._all, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        for plateau, stored in zip(self._plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(stored)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._all for group in optimizer.param_groups]


def rate(lr: float, step: int, steps: int, warmup: int, config: TrainConfig) -> float:
    """Learning rate of a step (from 0) in a stage of `steps`: linear warm-up to `lr`, then the schedule.

    "linear" and "cosine" fall to 0 after the last step; "inverse_sqrt" is lr * sqrt(warmup / (step + 1)) (Vaswani et al.,
    2017, eq. 3), with a warm-up of 1 where there is none. None falls below `min_lr`.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    falling = lr
    if config.schedule == "linear":
        falling = lr * left
    elif config.schedule == "cosine":
        falling = lr * (1 + math.cos(math.pi * (1 - left))) / 2
    elif config.schedule == "inverse_sqrt":
        falling = lr * math.sqrt(max(1, warmup) / (step + 1))
    return max(falling, min(lr, config.min_lr))


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], bound: float) -> None:
    """Scale all gradients so that their common 2-norm is at most `bound`; sparse ones by their touched rows."""
    members = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(parameter.grad.is_sparse for parameter in members):
        nn.utils.clip_grad_norm_(members, bound)
        return
    # A row that occurs twice in a batch has two entries until the gradient is coalesced.
    values: list[Tensor] = []
    for parameter in members:
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = torch.stack([value.norm() for value in values]).norm()
    factor = (bound / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)


def _optimizer(kind: str, groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """The torch optimiser of a kind; settings that a group names go over the config's."""
    betas, decay = (config.beta1, config.beta2), config.weight_decay
    if kind in ("adam", "adamw"):
        # One pass over the memory a parameter; the default takes a dozen operations for each.
        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        cls = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return cls(groups, lr=config.lr, betas=betas, weight_decay=decay, fused=devices <= {"cpu", "cuda"})
    if kind == "adagrad":
        return torch.optim.Adagrad(groups, lr=config.lr, weight_decay=decay)
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=decay)
    if kind == "row_adagrad":
        if any(group.get("weight_decay") for group in groups):
            raise RunError("row_adagrad has no weight decay; leave it out of the parameter group")
        return RowAdagrad(groups, lr=config.lr)
    raise RunError(f"a parameter group names the optimizer '{kind}'; known: adam, adamw, adagrad, sgd, row_adagrad")
