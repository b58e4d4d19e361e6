"""Ranking losses: plain functions of scores.

B rows; N negatives of a row, or M negatives that all rows share; V items.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossType = Literal["CE", "sampled-CE", "BCE", "BPR"]


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of a click against its negatives, the mean over all B * (1 + N) labels.

    Args:
        positive: (B,) logits of the clicked items.
        negative: (B, N) logits of the sampled items.
    """
    scores = torch.cat([positive[:, None], negative], 1)  # (B, 1 + N)
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1
    return F.binary_cross_entropy_with_logits(scores, labels)


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log sigmoid(s+ - s-) over all pairs (Rendle et al., UAI 2009, eq. 4).

    Args:
        positive: (B,) scores of the clicked items.
        negative: (B, N) scores of the sampled items.
    """
    return F.softplus(negative - positive[:, None]).mean()


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    log_q_positive: Tensor,
    log_q_negative: Tensor,
    hit: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the clicked item and sampled ones, each logit lowered by log q, in expectation near the full one.

    Bengio and Senecal (2008); the correction as in Yi et al. (RecSys 2019, eq. 3).

    Args:
        positive: (B,) logits of the clicked items.
        negative: (B, N) logits of the sampled items.
        log_q_positive: (B,) log of the expected number of times that the item is in the sample.
        log_q_negative: (N,) or (B, N), the same of the sampled items; log(N / V) for all of them where the draw is uniform.
        hit: (B, N) bool, True where a sampled item is the clicked one; it is left out.

    Returns:
        the mean over the rows, a scalar.
    """
    others = negative - log_q_negative  # (B, N)
    if hit is not None:
        others = others.masked_fill(hit, -torch.inf)
    logits = torch.cat([(positive - log_q_positive)[:, None], others], 1)  # (B, 1 + N)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def full_softmax(queries: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the whole catalogue, a scalar.

    Args:
        queries: (B, d) vectors of the rows.
        items: (V + 1, d) vectors of the items; row 0 is padding and no candidate.
        target: (B,) clicked items, from 1.
    """
    return F.cross_entropy(queries @ items[1:].T, target - 1)  # (B, V)


def of_products(kind: LossType, rows: Tensor, items: Tensor, clicked: Tensor, negatives: Tensor | None) -> Tensor:
    """The loss of that name where the score is an inner product, a scalar.

    Args:
        kind: "CE" over the whole catalogue, or "sampled-CE", "BCE" or "BPR" against the sampled items.
        rows: (B, d) vectors of the rows.
        items: (V + 1, d) vectors of the items, row 0 = padding.
        clicked: (B,) clicked items, from 1.
        negatives: (B, N) sampled items, drawn uniformly; "CE" reads none.

    Raises:
        ValueError: there are no negatives for a loss that reads them.
    """
    if kind == "CE":
        return full_softmax(rows, items, clicked)
    if negatives is None or not negatives.shape[1]:
        raise ValueError(f"the loss {kind} reads sampled items; set negatives to at least 1")
    positive = (rows * items[clicked]).sum(-1)  # (B,)
    negative = (rows[:, None] * items[negatives]).sum(-1)  # (B, N)
    if kind == "BCE":
        return bce(positive, negative)
    if kind == "BPR":
        return bpr(positive, negative)
    # Every item is as likely to be drawn, so that the correction is the same for all and cancels out.
    return sampled_softmax(positive, negative, torch.zeros_like(positive), torch.zeros_like(negative))
