"""Figure 3 of the GenSR paper: where the two tasks lie, in the data and in the hidden states of a model.

(a) t-SNE of the views that a model has of histories and candidates, with density contours per task; (b, c) the first
two principal components of the hidden states. What the pictures claim is measured in the whole space: how well a
classifier tells the tasks apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.fitted import Fitted, check_both_tasks, observe
from bench.analysis.over_seeds import interval
from bench.data import hashing
from bench.data.log import TASKS

PANELS = ("views", "hidden")
"""The spaces that the figure shows."""
COMPARED = ("overlap", "principal components")
"""What is compared between models."""
_FOLDS = 5


@dataclass(frozen=True)
class Space:
    """Points of both tasks: `values` (R, d), `task` (R,) codes and `user` (R,)."""

    values: np.ndarray
    task: np.ndarray
    user: np.ndarray


def spaces(fit: Fitted, negatives: int = 1) -> dict[str, Space]:
    """`views`, `input` and `hidden` of a fit on the test rows of both tasks, as many rows of each.

    Raises:
        UsageError: the run serves one task only, or its model has no representation.
    """
    check_both_tasks(fit.record.id, fit.record.tasks)
    seen = [observe(fit, task, negatives) for task in TASKS]
    size = min(len(each.user) for each in seen)
    task = np.repeat(np.arange(len(TASKS)), size)
    user = np.concatenate([each.user[:size] for each in seen])
    return {
        name: Space(np.concatenate([getattr(each, name)[:size].numpy() for each in seen]), task, user)
        for name in ("views", "input", "hidden")
    }


def overlap(space: Space, seed: int = 0) -> float:
    """2 (1 - accuracy) of a classifier of the tasks on users it has not seen: 1 where it guesses, 0 where it always knows.

    The classifier is a logistic regression over the features and their squares (after principal components where
    there are many), so that it sees a shift as well as a difference in spread.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    constant = space.values.std(0) < 1e-9
    values = space.values[:, ~constant]
    if not values.shape[1]:
        return 1.0
    width = min(20, values.shape[1], len(values) // 10)
    steps = [
        StandardScaler(),
        PCA(width, random_state=seed),
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
    ]
    model = make_pipeline(*steps, StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    accuracy = cross_val_score(model, values, space.task, groups=space.user, cv=GroupKFold(_FOLDS)).mean()
    return float(np.clip(2 * (1 - accuracy), 0, 1))


def bhattacharyya(points: np.ndarray, task: np.ndarray) -> float:
    """Bhattacharyya coefficient of two Gaussians fitted to the tasks' points (R, 2): 1 for equal ones, 0 for disjoint ones."""
    means, covariances = [], []
    for code in range(len(TASKS)):
        chosen = points[task == code].astype(np.float64)
        means.append(chosen.mean(0))
        covariances.append(np.cov(chosen.T) + 1e-12 * np.eye(points.shape[1]))
    middle = (covariances[0] + covariances[1]) / 2
    shift = means[0] - means[1]
    logs = [np.linalg.slogdet(matrix)[1] for matrix in (middle, *covariances)]
    distance = shift @ np.linalg.solve(middle, shift) / 8 + 0.5 * (logs[0] - (logs[1] + logs[2]) / 2)
    return float(np.exp(-distance))


def principal(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components, (R, 2), and the share of the variance of each."""
    from sklearn.decomposition import PCA

    model = PCA(2, random_state=0)
    points = model.fit_transform(space.values)
    return points, model.explained_variance_ratio_


def _some(space: Space, seed: int = 0, points: int = 2000) -> np.ndarray:
    """Places of at most so many points, drawn by the seed."""
    order = np.random.Generator(np.random.Philox(key=hashing.seed("space-points", seed))).permutation(len(space.task))
    return np.sort(order[:points])


def neighbours(space: Space, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE of at most 2,000 points in the plane, (R', 2), and the task of each."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    chosen = _some(space, seed)
    values = space.values[chosen]
    if values.shape[1] > 50:
        values = PCA(50, random_state=seed).fit_transform(values)
    return TSNE(init="pca", random_state=seed, perplexity=min(30, len(values) / 4)).fit_transform(values), space.task[
        chosen
    ]


def measure(fits: Iterable[Fitted], tsne_seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look at every fit.

    Args:
        fits: finished fits of both tasks.
        tsne_seeds: layouts of t-SNE per fit.

    Returns:
        a row per fit and space: the classifier's overlap, the Bhattacharyya coefficient of the planes that the figure shows
        and the share of the variance of their components; that of the t-SNE plane is a mean over the layouts with its
        interval. And the points of the figure, for the first fit of each model.
    """
    lines, points, drawn = [], [], set()
    for fit in fits:
        of = {"dataset": fit.record.dataset["name"], "model": fit.record.title, "seed": fit.record.seed}
        first = (fit.record.dataset["name"], fit.record.model) not in drawn
        drawn.add((fit.record.dataset["name"], fit.record.model))
        for name, space in spaces(fit).items():
            plane, shares = principal(space)
            line: dict[str, Any] = of | {"space": name, "overlap": overlap(space, fit.record.seed)}
            line |= {
                "principal components": bhattacharyya(plane, space.task),
                "share 1": shares[0],
                "share 2": shares[1],
            }
            layouts = [neighbours(space, seed) for seed in range(tsne_seeds)] if name == "views" else []
            if layouts:
                values = np.array([bhattacharyya(*layout) for layout in layouts])
                low, high = interval(values)
                line |= {"t-SNE": values.mean(), "t-SNE low": low, "t-SNE high": high}
            lines.append(line)
            if first and name in PANELS:
                shown, task = layouts[0] if layouts else (plane[_some(space)], space.task[_some(space)])
                points.append(
                    pd.DataFrame(shown, columns=["x", "y"]).assign(
                        **of, name=fit.record.model, space=name, task=[TASKS[code] for code in task]
                    )
                )
    return pd.DataFrame(lines), pd.concat(points, ignore_index=True)


def table(seeds: pd.DataFrame) -> pd.DataFrame:
    """One line per data set, model and space: means over seeds with their 95 % intervals (Student's t, within 0 and 1)."""
    lines = []
    for (dataset, model, name), group in seeds.groupby(["dataset", "model", "space"], sort=False):
        line: dict[str, Any] = {"dataset": dataset, "model": model, "space": name, "seeds": len(group)}
        for value in COMPARED:
            low, high = np.clip(interval(group[value].to_numpy()), 0, 1)
            line |= {value: group[value].mean(), f"{value} low": low, f"{value} high": high}
        # Half the interval of a mean over layouts: what the layout alone changes.
        half = (group["t-SNE high"] - group["t-SNE low"]).mean() / 2
        lines.append(line | {"t-SNE": group["t-SNE"].mean(), "t-SNE half-width": half})
    return pd.DataFrame(lines)
