"""Tie-exact ranking metrics for lists with one positive, computed from counts instead of from a sorted list.

An evaluated row is three integers: `better` (negatives strictly above the positive), `tied` (negatives with exactly its
score) and `candidates` (length of the list, positive included). The positive's rank under a random order of the tied
block is uniform on better + 1 ... better + tied + 1; every metric is the exact expectation over that order (McSherry
and Najork, ECIR 2008). A rule of a library for ties therefore never enters a result.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import log2

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
    """Raise RunError for the first row whose counts no ranking can have; all arrays (n,)."""
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
        better, tied, candidates: integer arrays (n,).

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


def check_identities(means: Mapping[Metric, float] | Mapping[str, float], tolerance: float = 1e-9) -> list[str]:
    """What no ranking of lists with one positive can produce, in words; empty when the row of means is possible.

    A hit between the ranks j + 1 and k adds between 1/log2(k + 1) and 1/log2(j + 2) to NDCG, and between 1/k and
    1/(j + 1) to MRR. Summed over rows, and with R@0 = N@0 = 0 and N@1 = R@1, this bounds N@k - N@j by R@k - R@j for
    neighbouring cut-offs j < k, so that N@k <= R@k, N@k >= R@k / log2(k + 1) and R@1 >= (N@5 - .6309 R@5) / .3691
    follow. All bounds are linear: they also hold for means over users and for expectations over ties.

    Args:
        means: value by metric or by its printed name; any subset of metrics.
        tolerance: how far each value may be from the truth; .00005 for numbers printed with four decimals.
    """
    known = {parse(str(metric)): float(value) for metric, value in means.items()}
    found = [
        f"{metric} = {value:.4f} is not between 0 and 1"
        for metric, value in known.items()
        if not -tolerance <= value <= 1 + tolerance
    ]
    if any(np.isnan(value) for value in known.values()):
        return found
    recall, ndcg = ({0: 0.0} | {m.k: v for m, v in known.items() if m.kind == kind and m.k} for kind in CUT_OFF_KINDS)
    first = recall.get(1, ndcg.get(1))
    if first is not None:
        recall.setdefault(1, first)
        ndcg.setdefault(1, first)
    for kind, curve in (("R", recall), ("N", ndcg)):
        for j, k in pairwise(sorted(curve)):
            if curve[k] < curve[j] - 2 * tolerance and j > 0:
                found.append(f"{kind}@{k} = {curve[k]:.4f} is below {kind}@{j} = {curve[j]:.4f}")
    for j, k in pairwise(sorted(recall.keys() & ndcg.keys())):
        hits, gain = recall[k] - recall[j], ndcg[k] - ndcg[j]
        low, high = hits / log2(k + 1), hits / log2(j + 2)
        slack = tolerance * (2 if j else 1) * (1 + 1 / log2(j + 2))
        if hits >= 0 and not low - slack <= gain <= high + slack:
            left, right = (f"N@{k} - N@{j}", f"R@{k} - R@{j}") if j else (f"N@{k}", f"R@{k}")
            found.append(f"{left} = {gain:.4f}, but {right} = {hits:.4f} allows only {low:.4f} to {high:.4f}")
    mrr, deepest = known.get(Metric("MRR")), max(recall)
    if mrr is not None and deepest and all(recall[j] <= recall[k] for j, k in pairwise(sorted(recall))):
        steps = [(j, k, recall[k] - recall[j]) for j, k in pairwise(sorted(recall))]
        low = sum(hits / k for _, k, hits in steps)
        high = sum(hits / (j + 1) for j, _, hits in steps) + (1 - recall[deepest]) / (deepest + 1)
        if not low - 3 * tolerance <= mrr <= high + 3 * tolerance:
            found.append(f"MRR = {mrr:.4f}, but the recall values allow only {low:.4f} to {high:.4f}")
    return found
