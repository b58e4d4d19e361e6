"""The results folder: the truth about every run, readable without a server and movable between machines.

    <root>/commands/<id>.json                    what was asked, when, and which runs answered it
    <root>/commands/<id>.md                      the table at the end of the command
    <root>/<data set>/candidates/<fp16>.*        candidate lists (see evaluation.candidates)
    <root>/<data set>/<run id>/run.json          the record, see `RunRecord`
    <root>/<data set>/<run id>/curve.jsonl       one line an epoch: {"epoch", "train/loss", "rec/N@10", "seconds", ...}
    <root>/<data set>/<run id>/weights.safetensors
    <root>/<data set>/<run id>/ranks-<fp16>.parquet   per-query ranks on the candidates with that fingerprint; its sha256 is in run.json

An unfinished run lives in `<run id>.part` and is moved into place when it is complete.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.data.log import file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.ranks import Ranks

FORMAT = 2


@dataclass
class Evaluation:
    """A fit ranked on one candidate set. The ranks file holds the figures; nothing here is an average of them."""

    fingerprint: str  # of the candidates
    label: str  # "uniform-99"
    strategy: str
    seed: int  # of the candidates
    rows: dict[str, int]  # task -> evaluated rows
    tie_rate: dict[str, float]  # task -> share of rows whose positive ties
    leaks: dict[str, Any]  # counters of data, split and candidates; "zero:*" keys must be 0
    ranks: str  # file name beside run.json
    sha256: str  # of that file
    seconds: float
    finished: str  # ISO time


@dataclass
class RunRecord:
    """One fit with its evaluations, as stored in run.json. Keys of the fit come first, evidence after them."""

    id: str  # <model>-s<seed>-<fit key, 12 hex digits>
    fit_key: str
    kind: str  # "fit", or "imported" for scores made elsewhere
    model: str
    title: str
    group: str
    tasks: list[str]
    seed: int
    budget: str
    config: dict[str, Any]  # resolved: every setting of the model
    dataset: dict[str, Any]  # name, title, options, fingerprint, mode, split, synthetic, counts, split_counts
    device: str
    threads: int
    code: str  # hash of the sources of the model and of the floors below it
    fit: dict[str, Any] = field(default_factory=dict)  # epochs, best_epoch, converged, seconds, parameters, ...
    evidence: dict[str, Any] = field(default_factory=dict)  # what the model says of itself: backbone, ...
    evaluations: dict[str, Evaluation] = field(default_factory=dict)  # by candidates fingerprint
    environment: dict[str, Any] = field(default_factory=dict)  # packages, hardware, commit, dirty, command line
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    format: int = FORMAT


@dataclass
class CommandRecord:
    """What one `bench run` asked for and which runs answer it."""

    id: str
    line: str
    started: str
    datasets: list[str]
    models: list[str]
    seeds: list[int]
    budget: str
    candidates: list[str]  # fingerprints
    runs: list[str] = field(default_factory=list)  # "<data set>/<run id>"
    failed: dict[str, str] = field(default_factory=dict)  # run -> one line
    finished: str = ""
    format: int = FORMAT


def keep(
    ranks: Ranks, folder: Path, model: str, candidates: CandidateSet, leaks: dict[str, Any], seconds: float
) -> Evaluation:
    """Write ranks into a run's folder; returns what the record says of them.

    Raises:
        RunError: the folder cannot be written.
    """
    ranks = replace(ranks, meta={"model": model, "candidates": candidates.fingerprint})
    path = folder / f"ranks-{candidates.fingerprint[:16]}.parquet"
    try:
        ranks.save(path)
    except RunError as error:
        raise RunError(f"{error}; free space or choose another folder with --out") from error
    return Evaluation(
        fingerprint=candidates.fingerprint,
        label=candidates.label,
        strategy=candidates.meta["strategy"],
        seed=candidates.meta["seed"],
        rows={task: len(ranks.only(task)) for task in ranks.tasks},
        tie_rate={task: ranks.only(task).tie_rate for task in ranks.tasks},
        leaks=leaks,
        ranks=path.name,
        sha256=file_sha256(path),
        seconds=seconds,
        finished=now(),
    )


def now() -> str:
    """This moment as ISO text, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Store:
    """Reads and writes a results folder."""

    def __init__(self, root: str | Path = "results/local"):
        self.root = Path(root).resolve()

    def check_writable(self) -> None:
        """Raise RunError before any work when the folder cannot be written."""
        probe = self.root / f".probe.{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"cannot write to the results folder {self.root}: {error.strerror}; choose another with --out"
            ) from error

    def folder(self, dataset: str, run: str = "") -> Path:
        """Folder of a data set, or of one of its runs."""
        base = self.root / dataset.replace(":", "-").replace("/", "_")
        return base / run if run else base

    def part(self, dataset: str, run: str) -> Path:
        """Folder of an unfinished run."""
        return self.folder(dataset, f"{run}.part")

    def candidates(self, dataset: str) -> Path:
        return self.folder(dataset) / "candidates"

    def read(self, folder: Path) -> RunRecord:
        """The record in a run's folder.

        Raises:
            RunError: there is none, or it is not readable.
        """
        path = folder / "run.json"
        try:
            raw = json.loads(path.read_text())
            # Before anything else: a record of another format lacks fields or has others.
            if raw["format"] != FORMAT:
                raise RunError(
                    f"{path} has format {raw['format']}, this version reads {FORMAT}; remove that folder and repeat the run"
                )
            raw["evaluations"] = {key: Evaluation(**value) for key, value in raw["evaluations"].items()}
            record = RunRecord(**raw)
        except FileNotFoundError:
            raise RunError(f"no run at {folder}; `bench runs list` shows those that exist") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path} is not a readable run record ({error}); remove that folder and repeat the run"
            ) from None
        return record

    def finished(self, dataset: str, run: str) -> RunRecord | None:
        """The record of a finished run, or None."""
        folder = self.folder(dataset, run)
        return self.read(folder) if (folder / "run.json").exists() else None

    def runs(self) -> Iterator[tuple[Path, RunRecord]]:
        """All finished runs with their folders, oldest first."""
        found = [
            path.parent
            for path in self.root.glob("*/*/run.json")
            if not path.parent.name.endswith(".part") and path.parent.name[0] != "."
        ]
        yield from sorted(
            ((folder, self.read(folder)) for folder in found), key=lambda pair: (pair[1].finished, pair[1].id)
        )

    def find(self, run: str) -> tuple[Path, RunRecord]:
        """A finished run by folder, id or the unambiguous start of an id."""
        if (Path(run) / "run.json").exists():
            return Path(run).resolve(), self.read(Path(run))
        matches = [(folder, record) for folder, record in self.runs() if record.id.startswith(Path(run).name)]
        if not matches:
            raise UsageError(f"no run '{run}' in {self.root}; `bench runs list` shows those that exist")
        if len(matches) > 1:
            raise UsageError(f"'{run}' could be {', '.join(record.id for _, record in matches)}; give more of the id")
        return matches[0]

    def write(self, folder: Path, record: RunRecord) -> None:
        """Write run.json, whole or not at all."""
        _write_json(folder / "run.json", asdict(record))

    def ranks(self, folder: Path, evaluation: Evaluation) -> Ranks:
        """The ranks of an evaluation, the very ones that its record speaks of.

        Raises:
            RunError: the file is missing, or is another one.
        """
        path = folder / evaluation.ranks
        if path.exists() and file_sha256(path) != evaluation.sha256:
            raise RunError(f"{path} is not the file that run.json speaks of; remove that run and repeat it")
        return Ranks.load(path)

    def publish(self, dataset: str, run: str) -> Path:
        """Move a complete `.part` folder into place, over an older run of the same id."""
        source, target = self.part(dataset, run), self.folder(dataset, run)
        old = target.with_name(f".{run}.old.{os.getpid()}")
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(source, target)
        except OSError as error:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise RunError(f"cannot write the run to {target}: {error.strerror or error}") from error
        shutil.rmtree(old, ignore_errors=True)
        return target

    def remove(self, folder: Path) -> None:
        """Delete a run."""
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise RunError(f"cannot remove {folder}: {error.strerror or error}") from error

    def write_command(self, command: CommandRecord) -> None:
        _write_json(self.root / "commands" / f"{command.id}.json", asdict(command))

    def commands(self) -> list[CommandRecord]:
        """All commands, oldest first."""
        found = []
        for path in sorted((self.root / "commands").glob("*.json")):
            try:
                found.append(CommandRecord(**json.loads(path.read_text())))
            except (OSError, ValueError, TypeError) as error:
                raise RunError(f"{path} is not a readable command record ({error}); remove it") from None
        return sorted(found, key=lambda command: (command.started, command.id))

    @contextmanager
    def locked(self, dataset: str, run: str) -> Iterator[None]:
        """Hold a run against a second process.

        Raises:
            RunError: another process works on it.
        """
        import fcntl

        path = self.folder(dataset) / f".{run}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        except OSError as error:
            raise RunError(
                f"cannot write to {path.parent}: {error.strerror}; choose another folder with --out"
            ) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"another process is working on the run {run}; wait for it, or use another --out"
                ) from None
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(content, indent=1, sort_keys=False, default=str) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --out"
        ) from error
