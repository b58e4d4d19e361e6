"""Two augmented views of one training sequence (CL4SRec: Xie et al., ICDE 2022, section 3.3)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from bench.data import hashing
from bench.data.batch import SequenceBatch, ViewPair
from bench.data.sequences import SequenceStream

_CROP, _MASK, _REORDER = range(3)


@dataclass(frozen=True)
class Augment:
    """Shares of a sequence that the operators touch; each view takes one operator, all equally likely.

    Defaults are RecBole's for CL4SRec. A rate of None leaves the operator out.

    Args:
        crop: share that a contiguous part of the sequence keeps.
        mask: share of units that are hidden.
        reorder: share of a contiguous part whose units are shuffled.
    """

    crop: float | None = 0.6
    mask: float | None = 0.3
    reorder: float | None = 0.6

    def __post_init__(self) -> None:
        """Check the rates.

        Raises:
            ValueError: a rate outside [0, 1], or no operator.
        """
        rates = [rate for rate in (self.crop, self.mask, self.reorder) if rate is not None]
        if not rates or any(not 0 <= rate <= 1 for rate in rates):
            raise ValueError(f"rates of augmentation lie in [0, 1] and one is not None, not {self}")


class ViewStream:
    """Two views of each window that `sequences` shows, and the window itself."""

    def __init__(self, sequences: SequenceStream, seed: int, augment: Augment):
        self._sequences = sequences
        self._seed = seed
        self._augment = augment

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the windows of all users."""
        return self._sequences.steps_per_pass

    def batches(self, start: int, count: int) -> Iterator[ViewPair]:
        """Steps `start` to `start + count` (exclusive); the same (seed, step) gives the same batch."""
        for step in range(start, start + count):
            number, user, window = self._sequences.windows(step)
            (batch,) = self._sequences.batches(step, 1)
            # One stream of draws per view and window, whatever else stands in the batch.
            first, second = (
                augmented(
                    batch, self._augment, hashing.draw(hashing.key("views", self._seed, number, view), user, window)
                )
                for view in ("first", "second")
            )
            yield ViewPair(first, second, batch)


def augmented(batch: SequenceBatch, augment: Augment, keys: np.ndarray) -> SequenceBatch:
    """One view of every sequence.

    Units move as a whole: times, tasks and queries go with their items. The result has no negatives, and `instant`
    says nothing after `reorder`, so that a view serves a loss over the whole sequence only.

    Args:
        batch: B sequences of L positions.
        augment: the operators and their rates.
        keys: (B,) uint64, the row's draws.
    """
    known = [(_CROP, augment.crop), (_MASK, augment.mask), (_REORDER, augment.reorder)]
    usable = [(operator, rate) for operator, rate in known if rate is not None]
    length, width = batch.length.numpy(), batch.items.shape[1]
    which = hashing.below(hashing.draw(hashing.key("view-operator"), keys), len(usable))
    operator = np.asarray([operator for operator, _ in usable])[which]
    # Units in the cropped part, hidden units or units of the shuffled part.
    size = np.floor(np.asarray([rate for _, rate in usable])[which] * length).astype(np.int64)
    size = np.where(operator == _CROP, np.maximum(size, np.minimum(length, 1)), size)
    begin = hashing.below(hashing.draw(hashing.key("view-begin"), keys), length - size + 1)
    column = np.arange(width)
    position = np.broadcast_to(column, (len(length), width))
    chance = hashing.draw(hashing.key("view-position"), keys[:, None], column) >> np.uint64(1)  # (B, L)
    far = np.uint64(2**63)
    real = column < length[:, None]

    cropped = np.minimum(begin[:, None] + column, width - 1)
    inside = (column >= begin[:, None]) & (column < (begin + size)[:, None])
    # Shuffle inside the part, leave the rest where it is: sort by (before, inside, after, and inside by chance).
    section = np.where(inside, 1, np.where(column < begin[:, None], 0, 2))
    shuffled = np.lexsort((np.where(inside, chance, position.astype(np.uint64)), section), axis=1)
    source = np.where((operator == _CROP)[:, None], cropped, position)
    source = np.where((operator == _REORDER)[:, None], shuffled, source)
    rank = np.argsort(np.argsort(np.where(real, chance, far), axis=1, kind="stable"), axis=1)
    hidden = (operator == _MASK)[:, None] & (rank < size[:, None]) & real
    length = np.where(operator == _CROP, size, length)

    index = torch.from_numpy(np.ascontiguousarray(source))
    kept = torch.from_numpy(column < length[:, None])
    columns = {}
    for each in fields(batch):
        value = getattr(batch, each.name)
        if each.name in ("user", "length", "negatives", "masked"):
            continue
        at = index.reshape(*index.shape, *[1] * (value.dim() - 2)).expand(*index.shape, *value.shape[2:])
        columns[each.name] = value.gather(1, at) * kept.reshape(*kept.shape, *[1] * (value.dim() - 2))
    masked = torch.from_numpy(hidden)
    columns["items"] = columns["items"] * ~masked
    columns["clicks"] = columns["clicks"] * ~masked[..., None]
    columns["queries"] = columns["queries"] * ~masked
    return replace(batch, **columns, length=torch.from_numpy(length), negatives=None, masked=masked)
