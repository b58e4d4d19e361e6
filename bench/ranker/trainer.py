"""The training loop of every stage: validation, early stopping, checkpoints that resume to the same bytes."""

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from bench.data import hashing
from bench.data.batch import Batch
from bench.data.prefetch import prefetched
from bench.data.streams import Stream
from bench.data.training import TrainData
from bench.errors import RunError
from bench.evaluation.metrics import PRIMARY
from bench.messages import comma_list
from bench.ranker.config import TrainConfig
from bench.ranker.context import Context, Validation
from bench.ranker.loss_sums import LossSums
from bench.ranker.optimizers import Optimizers, clip
from bench.ranker.stage import Check, Stage
from bench.ranker.trained_weights import TrainedWeights


class Trainer:
    """Fits a module in stages.

    The random numbers of an epoch derive from (seed, stage, epoch), those after a check within an epoch also from the step.
    So a checkpoint needs no generator states: an interrupted fit repeats at most one epoch and ends with the same weights.

    Args:
        module: what is trained; all of its parameters and persistent buffers exist.
        context: seed, device, progress, checkpoints and listener.
        score: scores of a batch, (B, K); only stages that select by the validation rows need it.
    """

    def __init__(self, module: nn.Module, context: Context, score: Callable[[Batch], Tensor] | None = None):
        self.module = module
        self.context = context
        self._score = score
        self._unfrozen: set[int] = set()

    def fit(self, stages: list[Stage], train: TrainData, valid: Validation | None) -> dict[str, Any]:
        """Run the stages one after the other, from the checkpoint where there is one.

        A stage ends after `epochs` or `max_steps`, after `patience` checks without a better one, or by the listener, which
        ends the whole fit. Then the stage's best state is restored.

        Returns:
            facts for the record: epochs, steps and seconds of all stages; best epoch and metric of the last stage; whether
            patience ended every stage that can stop early; trainable parameters; `stages` with the same facts of each
            where there are several; `ended_by` where the listener ended the fit.

        Raises:
            RunError: stage names repeat, a stage has nothing to train or to select by, the checkpoint is of another fit, or
                the loss or a validation metric is not finite.
        """
        names = [stage.name for stage in stages]
        if not names or max(Counter(names).values()) > 1:
            listed = comma_list(names) or "none"
            raise RunError(f"the stages of a fit need names of their own, at least one; given: {listed}")
        module, context = self.module, self.context
        module.to(context.device)
        self._unfrozen = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        first = {id(parameter) for group in stages[0].parameters() for parameter in group["params"]}
        self._weights = TrainedWeights(module, first)
        stored = self._stored(names)
        finished: list[dict[str, Any]] = stored["finished"] if stored else []
        for stage in stages[len(finished) :]:
            facts = self._run(stage, train, valid, names, finished, stored)
            finished, stored = [*finished, facts], None
            if "ended_by" in facts:
                break
            if len(finished) < len(stages):
                self.context.checkpoints.save(self._begun(names, finished, stages[len(finished)].name))
        self._thaw()
        module.eval()
        return self._facts(finished)

    def _run(
        self,
        stage: Stage,
        train: TrainData,
        valid: Validation | None,
        names: list[str],
        finished: list[dict[str, Any]],
        stored: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """One stage, from its beginning or from its checkpoint; returns its facts."""
        config, context = stage.config, self.context
        if stored:
            self._weights.load(stored["model"])
        groups = self._start(stage)
        if stored:
            self._weights.load(
                stored["model"]
            )  # what `start` wrote into weights and buffers is in there, and trained since
        stream = stage.stream(train if stage.name == "fit" else train.with_seed(_seed(context, stage, "stream")))
        steps, total = _length(config, stream)
        mode = "max" if stage.select in ("mean", "rec", "search") else "min"
        optimizers = Optimizers(groups, config, total, mode)
        state = _fresh(stage)
        if stored and stored["step"]:
            optimizers.load_state(stored["optimizers"])
            state = {name: stored[name] for name in state}
        context.progress.begin(total // steps)
        while state["step"] < total and not self._over(config, state):
            started = time.perf_counter()
            epoch, low = state["step"] // steps + 1, state["step"]
            high = _next_stop(config, low, epoch * steps)
            values: dict[str, Any] = self._steps(stage, stream, optimizers, epoch, low, high, steps)
            checked = _due(config, epoch, high, steps, total)
            if checked:
                values |= self._check(stage, valid, epoch, high)
                self._judge(stage, optimizers, state, values, epoch)
            state["step"] = high
            seconds = time.perf_counter() - started
            state["seconds"] += seconds
            line = {"stage": stage.name, "step": high, **values, "seconds": seconds}
            context.progress.epoch(epoch, line)
            checkpoint = self._begun(names, finished, stage.name) | {"optimizers": optimizers.state()}
            context.checkpoints.save(checkpoint | state)
            if checked and context.listener is not None:
                state["ended_by"] = context.listener(Check(stage.name, epoch, high, values))
                if state["ended_by"]:
                    context.checkpoints.save(checkpoint | state)
        if state["best_state"] is not None:
            self._weights.load(state["best_state"])
        self.module.eval()
        if stage.finish is not None:
            torch.manual_seed(_seed(context, stage, "finish"))
            stage.finish()
        return {
            "stage": stage.name,
            "epochs": -(-state["step"] // steps),
            "steps": state["step"],
            "best_epoch": state["best_epoch"],
            "best": state["best"],
            "converged": None if stage.select == "last" else state["waited"] >= config.patience,
            "seconds": state["seconds"],
        } | ({"ended_by": state["ended_by"]} if state["ended_by"] else {})

    def _start(self, stage: Stage) -> list[dict[str, Any]]:
        """Run the stage's hook, let exactly its parameters have gradients, and return their groups."""
        self._thaw()
        if stage.start is not None:
            torch.manual_seed(_seed(self.context, stage, "start"))
            stage.start()
        groups = stage.parameters()
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for parameter in self.module.parameters():
            if parameter.requires_grad != (id(parameter) in trained):
                parameter.requires_grad_(id(parameter) in trained)
        return groups

    def _thaw(self) -> None:
        """Give every parameter the flag back that it had before the fit."""
        for parameter in self.module.parameters():
            if parameter.requires_grad != (id(parameter) in self._unfrozen):
                parameter.requires_grad_(id(parameter) in self._unfrozen)
                parameter.grad = None

    def _steps(
        self, stage: Stage, stream: Stream, optimizers: Optimizers, epoch: int, low: int, high: int, steps: int
    ) -> dict[str, float]:
        """Optimiser steps `low` to `high` (exclusive) of the stage; returns the mean loss and its parts."""
        config, device = stage.config, self.context.device
        self.module.train()
        offset = low - (epoch - 1) * steps
        seed = ("train", self.context.seed, stage.name, epoch, *([offset] if offset else []))
        torch.manual_seed(hashing.seed(*seed))  # type: ignore[arg-type]  # a prefix and its parts
        own = {id(parameter) for parameter in optimizers.parameters}
        trained = [parameter for parameter in self.module.parameters() if id(parameter) in own]
        each, before = config.accumulate, (epoch - 1) * steps
        sums = LossSums(device, f"epoch {epoch} of stage '{stage.name}'", low - before + 1)
        with closing(prefetched(stream.batches(low * each, (high - low) * each))) as batches:
            for step in range(low, high):
                optimizers.zero_grad()
                for _ in range(each):
                    batch = next(batches).to(device)
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.amp == "bf16"):
                        result = stage.loss(batch)
                    loss, parts = result if isinstance(result, tuple) else (result, {})
                    sums.add(loss, parts)
                    (loss / each if each > 1 else loss).backward()
                value = sums.read(step - before + 1, loss, last=step + 1 == high)
                if config.clip:
                    clip(trained, config.clip)
                optimizers.step(step)
                self.context.progress.step(epoch, step - before + 1, steps, value)
        return sums.means()

    def _check(self, stage: Stage, valid: Validation | None, epoch: int, step: int) -> dict[str, float]:
        """Metrics of the validation rows, scored with the precision of the training; nothing where none selects."""
        self.module.eval()
        if stage.select in ("loss", "last"):
            return {}
        if valid is None or self._score is None:
            raise RunError(f"stage '{stage.name}' selects by {stage.select}, but there are no validation rows to score")
        device, score = self.context.device, self._score

        def logits(batch: Batch) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=stage.config.amp == "bf16"):
                return score(batch).float()

        values = valid.evaluate(logits)
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise RunError(
                f"validation in epoch {epoch}, step {step} of stage '{stage.name}': {comma_list(broken)}, so no state can "
                "be selected; look for validation rows that are missing or cannot be ranked"
            )
        return values

    def _judge(
        self, stage: Stage, optimizers: Optimizers, state: dict[str, Any], values: dict[str, float], epoch: int
    ) -> None:
        """Compare a check with the best one, keep the state where it is better, tell the plateau."""
        metric = "train/loss" if stage.select in ("loss", "last") else f"{stage.select}/{PRIMARY}"
        if metric not in values:
            raise RunError(f"stage '{stage.name}' selects by {metric}, which the validation of this run does not have")
        value = values[metric]
        optimizers.checked(value)
        if stage.select == "last":
            return
        sign = -1 if stage.select == "loss" else 1
        state["waited"] += 1
        if state["best"] is None or sign * value > sign * state["best"]:
            state |= {"best": value, "best_epoch": epoch, "best_state": self._weights.copy(), "waited": 0}

    def _over(self, config: TrainConfig, state: dict[str, Any]) -> bool:
        return bool(state["ended_by"]) or state["waited"] >= config.patience

    # Checkpoints

    def _begun(self, names: list[str], finished: list[dict[str, Any]], stage: str) -> dict[str, Any]:
        """The checkpoint of a stage before its first step."""
        return {"stages": names, "finished": finished, "stage": stage, "step": 0, "model": self._weights.state()}

    def _stored(self, names: list[str]) -> dict[str, Any] | None:
        stored = self.context.checkpoints.load()
        if stored is None or "stages" not in stored:  # nothing, or only parts of this fit
            return None
        if stored["stages"] != names:
            raise RunError(
                f"the checkpoint has the stages {comma_list(stored['stages'])}, this fit {comma_list(names)}; "
                "start over with --force"
            )
        return stored

    def _facts(self, finished: list[dict[str, Any]]) -> dict[str, Any]:
        last = finished[-1]
        judged = [facts["converged"] for facts in finished if facts["converged"] is not None]
        return (
            {name: sum(facts[name] for facts in finished) for name in ("epochs", "steps")}
            | {"best_epoch": last["best_epoch"], "best": last["best"]}
            | {"converged": all(judged) if judged else None}
            | {"seconds": sum(facts["seconds"] for facts in finished)}
            | {"parameters": sum(p.numel() for p in self.module.parameters() if id(p) in self._unfrozen)}
            | ({"stages": finished} if len(finished) > 1 else {})
            | ({"ended_by": last["ended_by"]} if "ended_by" in last else {})
        )


def _fresh(stage: Stage) -> dict[str, Any]:
    """State of a stage before its first step; `waited` counts checks since the best one."""
    best = {"best": None, "best_epoch": None, "best_state": None}
    return {"step": 0, "waited": 0, "seconds": 0.0, "ended_by": None} | best


def _length(config: TrainConfig, stream: Stream) -> tuple[int, int]:
    """Optimiser steps of an epoch and of the whole stage."""
    steps = config.steps_per_epoch or -(-stream.steps_per_pass // config.accumulate)
    epochs = config.epochs
    if config.max_steps:
        steps = min(steps, config.max_steps)
        epochs = min(epochs, config.max_steps // steps)
    return steps, epochs * steps


def _next_stop(config: TrainConfig, step: int, end: int) -> int:
    """The next step with a line of the curve and a checkpoint: a multiple of `check_every`, or the epoch's end."""
    every = config.check_every
    return min(end, (step // every + 1) * every) if every else end


def _due(config: TrainConfig, epoch: int, step: int, steps: int, total: int) -> bool:
    """Whether a check is made after `step` steps."""
    return step == total or (epoch >= config.first_check and step % (config.check_every or steps) == 0)


def _seed(context: Context, stage: Stage, purpose: str) -> int:
    return hashing.seed(f"stage-{purpose}", context.seed, stage.name)
