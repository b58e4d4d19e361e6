"""From a model to ranks: the one loop that every model goes through, and the validation rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch, Batches
from bench.data.history import Window
from bench.data.sampling import few_unseen
from bench.evaluation import long_lists
from bench.evaluation.candidates import NEGATIVES, CandidateSet, draw, limited, seen_items
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks, count
from bench.evaluation.top_lists import TopCollector

Score = Callable[[Batch], Tensor]


@runtime_checkable
class Scorer(Protocol):
    """What ranking needs of a model: the score, and the score in two steps. See `bench.ranker.ranker.Ranker`."""

    def score(self, batch: Batch) -> Tensor:
        """Scores of the candidates of a batch, float32 (B, K)."""

    def encode(self, batch: Batch) -> Any:
        """What depends on the rows alone; the candidates of the batch are empty, (B, 0)."""

    def score_items(self, encoded: Any, cand: Tensor) -> Tensor:
        """Scores of candidates (B, K) of encoded rows, float32 (B, K)."""


class WholeScore:
    """A score function that cannot be split, as a Scorer."""

    def __init__(self, score: Score):
        self.score = score

    def encode(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch

    def score_items(self, encoded: Batch, cand: Tensor) -> Tensor:
        """The score of the batch with these candidates."""
        return self.score(replace(encoded, cand=cand))


@torch.no_grad()
def rank(
    scorer: Scorer | Score,
    batches: Batches,
    candidates: CandidateSet,
    window: Window,
    *,
    device: torch.device | str = "cpu",
    rows_per_batch: int = 256,
    model: str = "the model",
    tick: Callable[[int, int], None] = lambda done, total: None,
    top: TopCollector | None = None,
) -> Ranks:
    """Rank every row of a candidate set.

    Lists of 1,000 candidates and more, and the full catalogue, are scored in two steps: each row is encoded once. Ranks
    do not depend on the way.

    Args:
        scorer: a Scorer, or a function Batch -> float32 (B, K). The batches hold nothing that tells the positive.
        batches: of the split that the candidates were drawn for.
        candidates: lists of R rows.
        window: how much history the model reads.
        device: where the model is.
        rows_per_batch: rows that are scored at a time, at most.
        model: its name, for messages.
        tick: called with (rows done, rows in all) after each batch.
        top: keeps the best candidates of each row, where they are asked for.

    Raises:
        RunError: a score is not finite, or shape or type are wrong; the message names the model and the row.
    """
    scorer = scorer if isinstance(scorer, Scorer) else WholeScore(scorer)
    events = batches.split.log.events
    better = np.zeros(len(candidates), dtype=np.int32)
    tied, listed = better.copy(), better.copy()
    ranking = None
    if candidates.items is None:
        ranking = long_lists.FullRanking(scorer, seen_items(batches.split), events, device, model, top)
        rows_per_batch = ranking.rows_per_batch(rows_per_batch)
    for low in range(0, len(candidates), rows_per_batch):
        chunk = slice(low, low + rows_per_batch)
        rows, position = candidates.rows[chunk], candidates.position[chunk]
        if ranking is not None:
            batch = batches.rows(rows, np.empty((len(rows), 0), dtype=np.int64), window).to(device)
            better[chunk], tied[chunk], listed[chunk] = ranking.count(batch, rows, position, low)
        else:
            items = candidates.items[chunk]  # type: ignore[index]  # the other case is above
            valid = items > 0
            if items.shape[1] < long_lists.LONG:
                batch = batches.rows(rows, items, window).to(device)
                scores = long_lists.checked(scorer.score(batch), batch.cand.shape, model)
            else:
                batch = batches.rows(rows, items[:, :0], window).to(device)
                scores = long_lists.score_blocks(scorer, scorer.encode(batch), torch.from_numpy(items), device, model)
            better[chunk], tied[chunk] = count(scores.cpu().numpy(), position, valid, model, low)
            listed[chunk] = valid.sum(1)
            if top is not None:
                top.add(low, scores.masked_fill(torch.from_numpy(~valid).to(scores.device), -torch.inf), items)
        tick(min(low + rows_per_batch, len(candidates)), len(candidates))
    columns = {key: getattr(events, key)[candidates.rows] for key in ("user", "event_id", "item", "task", "query")}
    meta = {"model": model, "candidates": candidates.fingerprint}
    return Ranks(**columns, better=better, tied=tied, candidates=listed, meta=meta)


class RowValidation:
    """The validation rows of the tasks with 99 uniform negatives; implements the contract's `Validation`.

    Rows whose users have fewer unseen items are left out. Where they are more than half of a task's rows the catalogue
    is too small to draw from, and all of it is ranked. The record of a run has the name and the fingerprint of these
    candidates, and what was left out.

    Args:
        batches: of the split.
        tasks: whose validation rows are ranked.
        window: how much history the model reads.
        device: where the model is.
        model: its name, for messages.
        seed: of the negatives.
        limit: at most so many rows of each task, chosen by a hash of the row; 0 means all.
        tick: called with (rows done, rows in all) after each batch.
        state: names what the scores depend on; the metrics of a state that was evaluated before are not computed again.
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
        limit: int = 0,
        tick: Callable[[int, int], None] = lambda done, total: None,
        state: Callable[[], str] | None = None,
    ):
        self._batches, self._window, self._device, self._model, self._tick = batches, window, device, model, tick
        self._state = state
        self._known: dict[str, dict[str, float]] = {}
        self.tasks = tasks
        split = batches.split
        chosen = [limited(split, split.rows("valid", task), limit) for task in tasks]
        few = [few_unseen(split.log.events, rows, seen_items(split), NEGATIVES) for rows in chosen]
        strategy = "full" if any(2 * each.sum() > len(each) for each in few) else "uniform"
        self.candidates = draw(split, "valid", tasks, strategy, seed, limit=limit)

    def evaluate(self, score: Score) -> dict[str, float]:
        """`<task>/N@10` for each task and `mean/N@10`, which selects models.

        Raises:
            RunError: a score is not finite, or shape or type are wrong.
        """
        state = self._state() if self._state else None
        if state is not None and state in self._known:
            return dict(self._known[state])
        ranks = rank(
            score, self._batches, self.candidates, self._window, device=self._device, model=self._model, tick=self._tick
        )
        values = {f"{task}/{PRIMARY}": ranks.only(task).mean(PRIMARY) for task in self.tasks}
        values[f"mean/{PRIMARY}"] = float(np.mean(list(values.values())))
        if state is not None:
            self._known[state] = dict(values)
        return values
