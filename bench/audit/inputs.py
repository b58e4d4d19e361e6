"""What a finished run makes of its inputs, measured: the metric with the true query, history and order, and without."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.audit.data import popularity_ranks
from bench.audit.query_gradient import query_gradient
from bench.data.batch import Batch
from bench.errors import UsageError
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.finding import Finding
from bench.evaluation.metrics import PRIMARY, PerUser
from bench.evaluation.ranks import Ranks
from bench.evaluation.scoring import rank
from bench.messages import comma_list
from bench.ranker.contract import Ranker
from bench.testing.examined import evaluating

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting

Change = Callable[[Batch], Batch]
DRAWS = 5
_GRADIENT_ROWS = 64
_SURE = 4.0  # standard errors
_LARGE = 0.05  # of the primary metric
_LITTLE = 0.05  # of the metric: a loss that hardly matters
_HISTORY = ("rec_items", "rec_times", "rec_len", "search_query", "search_items", "search_times", "search_len")
_PAST = (*_HISTORY, "merged_task", "merged_column")


class Measured:
    """The primary metric of a run on a sample of rows, with inputs as they are or changed.

    Args:
        fitting: an opened run.
        model: its fitted model.
        rows: of each task, at most.
        strategy: of the candidates; the full catalogue where it is too small to draw from.
        seed: of the candidates.
    """

    def __init__(self, fitting: "Fitting", model: Ranker, rows: int, strategy: str = "uniform", seed: int = 0):
        self.fitting, self.model, self.rows, self.seed = fitting, model, rows, seed
        self.strategy = strategy
        try:
            draw(fitting.prepared.split, "test", fitting.tasks, strategy, seed, limit=rows)
        except UsageError:
            self.strategy = "full"
        self._true: dict[str, Ranks] = {}

    def candidates(self, task: str, part: str = "test", seed: int | None = None) -> CandidateSet:
        """Candidates of the same sample of rows for every seed."""
        drawn = self.seed if seed is None else seed
        return draw(self.fitting.prepared.split, part, (task,), self.strategy, drawn, limit=self.rows)

    def ranks(self, candidates: CandidateSet, change: Change | None = None) -> Ranks:
        """Ranks of the model on candidates of one task.

        Raises:
            RunError: a score is not finite.
        """
        model = evaluating(self.model)

        def score(batch: Batch) -> Tensor:
            return model.score(change(batch) if change else batch)

        with model.scoring():
            return rank(
                score,
                self.fitting.prepared.batches,
                candidates,
                model.window,
                device=self.fitting.device,
                model=self.fitting.name,
            )

    def true(self, task: str) -> Ranks:
        """Ranks of the test sample with the inputs as they are."""
        if task not in self._true:
            self._true[task] = self.ranks(self.candidates(task))
        return self._true[task]

    def query_gradient(self) -> float | None:
        """Share of the query in the gradient of the scores of some search rows, see `bench.audit.query_gradient`."""
        candidates, prepared = self.candidates("search"), self.fitting.prepared
        if candidates.items is None:
            return None
        rows, items = candidates.rows[:_GRADIENT_ROWS], candidates.items[:_GRADIENT_ROWS]
        model = evaluating(self.model)
        batch = prepared.batches.rows(rows, items, model.window).to(self.fitting.device)
        with model.scoring():
            return query_gradient(model.score, batch, permuted_queries(batch))

    def loss(self, task: str, change: Change) -> tuple[float, float, float, float]:
        """Means with true and with changed inputs, and the 95 % interval of the loss over users."""
        users, true = self.true(task).per_user(PRIMARY)
        _, changed = self.ranks(self.candidates(task), change).per_user(PRIMARY)
        difference = true - changed
        half = 1.96 * difference.std(ddof=1) / len(users) ** 0.5 if len(users) > 1 else float("inf")
        return float(true.mean()), float(changed.mean()), difference.mean() - half, difference.mean() + half


def findings(measured: Measured, label: str, reads: Callable[[str], tuple[str, ...]]) -> Iterator[Finding]:
    """The findings on query, history, order, test rows in training, and draws.

    Args:
        measured: the run.
        label: what tables call it.
        reads: tasks in which the class says that it reads an input, by flag.
    """
    tasks = measured.fitting.tasks
    if "search" in tasks:
        yield from _query(measured, label, "search" in reads("uses_query") or bool(measured.fitting.cls.uses_query))
    for task in tasks:
        if task in reads("uses_history"):
            yield from _history(measured, label, task)
        yield from _trained_on_test(measured, label, task)
        yield from _draws(measured, label, task)


def permuted_queries(batch: Batch) -> Batch:
    """Every row with the query of another row."""
    return replace(batch, query=batch.query.roll(max(1, len(batch) // 2)))


def no_history(batch: Batch) -> Batch:
    """Every row without a past."""
    return replace(batch, rec_len=torch.zeros_like(batch.rec_len), search_len=torch.zeros_like(batch.search_len))


def other_history(batch: Batch) -> Batch:
    """Every row with the past of another row."""
    step = max(1, len(batch) // 2)
    return replace(batch, **{name: getattr(batch, name).roll(step, 0) for name in _PAST})


def shuffled_history(batch: Batch) -> Batch:
    """Every row with its clicks and its searches in another order; times stay where they are."""
    generator = torch.Generator().manual_seed(5)

    def order(mask: Tensor) -> Tensor:
        key = torch.rand(mask.shape, generator=generator).to(mask.device)
        return torch.where(mask, key, key + 2).argsort(1)

    rec, search = order(batch.rec_mask), order(batch.search_mask)
    clicks = search[..., None].expand_as(batch.search_items)
    return replace(
        batch,
        rec_items=batch.rec_items.gather(1, rec),
        search_query=batch.search_query.gather(1, search),
        search_items=batch.search_items.gather(1, clicks),
    )


def _query(measured: Measured, label: str, declared: bool) -> Iterator[Finding]:
    if not declared:
        yield Finding(
            "note",
            "query",
            label,
            "does not read the query: on search rows it is a recommender",
            "",
            "say so where its search numbers stand",
            (label,),
        )
        return
    true, permuted, low, high = measured.loss("search", permuted_queries)
    if low <= 0:
        share = measured.query_gradient()
        reaches = "" if share is None else f"; the query's vectors have {share:.1%} of the gradient of the scores"
        yield Finding(
            "severe",
            "query",
            label,
            "ranks searches as well with the query of another row, so it does not search",
            _change("search", true, permuted, low, high) + reaches,
            "look whether the query reaches the score and whether its vectors are trained",
            (label,),
        )


def _history(measured: Measured, label: str, task: str) -> Iterator[Finding]:
    if not bool((measured.true(task).candidates > 1).all()):
        return
    true, without, low, high = measured.loss(task, no_history)
    _, other, other_low, other_high = measured.loss(task, other_history)
    if low <= 0 and other_low <= 0:
        if max(high, other_high) > _LITTLE * true:
            return  # too few rows to tell
        yield Finding(
            "warning" if task == "rec" else "note",
            "history",
            label,
            f"ranks {task} rows as well without the history and with that of another user",
            f"{_change(task, true, without, low, high)} without; {other:.3f} with another's ({other_low:+.3f} to {other_high:+.3f})",
            "look whether the history reaches the score; do not claim personalisation",
            (label,),
        )
        return
    true, shuffled, low, high = measured.loss(task, shuffled_history)
    if high < _LITTLE * true or low <= 0:
        yield Finding(
            "note",
            "order",
            label,
            f"the order of the history hardly matters on {task}",
            _change(task, true, shuffled, low, high),
            "do not claim sequential modelling on these data",
            (label,),
        )


def _trained_on_test(measured: Measured, label: str, task: str) -> Iterator[Finding]:
    """Test rows that are ranked much better than validation rows, beyond what the rows themselves explain."""
    by_part, popular = {}, {}
    for part in ("test", "valid", "train"):
        try:
            candidates = measured.candidates(task, part)
        except UsageError:
            return
        ranks = measured.true(task) if part == "test" else measured.ranks(candidates)
        by_part[part] = ranks.per_user(PRIMARY)
        if part != "train" and candidates.items is not None:
            popular[part] = popularity_ranks(measured.fitting.prepared, candidates).per_user(PRIMARY)
    gap, error = _gap(by_part["test"], by_part["valid"])
    if popular:
        easier, further = _gap(popular["test"], popular["valid"])
        gap, error = gap - max(easier, 0.0), (error**2 + further**2) ** 0.5
    if gap > max(_LARGE, _SURE * error):
        means = {part: float(each[1].mean()) for part, each in by_part.items()}
        yield Finding(
            "severe",
            "trained on test",
            label,
            f"ranks {task} test rows far better than validation rows, as a model does that has learnt them",
            f"{PRIMARY} {means['test']:.3f} on test, {means['valid']:.3f} on validation, {means['train']:.3f} on "
            f"training rows; gap {gap:.3f}, standard error {error:.3f}",
            "train on the rows that the harness hands out and on nothing else",
            (label,),
        )


def _gap(first: PerUser, second: PerUser) -> tuple[float, float]:
    """Difference of two means over users, and its standard error; of users in both their differences count."""
    common = np.intersect1d(first[0], second[0])
    if len(common) > 1:
        difference = first[1][np.isin(first[0], common)] - second[1][np.isin(second[0], common)]
        return float(difference.mean()), float(difference.std(ddof=1) / len(common) ** 0.5)
    errors = [each[1].std(ddof=1) / len(each[1]) ** 0.5 if len(each[1]) > 1 else np.inf for each in (first, second)]
    return float(first[1].mean() - second[1].mean()), float((errors[0] ** 2 + errors[1] ** 2) ** 0.5)


def _draws(measured: Measured, label: str, task: str) -> Iterator[Finding]:
    """How much other draws of the candidates, and other orders of tied ones, move the number."""
    ranks = [measured.true(task)]
    if measured.strategy != "full":
        ranks += [measured.ranks(measured.candidates(task, seed=measured.seed + number)) for number in range(1, DRAWS)]
    drawn = [each.mean(PRIMARY) for each in ranks]
    ordered = [_in_one_order(ranks[0], seed).mean(PRIMARY) for seed in range(DRAWS)]
    words = [f"{len(drawn)} draws: std {np.std(drawn, ddof=1):.4f}, {min(drawn):.3f} to {max(drawn):.3f}"] * (
        len(drawn) > 1
    )
    if max(ordered) > min(ordered):
        words.append(f"{DRAWS} orders of tied candidates: {min(ordered):.3f} to {max(ordered):.3f}")
    if words:
        yield Finding(
            "note",
            "draws",
            label,
            f"how much chance is in {task} {PRIMARY}, on {len(ranks[0]):,} rows",
            comma_list(words),
            "read no difference below it, and compare on one draw",
            (label,),
        )


def _in_one_order(ranks: Ranks, seed: int) -> Ranks:
    """The ranks that one random order of tied candidates gives."""
    place = np.random.default_rng(seed).integers(0, ranks.tied.astype(np.int64) + 1)
    return replace(ranks, better=ranks.better + place.astype(np.int32), tied=np.zeros_like(ranks.tied))


def _change(task: str, true: float, changed: float, low: float, high: float) -> str:
    return f"{task} {PRIMARY} {true:.3f}, then {changed:.3f}; loss {low:+.3f} to {high:+.3f} with 95 % confidence"
