"""One fit: its key, its context, its record, and the ranking of a finished fit on candidates."""

import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.data import sources
from bench.data.batch import task_codes
from bench.data.training import TrainData
from bench.errors import BenchError, RunError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.scoring import RowValidation, rank
from bench.experiments.prepared_data import PreparedData
from bench.experiments.progress import FitView
from bench.ranker import backbone
from bench.ranker.config import Config
from bench.ranker.context import Context
from bench.ranker.ranker import Ranker
from bench.store import environment
from bench.store.results import Evaluation, RunRecord, Store, keep, now

VALIDATION_SEED = 0


@dataclass
class Job:
    """One fit that a command asks for: a model with complete settings and a seed on a data set."""

    name: str
    cls: type[Ranker]
    config: Config
    tasks: tuple[str, ...]
    seed: int
    budget: str
    prepared: PreparedData
    device: str
    threads: int

    def __post_init__(self) -> None:
        self.code = environment.source_hash(self.cls.__module__)
        parts = {
            "data": self.prepared.log.fingerprint,
            "split": self.prepared.split.label,
            "validation": ["uniform", VALIDATION_SEED],
            "model": self.name,
            "config": self.config.model_dump(),
            "tasks": self.tasks,
            "budget": self.budget,
            "device": torch.device(self.device).type,
            "threads": self.threads,
            "seed": self.seed,
            "code": self.code,
        }
        self.key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def id(self) -> str:
        return f"{self.name.replace(':', '-')}-s{self.seed}-{self.key[:12]}"

    @property
    def label(self) -> str:
        """For the terminal."""
        return f"{self.name} (seed {self.seed})"


def fit(
    job: Job, store: Store, view: FitView, *, fresh: bool, root: str | Path | None
) -> tuple[Ranker, RunRecord, Path]:
    """Fit a job in its `.part` folder, from the last checkpoint unless `fresh`.

    Returns the fitted model, its record without evaluations, and the folder.
    """
    folder = store.part(job.prepared.name, job.id)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write to {folder.parent}: {error.strerror}; choose another folder with --out"
        ) from error
    started, clock = now(), time.perf_counter()
    ranker = _construct(job, _context(job, folder, view, root))
    train = TrainData(job.prepared.batches, job.tasks, job.seed)
    valid = RowValidation(
        job.prepared.batches,
        job.tasks,
        ranker.window,
        device=job.device,
        model=job.name,
        seed=VALIDATION_SEED,
        tick=view.ranking,
    )
    facts = _guard(job, lambda: ranker.fit(train, valid))
    state = {name: value.clone() for name, value in ranker.state().items()}
    _write(folder / "weights.safetensors", lambda path: save_file(state, path))
    record = RunRecord(
        id=job.id,
        fit_key=job.key,
        kind="fit",
        model=job.name,
        title=job.cls.entry.title,  # type: ignore[attr-defined]
        group=job.cls.entry.group,  # type: ignore[attr-defined]
        tasks=list(job.tasks),
        seed=job.seed,
        budget=job.budget,
        config=job.config.model_dump(),
        dataset=job.prepared.record(),
        device=job.device,
        threads=job.threads,
        code=job.code,
        fit=facts,
        evidence=ranker.evidence()
        | {"validation": valid.candidates.label, "validation candidates": valid.candidates.fingerprint},
        environment=environment.facts() | {"command": environment.command_line()},
        started=started,
        seconds=time.perf_counter() - clock,
        peak_memory_mb=peak_memory_mb(),
    )
    return ranker, record, folder


def load(job: Job, folder: Path, root: str | Path | None) -> Ranker:
    """A fitted model from its weights."""
    ranker = _construct(job, _context(job, folder, FitView(), root))
    path = folder / "weights.safetensors"
    try:
        ranker.load_state(load_file(path))
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing, so {job.name} cannot be ranked again; repeat the run with --force"
        ) from None
    except Exception as error:
        raise RunError(
            f"{path} does not fit this version of {job.name} ({_line(error)}); repeat the run with --force"
        ) from error
    if isinstance(ranker, torch.nn.Module):
        ranker.to(job.device).eval()
    return ranker


