"""Gradient conflict (GenSR paper, sections 1 and 6.3.1): cosine of the tasks' gradients on the parameters they share.

At each check of a fit, fixed batches of training events are split by task and the loss of each part is
differentiated, without dropout. Noise alone makes the gradients of two small batches nearly orthogonal, so the cosine
between the two halves of each task's own rows stands beside: how alike two gradients of one task are.
"""

import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.analysis.fitted import check_both_tasks
from bench.analysis.over_seeds import interval
from bench.data.batch import Batch
from bench.data.log import TASKS
from bench.errors import UsageError
from bench.experiments.job import fitting_of
from bench.experiments.plan import plan
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest
from bench.ranker import registry

if TYPE_CHECKING:
    from bench.data.training import TrainData
    from bench.ranker.ranker import Ranker
    from bench.ranker.stage import Check

PROBE_SEED = 1_000_003
"""Seed of the batches that are looked at; no fit trains on this order."""


def cosines(
    loss: Callable[[Batch], Tensor], parameters: Sequence[tuple[str, Tensor]], batch: Batch
) -> dict[str, float]:
    """Cosines of gradients on a batch with rows of both tasks.

    Args:
        loss: scalar loss of a batch.
        parameters: names and tensors that are looked at.
        batch: of training events.

    Returns:
        `between` the tasks on the parameters that both reach; `within rec` and `within search` between the two halves of a
        task's rows on the same parameters; `shared`, the share of the looked-at entries that both reach. A value is NaN
        where a part has too few rows or no gradient.
    """
    rows = [torch.nonzero(batch.task == code).flatten() for code in range(len(TASKS))]
    tensors = [value for _, value in parameters]

    def gradient(of: Tensor) -> list[Tensor]:
        if not len(of):
            return [torch.zeros_like(value) for value in tensors]
        out = torch.autograd.grad(loss(batch.take(of)), tensors, allow_unused=True)
        return [torch.zeros_like(value) if grad is None else grad for grad, value in zip(out, tensors, strict=True)]

    whole = [gradient(of) for of in rows]
    both = [bool(left.any()) and bool(right.any()) for left, right in zip(*whole, strict=True)]

    def flat(gradients: list[Tensor]) -> Tensor:
        chosen = [grad.flatten().double() for grad, use in zip(gradients, both, strict=True) if use]
        return torch.cat(chosen) if chosen else torch.zeros(1, dtype=torch.double)

    out = {"between": _cosine(flat(whole[0]), flat(whole[1]))}
    for task, of in zip(TASKS, rows, strict=True):
        halves = [flat(gradient(part)) for part in (of[::2], of[1::2])]
        out[f"within {task}"] = _cosine(*halves)
    size = sum(value.numel() for value in tensors)
    out["shared"] = sum(value.numel() for value, use in zip(tensors, both, strict=True) if use) / max(size, 1)
    return out


def _cosine(left: Tensor, right: Tensor) -> float:
    length = left.norm() * right.norm()
    return float(left @ right / length) if length > 0 else float("nan")


class Probe:
    """Looks at a model's gradients at every check of its fit, on the same batches each time.

    Args:
        batches: how many batches.
        pattern: names of parameters, as in a shell: `*attention*`.
    """

    def __init__(self, batches: int, pattern: str = "*"):
        self.rows: list[dict[str, Any]] = []
        self._count, self._pattern = batches, pattern
        self._model: Any = None
        self._batches: list[Batch] = []

    def created(self, model: "Ranker", train: "TrainData") -> None:
        """Keep the untrained model, and look at it before its first step.

        Raises:
            UsageError: the model is not trained on event rows by one loss, or no parameter has such a name.
        """
        stages = model.stages(train) if hasattr(model, "stages") else []
        stream = stages[-1].stream(train.with_seed(PROBE_SEED)) if stages else None
        first = next(iter(stream.batches(0, 1)), None) if stream else None
        if not isinstance(first, Batch):
            raise UsageError(
                f"{model.entry.name} is not trained on rows of both tasks; its gradients cannot be compared"
            )
        assert stream is not None
        self._model, self._loss = model, stages[-1].loss
        self._batches = [batch for batch in stream.batches(0, self._count) if isinstance(batch, Batch)]
        if not any(fnmatchcase(name, self._pattern) for name, _ in model.named_parameters()):  # type: ignore[attr-defined]
            raise UsageError(f"{model.entry.name} has no parameter called {self._pattern}")

    def listen(self, check: "Check") -> None:
        """Look at the model after a check; ends no fit."""
        self.look(check.stage, check.step)

    def look(self, stage: str, step: int) -> None:
        """Add a row per batch. The model's mode and random numbers are as before."""
        model = self._model
        device = next(model.parameters()).device
        training = model.training
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and fnmatchcase(n, self._pattern)]

        def loss(batch: Batch) -> Tensor:
            value = self._loss(batch)
            return value[0] if isinstance(value, tuple) else value

        model.eval()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(PROBE_SEED)
            for number, batch in enumerate(self._batches):
                self.rows.append(
                    {"stage": stage, "step": step, "batch": number} | cosines(loss, named, batch.to(device))
                )
        model.train(training)


def measure(request: RunRequest, batches: int, pattern: str = "*", reporter: Reporter | None = None) -> pd.DataFrame:
    """Fit each model and seed of a request anew and look at its gradients at every check.

    Returns:
        a row per data set, model, seed, check and batch, see `cosines`.

    Raises:
        UsageError: the data have one task only, or a model has nothing to compare.
    """
    reporter = reporter or Reporter()
    frames = []
    for dataset in plan(request):
        for job in dataset.jobs:
            check_both_tasks(f"{job.model} on {job.data.name}", job.tasks)
            title = registry.entry(job.model).title
            with tempfile.TemporaryDirectory() as folder, reporter.fit(job.label, job.config.get("patience")) as view:
                probe = Probe(batches, pattern)
                fitting_of(job, Path(folder)).fit(view, probe.listen, job.validation_rows, probe.created)
                looked = pd.DataFrame(probe.rows)
                frames.append(looked.assign(dataset=job.data.name, model=title, seed=job.seed))
    return pd.concat(frames, ignore_index=True)


def per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Per fit: mean cosines, their gap (between the tasks minus within a task), and the share of negative ones between."""
    lines = []
    for (dataset, model, seed), group in frame.groupby(["dataset", "model", "seed"], sort=False):
        line = {name: group[name].mean() for name in ("between", "within rec", "within search", "shared")}
        line["gap"] = line["between"] - (line["within rec"] + line["within search"]) / 2
        line["negative"] = float(np.mean(group["between"].dropna() < 0))
        lines.append({"dataset": dataset, "model": model, "seed": seed} | line)
    return pd.DataFrame(lines)


def table(seeds: pd.DataFrame) -> pd.DataFrame:
    """Per model the means over seeds of `per_seed`, with the intervals of the cosine between the tasks and of the gap."""
    lines = []
    for (dataset, model), group in seeds.groupby(["dataset", "model"], sort=False):
        line: dict[str, Any] = {"dataset": dataset, "model": model, "seeds": len(group)}
        for name in ("between", "gap"):
            low, high = interval(group[name].to_numpy())
            line |= {name: group[name].mean(), f"{name} low": low, f"{name} high": high}
        lines.append(
            line | {name: group[name].mean() for name in ("negative", "within rec", "within search", "shared")}
        )
    return pd.DataFrame(lines)
