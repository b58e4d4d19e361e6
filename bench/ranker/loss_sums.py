"""Sums of the loss and its parts over the steps between two checkpoints, added up on the device."""

import math

import torch
from torch import Tensor

from bench.errors import RunError

# Reading a number makes a GPU wait for its queue, so there it is read every so many steps.
_READ_EVERY = 50


class LossSums:
    """Adds up losses without waiting for the device.

    Args:
        device: of the losses.
        place: of the steps, for messages ("epoch 3 of stage 'fit'").
        step: number of the first step in it, from 1.
    """

    def __init__(self, device: torch.device, place: str, step: int):
        self._device, self._place = device, place
        self._unread, self._count = step, 0
        self._every = 1 if device.type == "cpu" else _READ_EVERY
        self._exact = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}
        self._last = math.nan

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """Add the loss of a batch, a scalar, and its named parts."""
        self._count += 1
        for name, value in {"loss": loss, **parts}.items():
            number = torch.as_tensor(value, device=self._device).detach().to(self._exact)
            self._sums[name] = self._sums[name] + number if name in self._sums else number

    def read(self, step: int, loss: Tensor, last: bool) -> float:
        """After the batches of a step: its loss, or the one read last where reading now would cost time.

        Args:
            step: its number in `place`, from 1.
            loss: of its last batch.
            last: whether it is the last one before `means`.

        Raises:
            RunError: a loss since the last reading is not finite.
        """
        if step % self._every and not last:
            return self._last
        self._last = float(loss.detach())
        if not math.isfinite(float(self._sums["loss"])):
            steps = f"step {step}" if step == self._unread else f"steps {self._unread} to {step}"
            raise RunError(f"the loss is not finite in {steps} of {self._place}; a smaller lr may help")
        self._unread = step + 1
        return self._last

    def means(self) -> dict[str, float]:
        """`train/loss` and `train/<part>`, means over the batches."""
        return {f"train/{name}": float(total) / self._count for name, total in self._sums.items()}