def evaluate(ranker: Ranker, job: Job, candidates: CandidateSet, folder: Path, view: FitView) -> Evaluation:
    """Rank the test rows of the job's tasks and leave the ranks in the run's folder."""
    clock = time.perf_counter()
    chosen = _for_tasks(candidates, job)
    if isinstance(ranker, torch.nn.Module):
        ranker.eval()
    ranks = _guard(
        job,
        lambda: rank(
            ranker.score,
            job.prepared.batches,
            chosen,
            ranker.window,
            device=job.device,
            model=job.name,
            tick=view.ranking,
        ),
    )
    leaks = job.prepared.leaks(candidates)
    return keep(ranks, folder, job.name, candidates, leaks, time.perf_counter() - clock)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, or of the GPU where one is used, in MB."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class DiskCheckpoints:
    """The contract's `Checkpoints` as one file, replaced at once."""

    def __init__(self, path: Path):
        self._path = path

    def save(self, state: dict[str, Any]) -> None:
        _write(self._path, lambda path: torch.save(state, path))

    def load(self) -> dict[str, Any] | None:
        if not self._path.exists():
            return None
        try:
            return torch.load(self._path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise RunError(
                f"the checkpoint {self._path} is not readable ({_line(error)}); start over with --force"
            ) from error


class _Curve(FitView):
    """Writes one line per epoch and check of each stage to curve.jsonl and passes everything on."""

    def __init__(self, path: Path, view: FitView):
        self._path, self._view = path, view
        self.begin, self.step, self.ranking = view.begin, view.step, view.ranking  # type: ignore[method-assign]

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        # Steps that were repeated after an interruption replace their first attempt.
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = list(takewhile(lambda line: not _repeats(json.loads(line), values), lines))
        text = "\n".join([*kept, json.dumps({"epoch": epoch, **values})]) + "\n"
        _write(self._path, lambda path: path.write_text(text))
        self._view.epoch(epoch, values)


def _repeats(line: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether a line of the curve is about a step of a stage that `values` reaches again."""
    return line["stage"] == values["stage"] and line["step"] >= values["step"]


def _context(job: Job, folder: Path, view: FitView, root: str | Path | None) -> Context:
    def cached(name: str, key: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        parts = [name, key, job.prepared.log.fingerprint, job.prepared.split.label, job.code, str(job.threads)]
        stem = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        path = sources.data_root(root) / "cache" / f"{name}-{stem}.safetensors"
        if path.exists():
            return load_file(path)
        state = {entry: value.detach().cpu().contiguous().clone() for entry, value in build().items()}
        _write(path, lambda target: save_file(state, target))
        return state

    return Context(
        job.prepared.catalog,
        seed=job.seed,
        tasks=job.tasks,
        device=job.device,
        cache=cached,
        backbones=backbone.load,
        progress=_Curve(folder / "curve.jsonl", view),
        checkpoints=DiskCheckpoints(folder / "checkpoint.pt"),
    )


def _construct(job: Job, context: Context) -> Ranker:
    # Initial weights come from the global generator; each fit starts it anew from its own seed.
    torch.manual_seed(context.generator("init").initial_seed())
    return _guard(job, lambda: job.cls(job.config, context))


def _for_tasks(candidates: CandidateSet, job: Job) -> CandidateSet:
    """The lists of the tasks that the model serves."""
    kept = np.isin(job.prepared.log.events.task[candidates.rows], task_codes(job.tasks))
    if kept.all():
        return candidates
    items = None if candidates.items is None else candidates.items[kept]
    return CandidateSet(candidates.rows[kept], items, candidates.position[kept], candidates.meta)


def _guard(job: Job, work: Callable[[], Any]) -> Any:
    """Run a model's code; whatever it raises becomes one line that names the model."""
    try:
        return work()
    except BenchError as error:
        text = str(error)
        raise type(error)(text if job.name in text else f"{job.name}: {text}") from error
    except BrokenPipeError:
        # The terminal's end, met while reporting progress: not the model's fault.
        raise
    except MemoryError as error:
        raise RunError(f"{job.name}: out of memory; a smaller batch_size may help") from error
    except Exception as error:
        raise RunError(f"{job.name} failed: {type(error).__name__}: {_line(error)} (--debug shows where)") from error


def _write(path: Path, work: Callable[[Path], Any]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work(scratch)
        os.replace(scratch, path)
    except (OSError, RuntimeError) as error:
        scratch.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or _line(error)
        raise RunError(f"cannot write {path}: {reason}; free space or choose another folder with --out") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
