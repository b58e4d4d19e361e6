"""A finished run under examination: its model on rows and candidates of its own data."""

import random
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.data import hashing
from bench.data.batch import Batch
from bench.data.sampling import row_keys
from bench.ranker.contract import Ranker
from bench.testing.examined import Examined, clone, evaluating
from bench.testing.report import Failed

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting

_CANDIDATES = 12
_PURPOSE = hashing.key("audit-rows")


class FittedRun(Examined):
    """See `Examined`; scores are computed where the model is and in the precision in which the harness ranks.

    Args:
        fitting: an opened run.
        model: its fitted model.
        rows: in a batch, at most.
    """

    def __init__(self, fitting: "Fitting", model: Ranker, rows: int = 64):
        self.name, self.cls, self.tasks = fitting.name, fitting.cls, fitting.tasks
        self.catalog = fitting.prepared.catalog
        self._fitting, self._model, self._rows = fitting, model, rows

    @property
    def fitted(self) -> Ranker:
        """The model with its trained weights."""
        return self._model

    @cached_property
    def batch(self) -> Batch:
        """Test rows, those of the tasks in turn, with the clicked item and some others in a hashed order."""
        prepared = self._fitting.prepared
        events, each = prepared.log.events, []
        for task in self.tasks:
            rows = np.sort(prepared.split.rows("test", task))
            order = np.argsort(hashing.draw(_PURPOSE, row_keys(events, rows)), kind="stable")
            each.append(rows[order[: max(2, self._rows // len(self.tasks))]])
        fewest = min(map(len, each))
        turns = np.stack([rows[:fewest] for rows in each], axis=1).ravel()
        rows = np.concatenate([turns, *(rows[fewest:] for rows in each)])
        keys = row_keys(events, rows)
        count = min(_CANDIDATES, len(prepared.log.items)) - 1
        others = hashing.draw(_PURPOSE, keys[:, None], np.arange(count)) % np.uint64(
            len(prepared.log.items)
        ) + np.uint64(1)
        lists = np.concatenate([events.item[rows][:, None], others.astype(np.int64)], axis=1)
        order = np.argsort(hashing.draw(hashing.key("audit-order"), keys[:, None], np.arange(count + 1)), axis=1)
        return prepared.batches.rows(rows, np.take_along_axis(lists, order, 1), self._model.window)

    def scores(self, batch: Batch, model: Ranker | None = None, seed: int = 0) -> Tensor:
        """(B, K) scores of a copy of the batch, on the CPU; see `Examined.scores`."""
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        used = evaluating(model or self._model)
        with torch.no_grad(), used.scoring():
            scores = used.score(clone(batch).to(self._fitting.device))
        if not isinstance(scores, Tensor):
            raise Failed(f"score returned {type(scores).__name__}; a float32 tensor is expected")
        return scores.detach().cpu()
