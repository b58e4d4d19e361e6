"""Figure 3 of the GenSR paper: where the two tasks lie, in the data and in the hidden states of a model.

(a) t-SNE of the views that a model has of histories and candidates, with density contours per task; (b, c) the first
two principal components of the hidden states. What the pictures claim is measured in the whole space: how well a
classifier tells the tasks apart.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.fitted import Fitted, check_both_tasks, observe
from bench.data import hashing
from bench.data.log import TASKS

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


def neighbours(space: Space, seed: int, points: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE of at most so many points in the plane, (R', 2), and the task of each."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    order = np.random.Generator(np.random.Philox(key=hashing.seed("space-points", seed))).permutation(len(space.task))
    chosen = np.sort(order[:points])
    values = space.values[chosen]
    if values.shape[1] > 50:
        values = PCA(50, random_state=seed).fit_transform(values)
    return TSNE(init="pca", random_state=seed, perplexity=min(30, len(values) / 4)).fit_transform(values), space.task[
        chosen
    ]


def table(fits: list[Fitted], tsne_seeds: int = 3) -> pd.DataFrame:
    """Per fit and space: classifier overlap, and the Bhattacharyya coefficient of the planes that the figure shows.

    The coefficient of the t-SNE plane is a mean over `tsne_seeds` layouts, with their standard deviation.
    """
    lines = []
    for fit in fits:
        for name, space in spaces(fit).items():
            layouts = [bhattacharyya(*neighbours(space, seed)) for seed in range(tsne_seeds)] if name == "views" else []
            lines.append(
                {
                    "dataset": fit.record.dataset["name"],
                    "model": fit.record.title,
                    "seed": fit.record.seed,
                    "space": name,
                    "overlap": overlap(space, fit.record.seed),
                    "principal components": bhattacharyya(principal(space)[0], space.task),
                    "t-SNE": float(np.mean(layouts)) if layouts else float("nan"),
                    "t-SNE deviation": float(np.std(layouts, ddof=1)) if len(layouts) > 1 else float("nan"),
                }
            )
    return pd.DataFrame(lines)
