"""What models without training share: a state of plain tensors, and tables of values for pairs of ids."""

import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.ragged import Ragged
from bench.ranker.contract import Batch, Config, Context, Ranker, TrainData, Validation


class ClosedForm(Ranker):
    """Base of models whose `fit` is one pass of counting: define `learn` and `score`.

    `self.learnt` holds the tensors on the device of the run.
    """

    def __init__(self, config: Config, context: Context):
        super().__init__(config, context)
        self.learnt: dict[str, Tensor] = {}

    @abstractmethod
    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """The state, from the training events (and the catalogue)."""

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """Count once; `valid` is not looked at."""
        started = time.perf_counter()
        self.load_state(self.learn(train))
        return {"epochs": 0, "converged": True, "parameters": 0, "seconds": time.perf_counter() - started}

    def state(self) -> dict[str, Tensor]:
        """The learnt tensors on the CPU."""
        return {name: value.cpu().contiguous() for name, value in self.learnt.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over learnt tensors, on the device of the run."""
        self.learnt = {name: value.to(self.context.device) for name, value in state.items()}


@dataclass(frozen=True)
class PairTable:
    """float32 values of pairs of ids (row, column), 0 for every pair that is not in it; column < `width`.

    Two flat tensors, so memory is that of the pairs that occur and a look-up is one binary search.
    """

    keys: Tensor  # (n,) int64, ascending: row * width + column
    values: Tensor  # (n,) float32
    width: int

    def lookup(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Values of the pairs, rows and columns broadcast together; float32."""
        wanted = rows * self.width + columns
        if not len(self.keys):
            return torch.zeros(wanted.shape, device=wanted.device)
        index = torch.searchsorted(self.keys, wanted.contiguous()).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[index] == wanted, self.values[index], 0.0)

    def state(self, name: str) -> dict[str, Tensor]:
        """The two tensors, named after the table."""
        return {f"{name}.keys": self.keys, f"{name}.values": self.values}

    @classmethod
    def of(cls, state: dict[str, Tensor], name: str, width: int) -> "PairTable":
        """The table that `state` of a table called `name` holds."""
        return cls(state[f"{name}.keys"], state[f"{name}.values"], width)

    @classmethod
    def count(cls, rows: np.ndarray, columns: np.ndarray, width: int) -> "PairTable":
        """How often each pair occurs; pairs with a padding id (0) are left out."""
        real = (rows > 0) & (columns > 0)
        keys, counts = np.unique(rows[real].astype(np.int64) * width + columns[real], return_counts=True)
        return cls(torch.from_numpy(keys), torch.from_numpy(counts.astype(np.float32)), width)

    @classmethod
    def of_lists(cls, lists: Ragged, width: int) -> "PairTable":
        """How often each value stands in each list."""
        return cls.count(lists.owners(), lists.values.astype(np.int64), width)


def item_counts(train: TrainData, n_items: int) -> Tensor:
    """(n_items + 1,) float32: training events of each item, of both tasks."""
    return torch.from_numpy(np.bincount(train.arrays()["item"], minlength=n_items + 1).astype(np.float32))


def past_items(batch: Batch) -> Tensor:
    """(B, Lr + Ls * Cs) items of both behaviours in the history, in no particular order, 0 = none."""
    rec = batch.rec_items.masked_fill(~batch.rec_mask, 0)
    return torch.cat([rec, batch.search_items.masked_fill(~batch.search_click_mask, 0).flatten(1)], 1)


def tie_breaks(counts: Tensor) -> Tensor:
    """The counts' order as evenly spaced values in [0, 1), equal counts alike.

    Added to whole numbers they break ties and nothing else. The values are 1 / (number of different counts) apart, so
    float32 keeps them apart (there are at most sqrt(2 * events) different counts), where counts divided by their
    maximum may merge.
    """
    levels, level = torch.unique(counts, return_inverse=True)
    return level.float() / len(levels)


def distinct(words: Tensor) -> Tensor:
    """Word ids (..., W) with every repetition in a row replaced by 0 (padding); the order changes."""
    ordered = words.sort(dim=-1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return ordered.masked_fill(repeated, 0)
