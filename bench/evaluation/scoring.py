"""From a score function to ranks: the one loop that every model goes through."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch, Batches
from bench.data.history import Window
from bench.errors import RunError
from bench.evaluation.candidates import NEGATIVES, CandidateSet, draw, seen_items
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks, count

_FULL_BYTES = 200_000_000


def rank(
    score: Callable[[Batch], Tensor],
    batches: Batches,
    candidates: CandidateSet,
    window: Window,
    *,
    device: torch.device | str = "cpu",
    rows_per_batch: int = 256,
    model: str = "the model",
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Ranks:
    """Rank every row of a candidate set.

    Args:
        score: Batch -> float32 (B, K); the batch holds nothing that tells the positive.
        tick: called with (rows done, rows in all) after each batch.

    Raises:
        RunError: a score is not finite, or shape or type are wrong; the message names the model and the row.
    """
    events = batches.split.log.events
    better = np.zeros(len(candidates), dtype=np.int32)
    tied, listed = better.copy(), better.copy()
    seen = seen_items(batches.split) if candidates.items is None else None
    n_items = len(batches.split.log.items)
    if seen is not None:
        rows_per_batch = max(1, min(rows_per_batch, _FULL_BYTES // (4 * n_items)))
    for low in range(0, len(candidates), rows_per_batch):
        part = slice(low, low + rows_per_batch)
        rows, position = candidates.rows[part], candidates.position[part]
        if seen is None:
            items = candidates.items[part]  # type: ignore[index]
            valid = items > 0
            scores = _scores(score, batches.rows(rows, items, window), device, model)
        else:
            everything = np.arange(1, n_items + 1)
            valid = ~seen.contains(events.user[rows][:, None], everything)
            valid[np.arange(len(rows)), position] = True
            scores = np.concatenate(
                [
                    _scores(score, batches.rows(rows, np.tile(chunk, (len(rows), 1)), window), device, model)
                    for chunk in np.array_split(everything, -(-n_items // 1000))
                ],
                axis=1,
            )
        better[part], tied[part] = count(scores, position, valid, model, low)
        listed[part] = valid.sum(1)
        tick(min(low + rows_per_batch, len(candidates)), len(candidates))
    taken = {name: getattr(events, name)[candidates.rows] for name in ("user", "event_id", "item", "task", "query")}
    meta = {"model": model, "candidates": candidates.fingerprint}
    return Ranks(**taken, better=better, tied=tied, candidates=listed, meta=meta)


class RowValidation:
    """The validation rows of the tasks with 99 uniform negatives; implements the contract's `Validation`.

    Where the catalogue is so small that a user has fewer draw_negatives items, all of it is ranked. The record of a run has
    the name and the fingerprint of these candidates.
    """

    def __init__(
        self,
        batches: Batches,
        tasks: tuple[str, ...],
        window: Window,
        *,
        device: torch.device | str = "cpu",
        model: str = "the model",
        seed: int = 0,
        tick: Callable[[int, int], None] = lambda done, total: None,
    ):
        self._batches, self._window, self._device, self._model, self._tick = batches, window, device, model, tick
        self.tasks = tasks
        split = batches.split
        user = split.log.events.user[np.concatenate([split.rows("valid", task) for task in tasks])]
        left = len(split.log.items) - seen_items(split).count(user).max(initial=0)
        self.candidates = draw(split, "valid", tasks, "uniform" if left >= NEGATIVES else "full", seed)

    def evaluate(self, score: Callable[[Batch], Tensor]) -> dict[str, float]:
        """`<task>/N@10` for each task and `mean/N@10`, which selects models."""
        ranks = rank(
            score, self._batches, self.candidates, self._window, device=self._device, model=self._model, tick=self._tick
        )
        values = {f"{task}/{PRIMARY}": ranks.only(task).mean(PRIMARY) for task in self.tasks}
        return values | {f"mean/{PRIMARY}": float(np.mean(list(values.values())))}


@torch.no_grad()
def _scores(score: Callable[[Batch], Tensor], batch: Batch, device: torch.device | str, model: str) -> np.ndarray:
    scores = score(batch.to(device))
    if tuple(scores.shape) != tuple(batch.cand.shape):
        raise RunError(
            f"{model} returned scores of shape {tuple(scores.shape)} for candidates of shape {tuple(batch.cand.shape)}"
        )
    if scores.dtype != torch.float32:
        raise RunError(f"{model} returned {scores.dtype} scores; float32 is expected, because fewer bits make ties")
    return scores.cpu().numpy()
