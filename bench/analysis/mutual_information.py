"""Table 1 of the GenSR paper: mutual information between what a model reads and what it answers, per task.

X is the model's representation of user, query and candidate, Y a Bernoulli draw of the probability that the model
gives the candidate. So the exact value H(mean p) - mean H(p) is known beside the estimates, and no estimate can
truly exceed ln 2 = .693 nats, the entropy of a binary answer at most. A published value above it is in another unit
or of another Y.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from bench.analysis.fitted import Fitted, Observed, observe
from bench.analysis.information import LN2, EstimatorConfig, bernoulli, entropy, estimate, exact_information
from bench.analysis.over_seeds import interval


@dataclass(frozen=True)
class Row:
    """One model and seed on one task, in nats."""

    dataset: str
    model: str
    task: str
    seed: int
    mine: float
    infonce: float
    exact: float
    bound: float  # entropy of Y
    pairs: int  # that the estimate is taken on
    remark: str


def measure(
    seen: Observed, seed: int, config: EstimatorConfig | None = None
) -> tuple[float, float, float, float, int, str]:
    """MINE, InfoNCE, exact value, entropy of Y, pairs of the estimate, and what is wrong with it ('' for nothing)."""
    outcome = bernoulli(seen.probability)
    mine = estimate(seen.input, outcome, seen.user, seed=seed, config=config)
    other = estimate(seen.input, outcome, seen.user, seed=seed, bound="infonce", config=config)
    probability = seen.probability.double().numpy()
    bound = float(entropy(probability.mean()))
    return (
        mine.value,
        other.value,
        exact_information(probability),
        bound,
        mine.pairs,
        remark(mine.value, bound, mine.ceiling),
    )


def remark(value: float, bound: float, ceiling: float) -> str:
    """Why an estimate cannot be right; '' where nothing speaks against it."""
    found = []
    if value > bound:
        found.append(f"more than the entropy of the answer, {bound:.3f}" + (" (ln 2 at most)" if value > LN2 else ""))
    if value > ceiling:
        found.append(f"more than so many pairs can show, {ceiling:.2f}")
    return "; ".join(found)


def rows(fits: Iterable[Fitted], negatives: int, config: EstimatorConfig | None = None) -> Iterator[Row]:
    """A row per fit and task; the estimator's seed is the fit's.

    Raises:
        UsageError: a model has no representation.
    """
    for fit in fits:
        for task in fit.record.tasks:
            values = measure(observe(fit, task, negatives), fit.record.seed, config)
            yield Row(fit.record.dataset["name"], fit.record.title, task, fit.record.seed, *values)


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """One line per data set, task and model: means over seeds with the 95 % interval of MINE (Student's t)."""
    frame = pd.DataFrame([vars(row) for row in rows])
    lines = []
    for (dataset, task, model), group in frame.groupby(["dataset", "task", "model"], sort=False):
        low, high = interval(group["mine"].to_numpy())
        lines.append(
            {
                "dataset": dataset,
                "task": task,
                "model": model,
                "seeds": len(group),
                "mine": group["mine"].mean(),
                "mine low": low,
                "mine high": high,
                "infonce": group["infonce"].mean(),
                "exact": group["exact"].mean(),
                "entropy": group["bound"].mean(),
                "remark": "; ".join(dict.fromkeys(text for text in group["remark"] if text)),
            }
        )
    return pd.DataFrame(lines)
