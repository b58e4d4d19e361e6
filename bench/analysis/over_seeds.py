"""What seeds say together: the mean of a number with its interval, and the difference between two models.

A seed is one training. The interval and the test are Student's, over the seeds; with three seeds they are wide, which is
what three trainings can show.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean; (nan, nan) for one value."""
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def differences(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Each pair of models compared seed by seed.

    Args:
        frame: a row per model, seed and group, with the columns `model` and `seed`.
        by: columns of a group; models are compared within one.
        values: columns that are compared, each by itself.

    Returns:
        a row per group, value and pair of models in the order of the frame: the mean difference (the first minus the second),
        its 95 % interval and p (paired t-test over the seeds that both have). Without pairs the frame has no rows.
    """
    lines = []
    for group, part in frame.groupby(list(by), sort=False):
        for first, second in combinations(dict.fromkeys(part["model"]), 2):
            left, right = (part[part["model"] == name].set_index("seed") for name in (first, second))
            for value in values:
                gaps = (left[value] - right[value]).dropna().to_numpy(dtype=float)
                if not len(gaps):
                    continue
                low, high = interval(gaps)
                lines.append(
                    dict(zip(by, group, strict=True))
                    | {"value": value, "first": first, "second": second, "seeds": len(gaps), "difference": gaps.mean()}
                    | {"low": low, "high": high, "p": _p(gaps)}
                )
    columns = [*by, "value", "first", "second", "seeds", "difference", "low", "high", "p"]
    return pd.DataFrame(lines, columns=columns)


def _p(gaps: np.ndarray) -> float:
    """Two-sided p of a mean of 0; NaN for one value, 1 where all are 0."""
    from scipy import stats

    if len(gaps) < 2:
        return float("nan")
    if not gaps.any():
        return 1.0
    with np.errstate(divide="ignore"):  # equal gaps that are not 0 have t = inf and p = 0
        return float(2 * stats.t.sf(abs(gaps.mean()) / (gaps.std(ddof=1) / np.sqrt(len(gaps))), len(gaps) - 1))
