"""The results folder: the truth about every run, readable without a server and movable between machines.

    <root>/commands/<id>.json                    what a command asks for, when, and which runs answer it
    <root>/commands/<id>.md                      the table at the end of the command
    <root>/<data set>/candidates/<fp16>.*        candidate lists (see evaluation.candidates)
    <root>/<data set>/<run id>/run.json          the record, see `records.RunRecord`
    <root>/<data set>/<run id>/curve.jsonl       one line per epoch: {"epoch", "train/loss", "rec/N@10", "seconds", ...}
    <root>/<data set>/<run id>/weights.safetensors
    <root>/<data set>/<run id>/ranks-<fp16>.parquet   per-query ranks on the candidates with that fingerprint
    <root>/<data set>/<run id>/lists-<fp16>.parquet   the ten best candidates of every query, where they were asked for
    <root>/.locks/<data set>/<run id>.lock       held by the process that works on the run
    <root>/.settings/<model>-<key>.json          settings of models that were worked out before

An unfinished run lives in `<run id>.part` and is moved into place when it is complete. Whatever is read back is compared
with the checksum in its record: run.json and the commands carry a digest of themselves, run.json the sha256 of the files
beside it. What differs is refused.
"""

import glob
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data.log import file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.ranks import Ranks
from bench.evaluation.top_lists import TopLists
from bench.files import exclusive
from bench.messages import comma_list, reason
from bench.store.records import (
    REMEDY,
    CommandRecord,
    DamagedRecordWarning,
    Evaluation,
    RunRecord,
    now,
    read_command,
    read_run,
    write_record,
)

