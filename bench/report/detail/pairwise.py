"""All pairs of a table's models: how far apart they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.metrics import PRIMARY
from bench.evaluation.significance import mean_over_seeds
from bench.report.comparison import Block


@dataclass(frozen=True)
class Differences:
    """Differences in the primary metric, row minus column, with the 95 % interval of each pair alone, each (m, m)."""

    numbers: tuple[int, ...]  # of the rows in the table
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    note: str


def differences(block: Block, task: str) -> Differences:
    """All pairs of a task's rows, paired over users (Student's t), each row the mean over its seeds."""
    from scipy.stats import t

    numbers = tuple(block.ranks[task])
    runs = [[each.per_user(PRIMARY) for each in block.ranks[task][number]] for number in numbers]
    values = np.stack([mean_over_seeds(each)[1] for each in runs])  # (m, u)
    users = values.shape[1]
    means = values.mean(1)
    difference = means[:, None] - means
    if users > 1:
        covariance = np.atleast_2d(np.cov(values))
        spread = np.diag(covariance)
        variance = np.maximum(spread[:, None] + spread - 2 * covariance, 0)
        half = t.ppf(0.975, users - 1) * np.sqrt(variance / users)
    else:
        half = np.full_like(difference, np.nan)
    note = "Intervals over users, each pair alone and these trained models; no correction for looking at many pairs."
    return Differences(numbers, difference, difference - half, difference + half, note)
