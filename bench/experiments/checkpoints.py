"""Files of an unfinished fit: its checkpoint and its curve."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.experiments.progress import FitView
from bench.files import write_atomically
from bench.messages import first_line
from bench.store.records import REMEDY


class DiskCheckpoints:
    """The contract's `Checkpoints` as one file, replaced at once.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self._path = path

    def save(self, state: dict[str, Any]) -> None:
        """Replace the stored state.

        Raises:
            RunError: the disk is full, the folder read-only.
        """
        import torch

        write_atomically(self._path, lambda scratch: torch.save(state, scratch), REMEDY)

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None.

        Raises:
            RunError: the file is not readable.
        """
        import torch

        if not self._path.exists():
            return None
        try:
            return torch.load(self._path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise RunError(
                f"the checkpoint {self._path} is not readable ({first_line(error)}); start over with --force"
            ) from error


class Curve(FitView):
    """Writes one line per epoch and check of each stage to curve.jsonl and passes everything on.

    Args:
        path: of the file.
        view: what else hears of the fit.
    """

    def __init__(self, path: Path, view: FitView):
        self._path, self._view = path, view
        # Called once a step: handed on without a detour.
        self.begin, self.step, self.ranking = view.begin, view.step, view.ranking  # type: ignore[method-assign]

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Add a line; steps that are repeated after an interruption replace their first attempt."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        lines = list(takewhile(lambda line: not _repeats(json.loads(line), values), lines))
        text = "\n".join([*lines, json.dumps({"epoch": epoch, **values})]) + "\n"
        write_atomically(self._path, lambda scratch: scratch.write_text(text), REMEDY)
        self._view.epoch(epoch, values)


def _repeats(line: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether a line of the curve is about a step of a stage that `values` reaches again."""
    return line["stage"] == values["stage"] and line["step"] >= values["step"]
