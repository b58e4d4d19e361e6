"""Mutual information from samples: MINE with the Donsker-Varadhan bound, InfoNCE beside it, exact values where known.

All values are in nats. Both estimates are lower bounds, taken on pairs that took part in nothing before.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import hashing

LN2 = float(np.log(2))
_BLOCK = 2048  # rows of a matrix of critic values at a time
_CHECKED = 4096  # pairs that choose the state of the critic, at most

# Draws an outcome per row: rows (n,) int64 and a generator to (n, d_y) float32.
Outcome = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class EstimatorConfig:
    """Size and training of the critic T(x, y); the defaults are those of `bench analyze mi`."""

    width: int = 128
    features: int = 64
    batch: int = 256
    steps: int = 4000
    lr: float = 1e-3
    decay: float = 0.99  # of the moving average that corrects the gradient's bias
    smoothing: float = 0.995  # of the moving average of the weights, which is what is judged and kept
    check_every: int = 100
    patience: int = 8  # checks without a better value on the second part


@dataclass(frozen=True)
class Estimate:
    """A lower bound of the mutual information in nats.

    Attributes:
        value: on the third part of the pairs.
        pairs: in that part.
        steps: of training, until the chosen state.
        ceiling: ln(pairs) - 2; a bound from so few pairs can hardly show more.
    """

    value: float
    pairs: int
    steps: int

    @property
    def ceiling(self) -> float:
        """ln(pairs) - 2, what so many pairs can show."""
        return float(np.log(max(self.pairs, 1)) - 2)

    @property
    def beyond(self) -> bool:
        """Whether the value is more than so many pairs can show."""
        return self.value > self.ceiling


class Critic(nn.Module):
    """T(x, y) = <f(x), g(y)> / sqrt(k) + a(x) + b(y) with k features: every x against every y costs one matrix product.

    For jointly Gaussian x and y the best T has this form. Without the root a fresh critic is noise of several nats, and a
    weak dependence of many dimensions is overfitted before that noise is unlearned.
    """

    def __init__(self, of_x: int, of_y: int, config: EstimatorConfig):
        super().__init__()
        self.x = _network(of_x, config)
        self.y = _network(of_y, config)
        self.scale = config.features**-0.5

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """T of all pairs of x (n, d_x) and y (m, d_y): (n, m)."""
        left, right = self.x(x), self.y(y)
        return self.scale * (left[:, 1:] @ right[:, 1:].T) + left[:, :1] + right[:, 0]  # (n, m)


def _network(width: int, config: EstimatorConfig) -> nn.Module:
    layers = [nn.Linear(width, config.width), nn.GELU(), nn.Linear(config.width, config.width), nn.GELU()]
    # A linear way around, so that a bilinear dependence need not be learned through the layers.
    return _Residual(nn.Sequential(*layers, nn.Linear(config.width, config.features + 1)), width, config.features + 1)


class _Residual(nn.Module):
    def __init__(self, deep: nn.Module, width: int, features: int):
        super().__init__()
        self.deep = deep
        self.linear = nn.Linear(width, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(x) + self.linear(x)


def donsker_varadhan(values: Tensor) -> Tensor:
    """E_p(x,y)[T] - log E_p(x)p(y)[exp T] of a matrix (n, n) with the joint pairs on its diagonal (paper, eq. 12)."""
    return values.diagonal().mean() - _log_mean_exp_off_diagonal(values)


def info_nce(values: Tensor) -> Tensor:
    """Mean of T_ii - log mean_j exp T_ij, at most ln n (van den Oord et al., 2018, eq. 5)."""
    return (values.diagonal() - values.logsumexp(1)).mean() + float(np.log(len(values)))


def _log_mean_exp_off_diagonal(values: Tensor) -> Tensor:
    count = len(values)
    hidden = values.masked_fill(torch.eye(count, dtype=torch.bool, device=values.device), -torch.inf)
    return hidden.flatten().logsumexp(0) - float(np.log(count * (count - 1)))


def estimate(
    x: Tensor,
    outcome: Outcome,
    groups: np.ndarray | None = None,
    *,
    seed: int,
    bound: Literal["mine", "infonce"] = "mine",
    config: EstimatorConfig | None = None,
) -> Estimate:
    """A lower bound of I(X; Y).

    Six tenths of the pairs train the critic, one tenth chooses its state, the rest gives the value. An outcome that is random
    given its row is drawn anew in every step, which makes more pairs of the same rows. What is judged and kept is the moving
    average of the critic's weights: single steps follow the noise of their batch (Polyak and Juditsky, SIAM J. Control 1992).

    Args:
        x: (R, d_x) float32.
        outcome: draws Y for rows.
        groups: (R,) rows of one group, such as a user, stay in one part; None means that every row stands alone.
        seed: of parts, initial weights and draws.
        bound: "mine" is Donsker-Varadhan with the bias-corrected gradient of Belghazi et al. (ICML 2018, sec. 3.2).
        config: of the critic.

    Returns:
        the bound on the third part.
    """
    config = config or EstimatorConfig()
    parts = _parts(len(x) if groups is None else groups, seed)
    chosen = [torch.from_numpy(np.flatnonzero(parts == part)) for part in range(3)]
    generator = torch.Generator().manual_seed(hashing.seed("information", seed) % 2**63)
    scale = _Scale.of(x[chosen[0]])
    first = outcome(chosen[0], generator)
    scale_y = _Scale.of(first)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hashing.seed("information-critic", seed) % 2**63)
        critic = Critic(x.shape[1], first.shape[1], config)
    smooth = deepcopy(critic)
    chosen[1] = chosen[1][:_CHECKED]
    held = [(scale(x[rows]), scale_y(outcome(rows, generator))) for rows in chosen[1:]]
    optimizer = torch.optim.AdamW(critic.parameters(), lr=config.lr, weight_decay=1e-4)
    # A constant critic shows 0 without any pair; a trained one counts where it shows more.
    best, best_state, best_step, waited, average = 0.0, None, 0, 0, None
    for step in range(1, config.steps + 1):
        rows = chosen[0][torch.randint(len(chosen[0]), (min(config.batch, len(chosen[0])),), generator=generator)]
        values = critic(scale(x[rows]), scale_y(outcome(rows, generator)))
        if bound == "mine":
            log_mean = _log_mean_exp_off_diagonal(values)
            now = log_mean.detach()
            average = (
                now
                if average is None
                else torch.logaddexp(average + float(np.log(config.decay)), now + float(np.log1p(-config.decay)))
            )
            # The gradient of exp(log_mean) over its moving average instead of over its own value.
            loss = (log_mean - average).exp() - values.diagonal().mean()
        else:
            loss = -info_nce(values)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        _move(smooth, critic, min(config.smoothing, (1 + step) / (10 + step)))
        if step % config.check_every == 0:
            value = _value(smooth, *held[0], bound, config)
            if value > best:
                best, best_state, best_step, waited = value, _copy(smooth), step, 0
            else:
                waited += 1
                if waited >= config.patience:
                    break
    if best_state is None:
        return Estimate(0.0, len(held[1][0]), 0)
    smooth.load_state_dict(best_state)
    return Estimate(_value(smooth, *held[1], bound, config), len(held[1][0]), best_step)


@torch.no_grad()
def _value(critic: Critic, x: Tensor, y: Tensor, bound: str, config: EstimatorConfig) -> float:
    """The bound of all pairs; memory is bounded by blocks."""
    if bound == "infonce":
        blocks = [
            critic(x[low : low + config.batch], y[low : low + config.batch]) for low in _full(len(x), config.batch)
        ]
        return float(np.mean([float(info_nce(block)) for block in blocks]))
    joint, outside = [], []
    for low in range(0, len(x), _BLOCK):
        values = critic(x[low : low + _BLOCK], y)  # (block, R)
        own = torch.arange(len(values)), torch.arange(low, low + len(values))
        joint.append(values[own].double())
        values[own] = -torch.inf
        outside.append(values.flatten().logsumexp(0).double())
    count = len(x)
    return float(torch.cat(joint).mean() - torch.stack(outside).logsumexp(0) + np.log(count * (count - 1)))


@torch.no_grad()
def _move(smooth: nn.Module, module: nn.Module, decay: float) -> None:
    """One step of a moving average of weights; the first ones are averaged over fewer steps."""
    for slow, fast in zip(smooth.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def _full(count: int, size: int) -> range:
    """Starts of whole blocks, one at least."""
    return range(0, max(count - size + 1, 1), size)


def _parts(groups: int | np.ndarray, seed: int) -> np.ndarray:
    """0, 1 or 2 per row: six tenths, one tenth and the rest, whole groups together."""
    names = np.arange(groups) if isinstance(groups, int) else np.unique(groups, return_inverse=True)[1]
    share = hashing.draw(hashing.key("information-parts", seed), np.arange(names.max() + 1)) / 2.0**64
    return np.digitize(share, [0.6, 0.7])[names]


@dataclass(frozen=True)
class _Scale:
    """Shift and scale of the training part, applied to all."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(values: Tensor) -> "_Scale":
        deviation = values.std(0)
        # A constant column tells nothing and must not blow up.
        return _Scale(values.mean(0), torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation)))

    def __call__(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def fixed(y: Tensor) -> Outcome:
    """The outcome that was observed, (R, d_y)."""
    return lambda rows, _: y[rows]


def bernoulli(probability: Tensor) -> Outcome:
    """A 0 or 1 drawn with the probability of each row, (R,)."""
    return lambda rows, generator: torch.bernoulli(probability[rows], generator=generator)[:, None]


def entropy(probability: np.ndarray | float) -> np.ndarray:
    """Entropy of a Bernoulli variable in nats, elementwise."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-300, 1.0)
    q = np.clip(1 - np.asarray(probability, dtype=np.float64), 1e-300, 1.0)
    return -(p * np.log(p) + q * np.log(q))


def exact_information(probability: np.ndarray) -> float:
    """I(X; Y) for a Bernoulli Y with p(y = 1 | x) known on a sample of x, (R,): H(mean p) - mean H(p)."""
    return float(entropy(np.mean(probability)) - np.mean(entropy(probability)))


def gaussian_information(signal: float, noise: float) -> float:
    """I(X; w'X + e) in nats for Gaussian X and e; the variances of w'X and e (paper, eq. 14)."""
    return float(0.5 * np.log1p(signal / noise))
