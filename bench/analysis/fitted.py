"""Finished fits opened again, and what a model sees of the candidates of its test rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data.log import TASKS
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet
from bench.experiments.evaluate import open_run
from bench.experiments.prepared_data import candidates_of, choose_candidates
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest, run
from bench.ranker import registry
from bench.ranker.ranker import Ranker
from bench.store.records import RunRecord

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting
    from bench.experiments.prepared_data import PreparedData

_ROWS = 64  # of a batch


@dataclass(frozen=True)
class Observed:
    """Pairs of a test row and one of its candidates as a model sees them.

    Attributes:
        input: (R, d) float32, see `Ranker.represent`.
        hidden: (R, h) float32.
        views: (R, v) float32.
        probability: (R,) float32, sigmoid of the score.
        user: (R,) int64.
        relevant: (R,) bool, the clicked item.
    """

    input: Tensor
    hidden: Tensor
    views: Tensor
    probability: Tensor
    user: np.ndarray
    relevant: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """A finished fit: its record, how it is opened, and the model."""

    record: RunRecord
    fitting: "Fitting"
    model: Ranker


def fitted(request: RunRequest, reporter: Reporter | None = None) -> Iterator[Fitted]:
    """Fit what is missing of a request without its trivial models, and open each run.

    Raises:
        UsageError: something in the request cannot be, or a model has no representation; nothing is fitted then.
        RunError: a model fails.
    """
    for name in registry.select(request.models, request.tasks or TASKS, trivial=False):
        cls = registry.get(name)
        if cls.represent is Ranker.represent and not hasattr(cls, "item_vectors"):
            raise UsageError(f"{name} has no representation to analyse; a model defines `represent`")
    result = run(request, reporter)
    if result.failed:
        name, reason = next(iter(result.failed.items()))
        raise RunError(f"{name}: {reason}")
    opened: dict[str, PreparedData] = {}
    for path, record in result.runs.items():
        dataset, _, name = path.partition("/")
        fitting = open_run(result.store.folder(dataset, name), record, opened, data=request.data, reporter=reporter)
        model = fitting.load()
        if isinstance(model, torch.nn.Module):
            model.eval()
        yield Fitted(record, fitting, model)


def check_both_tasks(name: str, serves: Sequence[str]) -> None:
    """Refuse what serves one task only.

    Raises:
        UsageError: it does.
    """
    if set(serves) != set(TASKS):
        raise UsageError(f"{name} serves {' and '.join(serves)} only; this analysis compares both tasks")


@torch.no_grad()
def observe(fit: Fitted, task: str, negatives: int) -> Observed:
    """What the model sees of the clicked item and the first `negatives` others of each uniform list of a task.

    Raises:
        UsageError: the model has no representation, or the data have no such task.
    """
    prepared, model = fit.fitting.prepared, fit.model
    if task not in fit.record.tasks:
        raise UsageError(f"{fit.record.id} does not serve {task}")
    candidates = candidates_of(prepared, choose_candidates(prepared, "uniform", prepared.tasks, 0))
    of_task = prepared.log.events.task[candidates.rows] == TASKS.index(task)
    lists = pairs(candidates, negatives)[of_task]
    rows = candidates.rows[of_task]
    inputs, hidden, views, scores = [], [], [], []
    with model.scoring():
        for low in range(0, len(rows), _ROWS):
            batch = prepared.batches.rows(rows[low : low + _ROWS], lists[low : low + _ROWS], model.window)
            batch = batch.to(fit.fitting.device)
            seen = model.represent(batch)
            inputs.append(seen.input.float().flatten(0, 1).cpu())
            hidden.append(seen.hidden.float().flatten(0, 1).cpu())
            views.append((seen.input if seen.views is None else seen.views).float().flatten(0, 1).cpu())
            scores.append(model.score(batch).float().flatten().cpu())
    relevant = np.zeros(lists.shape, dtype=bool)
    relevant[:, 0] = True
    return Observed(
        input=torch.cat(inputs),
        hidden=torch.cat(hidden),
        views=torch.cat(views),
        probability=torch.cat(scores).sigmoid(),
        user=np.repeat(prepared.log.events.user[rows], lists.shape[1]),
        relevant=relevant.ravel(),
    )


def pairs(candidates: CandidateSet, negatives: int) -> np.ndarray:
    """(R, 1 + negatives) item ids: the clicked item, then the first others of the list in its order.

    Raises:
        UsageError: the lists are shorter.
    """
    items = candidates.items
    if items is None or items.shape[1] <= negatives:
        raise UsageError(f"the lists have fewer than {negatives} negatives; give a smaller --negatives")
    column = np.arange(items.shape[1]) == candidates.position[:, None]  # (R, K)
    clicked = items[np.arange(len(items)), candidates.position]
    others = items[~column].reshape(len(items), -1)
    return np.concatenate([clicked[:, None], others[:, :negatives]], 1)
