"""Lemma 5.1 of the GenSR paper in the linear-Gaussian case: closed form, simulation, and where the inequality fails.

The paper's appendix concludes from a smaller error of the parameters, |theta_gen - theta| < |theta_dis - theta|
(eq. 13), that the mutual information I(X; theta_hat'X + e) = 1/2 ln(1 + theta_hat' S theta_hat / s^2) (eq. 14) is larger.
Equation (14) knows the parameters by their size alone: it grows with theta_hat' S theta_hat, whatever the truth. So the
conclusion holds exactly where the better estimate is also the larger one in the norm of S. That is so for two estimates
theta_hat = (1 - a) theta that shrink towards zero (0 <= a <= 1). It fails as soon as the worse estimate overshoots or
has noise of its own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.information import gaussian_information
from bench.data import hashing

SAMPLES = 200_000
"""Draws of X per case."""


@dataclass(frozen=True)
class Case:
    """Two estimates of one truth.

    Attributes:
        name: what is the matter with them.
        generative: the estimate with the smaller error, (d,).
        discriminative: the other one, (d,).
    """

    name: str
    generative: np.ndarray
    discriminative: np.ndarray


def cases(truth: np.ndarray, seed: int) -> list[Case]:
    """Pairs of estimates of `truth` (d,), in each of which the first one has the smaller error."""
    noise = np.random.Generator(np.random.Philox(key=hashing.seed("lemma-noise", seed))).standard_normal(len(truth))
    noise -= noise @ truth / (truth @ truth) * truth
    noise *= np.linalg.norm(truth) / np.linalg.norm(noise)
    return [
        Case("both shrink towards zero", 0.9 * truth, 0.6 * truth),
        Case("the worse one overshoots", 0.9 * truth, 1.4 * truth),
        Case("both overshoot", 1.1 * truth, 1.4 * truth),
        Case("the worse one has noise across the truth", 0.9 * truth, truth + 0.8 * noise),
        Case("the worse one is turned and not longer", 0.95 * truth, (truth + noise) / np.sqrt(2.0)),
    ]


def table(dimensions: int = 8, noise: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Each case with its errors, the information in closed form (nats) and by simulation, and whether (11) holds.

    Args:
        dimensions: d of X ~ N(0, S), S drawn with the seed.
        noise: s^2, the variance of e.
        seed: of S, the truth and the samples.

    Returns:
        a row per case: `error` and `information` of both estimates, the simulated information with its standard error, and
        the columns `smaller error` and `more information`, which the lemma says are equal.
    """
    draws = np.random.Generator(np.random.Philox(key=hashing.seed("lemma", seed)))
    root = draws.standard_normal((dimensions, dimensions)) / np.sqrt(dimensions)
    truth = draws.standard_normal(dimensions) / np.sqrt(dimensions)
    x = draws.standard_normal((SAMPLES, dimensions)) @ root.T  # (n, d) of variance root root'
    e = np.sqrt(noise) * draws.standard_normal(SAMPLES)
    rows = []
    for case in cases(truth, seed):
        row: dict[str, float] = {}
        for name, estimate in (("generative", case.generative), ("discriminative", case.discriminative)):
            projected = root.T @ estimate
            row[f"{name} error"] = float(np.linalg.norm(estimate - truth))
            row[f"{name} information"] = gaussian_information(float(projected @ projected), noise)
            row[f"{name} simulated"], row[f"{name} standard error"] = simulated(x @ estimate, e)
        smaller = row["generative error"] < row["discriminative error"]
        more = row["generative information"] > row["discriminative information"]
        rows.append({"case": case.name} | row | {"smaller error": smaller, "more information": more})
    return pd.DataFrame(rows)


def simulated(signal: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """I(signal; signal + noise) of Gaussian samples (n,) from their correlation, in nats, with its standard error."""
    correlation = np.corrcoef(signal, signal + noise)[0, 1]
    # -1/2 ln(1 - r^2) has the derivative r / (1 - r^2), and r the variance (1 - r^2)^2 / n.
    return float(-0.5 * np.log1p(-(correlation**2))), float(abs(correlation) / np.sqrt(len(signal)))