WEIGHTS, CURVE = "weights.safetensors", "curve.jsonl"
_REPEAT = "remove that run and repeat it"


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
        """Folder of a data set's candidate lists."""
        return self.folder(dataset) / "candidates"

    def read(self, folder: Path) -> RunRecord:
        """The record in a run's folder; see `records.read_run`."""
        return read_run(folder)

    def readable(self, folders: Iterable[Path]) -> Iterator[tuple[Path, RunRecord]]:
        """The folders whose records can be used; each of the others is one `DamagedRecordWarning`."""
        for folder in folders:
            try:
                yield folder, read_run(folder)
            except RunError as error:
                _leave_out(error)

    def finished(self, dataset: str, run: str) -> RunRecord | None:
        """The record of a finished run, or None.

        Raises:
            RunError: the record cannot be used, or is that of another run.
        """
        folder = self.folder(dataset, run)
        if not (folder / "run.json").exists():
            return None
        record = read_run(folder)
        if record.id != run:
            raise RunError(
                f"{folder} holds the record of another run, {record.id}; remove that folder and repeat the run"
            )
        return record

    def run_folders(self) -> list[Path]:
        """Folders of all finished runs, whether their records can be used or not."""
        self._sweep()
        folders = [path.parent for path in self.root.glob("*/*/run.json")]
        return sorted(path for path in folders if path.suffix != ".part" and path.name[0] != ".")

    def runs(self) -> Iterator[tuple[Path, RunRecord]]:
        """All finished runs with their folders, oldest first; records that cannot be used are named and left out."""
        yield from sorted(self.readable(self.run_folders()), key=lambda pair: (pair[1].finished, pair[1].id))

    def locate(self, run: str) -> Path:
        """Folder of a finished run.

        Args:
            run: its id, the unambiguous start of its id, or a path (with a separator) to its folder in this store.

        Raises:
            UsageError: there is no such run, or there are several.
        """
        folders = self.run_folders()
        if not run.strip(". "):
            raise UsageError(f"'{run}' is no run: expected an id or a folder; `bench runs list` shows both")
        if "/" in run or os.sep in run:
            # Only what lies there: a namesake of a run that is somewhere else is another run.
            folder = Path(run).resolve()
            if not folder.is_dir():
                raise UsageError(f"there is no folder {run}; `bench runs list` shows the runs that exist")
            if folder not in folders:
                raise UsageError(f"{run} is no run of the results folder {self.root}; choose that folder with --out")
            return folder
        matches = [folder for folder in folders if folder.name == run]
        matches = matches or [folder for folder in folders if folder.name.startswith(run)]
        if not matches:
            raise UsageError(f"no run '{run}' in {self.root}; `bench runs list` shows those that exist")
        if len(matches) > 1:
            names = comma_list(folder.relative_to(self.root) for folder in matches)
            raise UsageError(f"'{run}' could be {names}; give more of the id")
        return matches[0]

    def find(self, run: str) -> tuple[Path, RunRecord]:
        """A finished run with its record; arguments and errors as in `locate`."""
        folder = self.locate(run)
        return folder, read_run(folder)

    def write(self, folder: Path, record: RunRecord) -> None:
        """Write run.json, whole or not at all."""
        write_record(folder / "run.json", record)

    def publish(self, dataset: str, run: str) -> Path:
        """Move a complete `.part` folder into place, over an older run of the same id. The caller holds the run's lock.

        Whenever this is interrupted, the next process that holds the lock or lists the runs ends it (`_settle`).

        Raises:
            RunError: the folder cannot be written.
        """
        source, target = self.part(dataset, run), self.folder(dataset, run)
        old = target.with_name(f".{run}.old")
        try:
            if target.exists():
                os.replace(target, old)
            os.replace(source, target)
        except OSError as error:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise RunError(f"cannot write the run to {target}: {reason(error)}") from error
        shutil.rmtree(old, ignore_errors=True)
        return target

    def remove(self, folder: Path) -> None:
        """Delete a run.

        Raises:
            RunError: a process works on it, or the folder cannot be written.
        """
        with self.locked(folder.parent.name, folder.name):
            removed = folder.with_name(f".{folder.name}.removed")
            try:
                if folder.is_symlink():
                    folder.unlink()
                else:
                    # Hidden first, so that no kill leaves half a run behind.
                    os.replace(folder, removed)
                    shutil.rmtree(removed)
            except OSError as error:
                raise RunError(f"cannot remove {folder}: {reason(error)}") from error

    def write_command(self, command: CommandRecord) -> None:
        """Write the record of a command, whole or not at all."""
        write_record(self.root / "commands" / f"{command.id}.json", command)

    def commands(self) -> list[CommandRecord]:
        """All commands, oldest first; records that cannot be used are named and left out."""
        commands = []
        for path in sorted((self.root / "commands").glob("*.json")):
            try:
                commands.append(read_command(path))
            except RunError as error:
                _leave_out(error)
        return sorted(commands, key=lambda command: (command.started, command.id))

    @contextmanager
    def locked(self, dataset: str, run: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold a run against other processes, on this machine or on others that share the folder.

        Args:
            dataset: name of the data set.
            run: id of the run.
            waiting: is called with a line for the user before a wait for another process; without it there is no wait.

        Raises:
            RunError: another process works on the run and `waiting` is None; the folder cannot be written, or its file
                system has no locks.
        """
        folder = self.folder(dataset)
        path = self.root / ".locks" / folder.name / f"{run}.lock"
        with exclusive(path, f"working on the run {run}", "the lock of the run", waiting or _refuse):
            self._settle(folder, run)
            yield

    def _sweep(self) -> None:
        """End what killed processes began: publishing a run, removing one."""
        for path in [*self.root.glob("*/.*.old*"), *self.root.glob("*/.*.removed*")]:
            run = path.name[1:].rpartition(".old" if ".old" in path.name else ".removed")[0]
            # Held by a living process, or in a folder that is only read: the run is left as it is.
            with suppress(RunError), self.locked(path.parent.name, run):
                pass

    def _settle(self, dataset: Path, run: str) -> None:
        """Let the new or the old result of an interrupted `publish` stand; end an interrupted `remove`."""
        target, name = dataset / run, glob.escape(run)
        try:
            for old in dataset.glob(f".{name}.old*"):
                if target.exists():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    os.replace(old, target)
        except OSError as error:
            raise RunError(f"cannot write the run to {target}: {reason(error)}; {REMEDY}") from error
        # The record is the last file to be written, so the folder is complete.
        if (dataset / f"{run}.part" / "run.json").exists():
            self.publish(dataset.name, run)
        for removed in dataset.glob(f".{name}.removed*"):
            shutil.rmtree(removed, ignore_errors=True)


def ranks_name(fingerprint: str) -> str:
    """Name of the ranks file on the candidates with this fingerprint."""
    return f"ranks-{fingerprint[:16]}.parquet"


def lists_name(fingerprint: str) -> str:
    """Name of the file with the best candidates of every row, on the candidates with this fingerprint."""
    return f"lists-{fingerprint[:16]}.parquet"


def write_ranks(
    ranks: Ranks,
    folder: Path,
    model: str,
    candidates: CandidateSet,
    leaks: dict[str, Any],
    seconds: float,
    lists: TopLists | None = None,
) -> Evaluation:
    """Write ranks into a run's folder; returns what the record holds of them.

    Args:
        ranks: one row per evaluated row.
        folder: of the run.
        model: its name.
        candidates: what was ranked.
        leaks: counters by name.
        seconds: that ranking took.
        lists: the best candidates of the same rows, where they were asked for.

    Raises:
        RunError: the folder cannot be written.
    """
    meta = {"model": model, "candidates": candidates.fingerprint}
    path, beside = folder / ranks_name(candidates.fingerprint), folder / lists_name(candidates.fingerprint)
    replace(ranks, meta=meta).save(path, REMEDY)
    if lists is not None:
        replace(lists, meta=meta).save(beside, REMEDY)
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
        lists=beside.name if lists is not None else "",
        lists_sha256=file_sha256(beside) if lists is not None else "",
    )


def read_ranks(folder: Path, evaluation: Evaluation) -> Ranks:
    """The ranks of an evaluation, exactly those that its record describes.

    Args:
        folder: of the run.
        evaluation: from the run's record.

    Raises:
        RunError: the file is missing, differs from its record, or the record names a file of another place.
    """
    expected = ranks_name(evaluation.fingerprint)
    if evaluation.ranks != expected:
        raise RunError(f"{folder / 'run.json'} names the ranks '{evaluation.ranks}' instead of {expected}; {_REPEAT}")
    path = _unchanged(folder / expected, evaluation.sha256)
    ranks = Ranks.load(path)
    if ranks.meta.get("candidates", evaluation.fingerprint) != evaluation.fingerprint:
        raise RunError(f"{path} holds ranks on other candidates than its record says; {_REPEAT}")
    return ranks


def read_lists(folder: Path, evaluation: Evaluation) -> TopLists | None:
    """The best candidates of every row, exactly those that the record of an evaluation describes; None without them.

    Args:
        folder: of the run.
        evaluation: from the run's record.

    Raises:
        RunError: the file is missing, or differs from its record.
    """
    if not evaluation.lists:
        return None
    return TopLists.load(_unchanged(folder / lists_name(evaluation.fingerprint), evaluation.lists_sha256))


def checksums(folder: Path) -> dict[str, str]:
    """Sha256 of the weights and the curve in a run's folder by file name, for `RunRecord.files`."""
    return {name: file_sha256(folder / name) for name in (WEIGHTS, CURVE) if (folder / name).exists()}


def checked_file(folder: Path, name: str) -> Path:
    """Path of a run's weights or curve, exactly the file that its record describes.

    Args:
        folder: of the run.
        name: `WEIGHTS` or `CURVE`.

    Raises:
        RunError: the file is missing, the record does not know it, or it differs from its record.
    """
    files = read_run(folder).files
    if name not in files:
        raise RunError(f"the record in {folder} knows no {name}; {_REPEAT}")
    return _unchanged(folder / name, files[name])


def _unchanged(path: Path, sha256: str) -> Path:
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise RunError(f"{path} is not readable ({reason(error)}); {_REPEAT}") from None
    if actual != sha256:
        raise RunError(f"{path} is not the file that run.json describes; {_REPEAT}")
    return path


def _refuse(message: str) -> None:
    raise RunError(f"{message}; wait for it, or use another --out")


def _leave_out(error: RunError) -> None:
    warnings.warn(f"left out: {error}", DamagedRecordWarning, stacklevel=2)
