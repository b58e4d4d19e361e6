"""What no ranking can produce: means of metrics that contradict each other."""

from collections.abc import Mapping
from itertools import pairwise
from math import log2

import numpy as np

from bench.evaluation.metrics import CUT_OFF_KINDS, Metric, parse


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
