"""A fit that is interrupted in each of its stages ends as if it had not been."""

import copy
from typing import Any

import torch

from bench.ranker.contract import Ranker, TrainConfig
from bench.testing.report import Failed, NotApplicable
from bench.testing.subject import RisingValidation, Subject

EPOCHS = 3


class Interrupted(Exception):
    """Stands for the end of the process."""


class RecordedCheckpoints:
    """Checkpoints that remember the stage of every save, and may interrupt the fit after one of them.

    Args:
        interrupt_after: number of the save, from 1; 0 = never.
        stored: what an interrupted fit left.
    """

    def __init__(self, interrupt_after: int = 0, stored: dict[str, Any] | None = None):
        self.stages: list[str] = []
        self.stored = stored
        self._interrupt_after = interrupt_after

    def save(self, state: dict[str, Any]) -> None:
        """Store a copy; the tensors of a running fit change in place."""
        self.stored = copy.deepcopy(state)
        self.stages.append(str(state.get("stage", "")))
        if len(self.stages) == self._interrupt_after:
            raise Interrupted

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None."""
        return copy.deepcopy(self.stored)


class Steps:
    """Progress that counts optimiser steps."""

    def __init__(self) -> None:
        self.taken = 0

    def begin(self, epochs: int) -> None:
        """A stage begins."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Count it."""
        self.taken += 1

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """An epoch is done."""


def resume(subject: Subject) -> str:
    """A fit that is interrupted in each stage resumes from its checkpoint and ends with the same bytes.

    A resumed fit may repeat the epoch in which it was interrupted. Here that is none, for the interruption comes right
    after a checkpoint; a table that `context.cached` builds counts no steps.
    """
    if not issubclass(subject.cls.Config, TrainConfig):
        raise NotApplicable("it has no training settings: a closed form")
    whole, whole_steps = RecordedCheckpoints(), Steps()
    expected = _fit(subject, whole, whole_steps).state()
    if not whole.stages:
        raise Failed("its fit saves nothing to `context.checkpoints`, so an interrupted one starts over")
    stages = list(dict.fromkeys(whole.stages))
    for stage in stages:
        # The middle of its saves: some steps are done and some are left.
        saves = [number for number, name in enumerate(whole.stages, 1) if name == stage]
        at = saves[len(saves) // 2]
        first, first_steps = RecordedCheckpoints(at), Steps()
        try:
            _fit(subject, first, first_steps)
        except Interrupted:
            pass
        else:
            raise Failed(f"a second fit saves fewer checkpoints than the first one ({len(first.stages)} of {at})")
        second_steps = Steps()
        # A new process: the global generators stand elsewhere.
        stored = RecordedCheckpoints(stored=first.stored)
        resumed = _fit(subject, stored, second_steps, seed=99, validation=0.9).state()
        where = f"interrupted in stage '{stage}'" if stage else "interrupted"
        different = [name for name, value in expected.items() if not _same(value, resumed.get(name))]
        if different:
            shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
            raise Failed(f"{where} and resumed, the fit ends with other values of {shown}")
        if first_steps.taken + second_steps.taken > whole_steps.taken:
            repeated = first_steps.taken + second_steps.taken - whole_steps.taken
            raise Failed(f"{where} right after a checkpoint, the resumed fit repeats {repeated} steps")
    return f"resumed in {len(stages)} stage{'s' * (len(stages) > 1)} with equal bytes"


def _fit(
    subject: Subject, checkpoints: RecordedCheckpoints, steps: Steps, seed: int = 0, validation: float = 0.5
) -> Ranker:
    """A fit of several epochs per stage, from initial weights that are always the same.

    Args:
        subject: the model.
        checkpoints: what it resumes from, if anything, and where it saves.
        steps: counts its optimiser steps.
        seed: of the global generators during the fit.
        validation: value before the first check; in a resumed fit above all that the interrupted one saw.
    """
    known = subject.cls.Config.model_fields
    epochs = {key: EPOCHS for key in known if key == "epochs" or key.endswith("_epochs")}
    config = subject.settings(patience=EPOCHS, max_steps=0, steps_per_epoch=2, **epochs)
    model = subject.build(config, checkpoints=checkpoints, progress=steps, cached=False)
    torch.manual_seed(seed)
    model.fit(subject.train, RisingValidation(subject.tasks, validation))
    return model


def _same(expected: torch.Tensor, value: torch.Tensor | None) -> bool:
    return value is not None and expected.shape == value.shape and torch.equal(expected.cpu(), value.cpu())


CHECKS = {"resume": resume}
