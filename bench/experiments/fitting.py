"""A model is made, fitted, loaded and ranked: where it meets data, seeds and files.

This file is part of the key of every fit.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.data import sources
from bench.data.batch import task_codes
from bench.data.training import TrainData
from bench.errors import BenchError, RunError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.ranks import Ranks
from bench.evaluation.scoring import RowValidation, rank
from bench.evaluation.top_lists import TopCollector, TopLists
from bench.experiments.checkpoints import Curve, DiskCheckpoints
from bench.experiments.code_hash import builder_sources
from bench.experiments.prepared_data import PreparedData
from bench.experiments.progress import FitView
from bench.files import write_atomically
from bench.messages import first_line
from bench.ranker import backbone
from bench.ranker.config import Config
from bench.ranker.context import Context, Listener
from bench.ranker.ranker import Ranker
from bench.store.records import REMEDY
from bench.store.results import CURVE, WEIGHTS, checked_file

VALIDATION_SEED = 0
CHECKPOINT = "checkpoint.pt"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Fitting:
    """A model with complete settings on opened data, and the folder of its run."""

    name: str
    cls: type[Ranker]
    config: Config
    tasks: tuple[str, ...]
    seed: int
    prepared: PreparedData
    device: str
    threads: int
    folder: Path

    def fit(
        self,
        view: FitView,
        listener: Listener | None = None,
        validation_rows: int = 0,
        created: Callable[[Ranker, TrainData], None] | None = None,
    ) -> tuple[Ranker, dict[str, Any], dict[str, Any]]:
        """Fit from the last checkpoint in the folder, and write the weights there.

        Args:
            view: hears of steps and epochs.
            listener: hears of the checks and may end the fit.
            validation_rows: at most so many validation rows per task, 0 means all.
            created: called with the untrained model and its training data, for a listener that looks at both.

        Returns:
            the fitted model; facts of the fit, with the metrics of the validation rows under "validation"; evidence.

        Raises:
            RunError: the model fails, or a file cannot be written.
        """
        model = self._new_ranker(view, listener)
        train = TrainData(self.prepared.batches, self.tasks, self.seed)
        if created is not None:
            created(model, train)
        valid = self._guarded(lambda: self._validation(model, view, validation_rows))
        facts = self._guarded(lambda: model.fit(train, valid))
        if train.left_out:
            facts |= {"training_rows_left_out": train.left_out}
        state = {name: value.clone() for name, value in model.state().items()}
        write_atomically(self.folder / WEIGHTS, lambda scratch: save_file(state, scratch), REMEDY)
        _to_scoring(model)
        with model.scoring():
            metrics = self._guarded(lambda: valid.evaluate(lambda batch: model.score(batch).float()))
        evidence = {"validation": valid.candidates.label, "validation candidates": valid.candidates.fingerprint}
        if left_out := valid.candidates.meta.get("left_out"):
            evidence["validation rows left out"] = f"{left_out['rows']} (users {left_out['users']})"
        return model, facts | {"validation": metrics}, model.evidence() | evidence

    def load(self) -> Ranker:
        """The fitted model from the weights in the folder.

        Raises:
            RunError: the weights are missing, changed, or of another version of the model.
        """
        model = self._new_ranker(FitView(), None)
        path = checked_file(self.folder, WEIGHTS)
        try:
            model.load_state(load_file(path))
        except Exception as error:
            raise RunError(
                f"{path} does not fit this version of {self.name} ({first_line(error)}); repeat the run with --force"
            ) from error
        if isinstance(model, torch.nn.Module):
            model.to(self.device)
        return model

    def rank(
        self, model: Ranker, candidates: CandidateSet, view: FitView, top_lists: bool = False
    ) -> tuple[Ranks, TopLists | None]:
        """Rank the test rows of the tasks that the model serves.

        Args:
            model: the fitted model.
            candidates: what is ranked.
            view: hears of the progress.
            top_lists: also return the best candidates of every row.

        Raises:
            RunError: the model fails, or a score is not finite.
        """
        chosen = _of_tasks(candidates, self.prepared, self.tasks)
        events = self.prepared.log.events
        top = TopCollector(events.event_id[chosen.rows], events.task[chosen.rows]) if top_lists else None
        _to_scoring(model)
        with model.scoring():
            ranks = self._guarded(
                lambda: rank(
                    model,
                    self.prepared.batches,
                    chosen,
                    model.window,
                    device=self.device,
                    model=self.name,
                    tick=view.ranking,
                    top=top,
                )
            )
        return ranks, top.lists(ranks.meta) if top else None

    def _new_ranker(self, view: FitView, listener: Listener | None) -> Ranker:
        context = Context(
            self.prepared.catalog,
            seed=self.seed,
            tasks=self.tasks,
            device=self.device,
            cache=self._cached,
            backbones=backbone.load,
            progress=Curve(self.folder / CURVE, view),
            checkpoints=DiskCheckpoints(self.folder / CHECKPOINT),
            listener=listener,
        )
        # Initial weights come from the global generator; each fit starts it anew from its own seed.
        torch.manual_seed(context.generator("init").initial_seed())
        return self._guarded(lambda: self.cls(self.config, context))

    def _validation(self, model: Ranker, view: FitView, limit: int) -> RowValidation:
        return RowValidation(
            self.prepared.batches,
            self.tasks,
            model.window,
            device=self.device,
            model=self.name,
            seed=VALIDATION_SEED,
            limit=limit,
            tick=view.ranking,
            # The state that a fit ends with is as a rule one that it has checked.
            state=lambda: _fingerprint(model.state()),
        )

    def _cached(self, name: str, key: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors from the cache under the data folder, built where they are not there."""
        data = (self.prepared.log.fingerprint, self.prepared.split.label)
        parts = [name, key, *data, builder_sources(build), torch.device(self.device).type, str(self.threads)]
        stem = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        path = sources.data_root(self.prepared.root) / "cache" / f"{name}-{stem}.safetensors"
        if path.exists():
            return load_file(path)
        state = {entry: value.detach().cpu().contiguous().clone() for entry, value in build().items()}
        write_atomically(
            path, lambda scratch: save_file(state, scratch), "free space or choose another folder with --data"
        )
        return state

    def _guarded(self, work: Callable[[], _Result]) -> _Result:
        """Run a model's code; whatever it raises becomes one line that names the model."""
        try:
            return work()
        except BenchError as error:
            text = str(error)
            raise type(error)(text if self.name in text else f"{self.name}: {text}") from error
        except BrokenPipeError:
            # The terminal's end, met while reporting progress: not the model's fault.
            raise
        except MemoryError as error:
            raise RunError(f"{self.name}: out of memory; a smaller batch_size may help") from error
        except Exception as error:
            line = f"{type(error).__name__}: {first_line(error)}"
            raise RunError(f"{self.name} failed: {line} (--debug shows where)") from error


def _to_scoring(model: Ranker) -> None:
    if isinstance(model, torch.nn.Module):
        model.eval()


def _fingerprint(state: dict[str, Tensor]) -> str:
    """A hash of everything learnt."""
    digest = hashlib.blake2b()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _of_tasks(candidates: CandidateSet, prepared: PreparedData, tasks: tuple[str, ...]) -> CandidateSet:
    """The lists of the tasks that a model serves."""
    served = np.isin(prepared.log.events.task[candidates.rows], task_codes(tasks))
    if served.all():
        return candidates
    items = None if candidates.items is None else candidates.items[served]
    return CandidateSet(candidates.rows[served], items, candidates.position[served], candidates.meta)
