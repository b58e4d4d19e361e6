"""Tie-exact ranking metrics for lists with one positive, computed from counts instead of from a sorted list.

An evaluated row is three integers: `better` (negatives strictly above the positive), `tied` (negatives with exactly its
score) and `candidates` (length of the list, positive included). The positive's rank under a random order of the tied
block is uniform on better + 1 ... better + tied + 1; every metric is the exact expectation over that order (McSherry
and Najork, ECIR 2008). A rule of a library for ties therefore never enters a result.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import RunError, UsageError, unknown

CUT_OFF_KINDS = ("R", "N")
KINDS = (*CUT_OFF_KINDS, "MRR", "AUC")
_SPELLINGS = {"r": "R", "recall": "R", "hr": "R", "hit": "R", "hits": "R", "n": "N", "ndcg": "N"}
_SPELLINGS |= {"mrr": "MRR", "rr": "MRR", "auc": "AUC"}
# What a positive at rank r, float64 (r,), earns within the cut-off.
_GAIN: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "R": np.ones_like,
    "N": lambda rank: 1 / np.log2(rank + 1),
    "MRR": np.reciprocal,
}

PerUser = tuple[NDArray[np.integer], NDArray[np.float64]]
"""User ids, ascending and distinct, (u,), and one value for each of them, (u,)."""


@dataclass(frozen=True)
class Metric:
    """A metric as a value; `str(metric)` is its identity in files, tables and code, and `parse` reads it back.

    `kind` is R (recall, equal to the hit rate with one positive), N (NDCG), MRR or AUC; `k` is the cut-off of R and N.
    """

    kind: str
    k: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("metric", self.kind, KINDS)
        if (self.kind in CUT_OFF_KINDS) != (self.k is not None):
            raise UsageError(f"metric {self.kind} {'needs a' if self.k is None else 'takes no'} cut-off")
        if self.k is not None and self.k < 1:
            raise UsageError(f"metric {self.kind}@{self.k}: the cut-off must be at least 1")

    def __str__(self) -> str:
        return self.kind if self.k is None else f"{self.kind}@{self.k}"


DEFAULT = (Metric("R", 5), Metric("R", 10), Metric("N", 5), Metric("N", 10), Metric("MRR"), Metric("AUC"))
PRIMARY = Metric("N", 10)


def parse(name: str) -> Metric:
    """The metric with this printed name: `R@5`, `N@10` (any cut-off), `MRR`, `AUC`.

    Raises:
        UsageError: no metric prints like that; names the one that was probably meant.
    """
    match = re.fullmatch(r"([RN])@([1-9][0-9]*)|(MRR|AUC)", name)
    if match:
        return Metric(match[3]) if match[3] else Metric(match[1], int(match[2]))
    guess = re.fullmatch(r"([a-z]+)[@_ ]*0*([1-9][0-9]*)?", name.strip().lower())
    kind = _SPELLINGS.get(guess[1]) if guess else None
    if guess is None or kind is None:
        raise unknown("metric", name, map(str, DEFAULT), "(R and N take any cut-off, as in R@20)")
    meant = Metric(kind, int(guess[2] or 10)) if kind in CUT_OFF_KINDS else Metric(kind)
    raise UsageError(f"unknown metric '{name}'; did you mean {meant}?")


def check_counts(better: NDArray, tied: NDArray, candidates: NDArray) -> None:
    """Refuse counts that no ranking can have.

    Args:
        better: negatives strictly above the positive, (n,).
        tied: negatives with exactly its score, (n,).
        candidates: length of the list, positive included, (n,).

    Raises:
        RunError: the first row that cannot be.
    """
    if not better.shape == tied.shape == candidates.shape or better.ndim != 1:
        raise RunError(
            f"counts differ in shape: better {better.shape}, tied {tied.shape}, candidates {candidates.shape}"
        )
    wrong = (better < 0) | (tied < 0) | (better.astype(np.int64) + tied >= candidates)
    if wrong.any():
        row = int(wrong.argmax())
        raise RunError(
            f"row {row}: {better[row]} better and {tied[row]} tied negatives do not fit a list of {candidates[row]}"
        )


def values(metric: Metric, better: NDArray, tied: NDArray, candidates: NDArray) -> NDArray[np.float64]:
    """Expected value of a metric for every row.

    With g better, e tied and n candidates: R@k is the share of the ranks g + 1 ... g + e + 1 that are at most k, N@k
    the mean of 1/log2(r + 1) over these ranks r (zero beyond k; the ideal DCG is 1), MRR the mean of 1/r, and AUC
    (n - 1 - g - e/2) / (n - 1), which is NaN for a list without negatives.

    Args:
        metric: which one.
        better: negatives strictly above the positive, integers (n,).
        tied: negatives with exactly its score, (n,).
        candidates: length of the list, positive included, (n,).

    Returns:
        float64 (n,).

    Raises:
        RunError: counts that no ranking can have.
    """
    better, tied, candidates = (np.asarray(column).astype(np.int64) for column in (better, tied, candidates))
    check_counts(better, tied, candidates)
    if metric.kind == "AUC":
        negatives = (candidates - 1).astype(np.float64)
        negatives[negatives == 0] = np.nan
        return (negatives - better - tied / 2) / negatives
    last = better + tied + 1
    depth = int(last.max(initial=0))
    if metric.k is not None:
        depth = min(depth, metric.k)
    rank = np.arange(1, depth + 1, dtype=np.float64)
    gain = _GAIN[metric.kind](rank)
    total = np.concatenate([[0.0], np.cumsum(gain)])  # total[r] = gain of the ranks up to r
    return (total[np.minimum(last, depth)] - total[np.minimum(better, depth)]) / (tied + 1)
