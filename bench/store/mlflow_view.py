"""The MLflow view of a results folder: one experiment a data set, a parent run a command, a child run a (model, seed).

Only the driver process writes it, at the same time as the plain files; everything in it can be made again from them.
"""

import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.errors import RunError, UsageError
from bench.store import mlflow_runs as fields
from bench.store.mlflow_store import Place, StoreError, configure, end_abandoned, quiet, write
from bench.store.records import CommandRecord, RunRecord
from bench.store.results import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"


class TrackingWarning(UserWarning):
    """MLflow could not be written; the results are complete without it."""


class Tracker:
    """Writes the view of what a command does. No method raises: results must not depend on MLflow.

    A failure of the store (unreachable server, broken database) is one `TrackingWarning`, after which the tracker is
    silent; a run whose own files are not readable is one warning for that run.

    Args:
        store: the results folder.
        uri: MLflow tracking URI; None is the SQLite store inside the results folder.
    """

    def __init__(self, store: Store, uri: str | None = None):
        self.store = store
        self.place = Place.of(store.root, uri)
        self._client: MlflowClient | None = None
        self._use: IO[str] | None = None
        self._experiments: dict[str, str] = {}
        self._parents: dict[tuple[str, str], str] = {}  # (command, data set) -> MLflow run
        self._off = False

    def start(self, command: CommandRecord) -> None:
        """Open the store before the work begins, and end what dead processes left running.

        The parent runs of the command appear with its first run on each data set.
        """
        self._safely(f"the command {command.id}", self._open)

    def log_run(self, folder: Path, record: RunRecord, command: CommandRecord | None) -> None:
        """Write a finished run as a child of the command, or by itself where no command made it.

        Again with the same content it changes nothing; a changed record (further candidates, a repeated fit) replaces
        this child and those of the earlier commands that the same run answers.
        """
        self._safely(f"the run {record.id}", lambda: self._log_run(folder, record, command))

    def fail(self, name: str, message: str, command: CommandRecord) -> None:
        """Write a run that ended with an error; `name` is "<data set>/<run id>" as in `CommandRecord.failed`."""
        self._safely(f"the failed run {name}", lambda: self._log_failure(name, message, command))

    def finish(self, command: CommandRecord, table_markdown: str, status: str | None = None) -> None:
        """Close the command's parent runs with its table as their description, and the store.

        The table is also written beside the command's record (`commands/<id>.md`), from where a rebuild takes it.

        Args:
            command: with `finished` set.
            table_markdown: may be empty.
            status: FINISHED, FAILED or KILLED; without it, FAILED where a run of the command failed.
        """
        if table_markdown:
            path = _table_file(self.store, command)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(table_markdown.rstrip("\n") + "\n")
            except OSError as error:
                _warn(f"cannot write {path}: {error.strerror or error}; `bench table` prints the table again")
        self._safely(f"the command {command.id}", lambda: self._finish(command, table_markdown, status))
        self.close()

    def close(self) -> None:
        """Let go of the store, so that it can be rebuilt; the next call opens it again."""
        self._client = None
        self._experiments, self._parents = {}, {}
        if self._use is not None:
            self._use.close()
            self._use = None

    def _safely(self, what: str, action: Callable[[], object]) -> None:
        if self._off:
            return
        try:
            with quiet():
                action()
        except Exception as error:
            # A broken run says nothing about the next one; a broken store would cost its timeouts again and again.
            self._off = not isinstance(error, RunError) or isinstance(error, StoreError)
            lost = f"MLflow does not show {what}{' and what follows' if self._off else ''} ({_one_line(error)})"
            _warn(f"{lost}; the results in {self.store.root} are complete, `bench ui --rebuild` shows them")

    def _open(self) -> "MlflowClient":
        if self._client is None:
            if self.place.own and self._use is None:
                self._use = self.place.hold(exclusive=False)
            self._client = self.place.connect()
            end_abandoned(self._client)
        return self._client

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = self.place.experiment(self._open(), name)
        return self._experiments[name]

    def _parent(self, command: CommandRecord, dataset: str) -> str:
        """MLflow run of the command on a data set, made where there is none."""
        if (command.id, dataset) not in self._parents:
            client, experiment = self._open(), self._experiment(dataset)
            found = client.search_runs([experiment], f"tags.`bench.command` = '{command.id}'", max_results=1)
            parent = found[0].info.run_id if found else write(client, experiment, fields.command_view(command), {})
            self._parents[command.id, dataset] = parent
            if not found and command.finished:
                self._finish(command, _read_table(self.store, command), None)
        return self._parents[command.id, dataset]

    def _log_run(self, folder: Path, record: RunRecord, command: CommandRecord | None) -> None:
        view = fields.run_view(self.store, folder, record)
        self._child(view, record.dataset["name"], command)

    def _log_failure(self, name: str, message: str, command: CommandRecord) -> None:
        place = name.rpartition("/")[0] or command.datasets[0]
        # Failures are named by folder, experiments by data set.
        known = {self.store.folder(dataset).name: dataset for dataset in command.datasets}
        self._child(fields.failed_view(name, message, command), known.get(place, place), command)

    def _child(self, view: fields.View, dataset: str, command: CommandRecord | None) -> None:
        """Write a child run unless it is there with the same content, and again wherever its content is older."""
        client, experiment = self._open(), self._experiment(dataset)
        parent = self._parent(command, dataset) if command else None
        found = client.search_runs([experiment], f"tags.`bench.run` = '{view.key}'", max_results=1000)
        of_parent: dict[str | None, list[Run]] = {parent: []}
        for run in found:
            of_parent.setdefault(run.data.tags.get(_PARENT), []).append(run)
        for owner, runs in of_parent.items():
            if owner != parent and any(run.info.status == "RUNNING" for run in runs):
                continue  # another process is writing it
            state = (view.digest, view.status)
            same = [run for run in runs if (run.data.tags.get("bench.digest"), run.info.status) == state]
            if not same:
                tags = {"bench.run": view.key, "bench.digest": view.digest} | ({_PARENT: owner} if owner else {})
                client.set_terminated(write(client, experiment, view, tags), view.status, view.end)
            for run in runs:
                if run not in same[:1]:
                    client.delete_run(run.info.run_id)

    def _finish(self, command: CommandRecord, table: str, status: str | None, end: int | None = None) -> None:
        end = fields.milliseconds(command.finished) or end
        for parent in (run for (owner, _), run in self._parents.items() if owner == command.id):
            client = self._open()
            if table:
                client.set_tag(parent, _NOTE, _note(table))
                client.log_text(parent, table, "table.md")
            if command.failed:
                # Their messages are with the failed runs.
                client.set_tag(parent, "bench.failed", "; ".join(command.failed)[: fields.TAG_LENGTH])
            client.set_terminated(parent, status or ("FAILED" if command.failed else "FINISHED"), end)

    def replay(self) -> int:
        """Write everything that the plain files say; how many runs.

        Raises:
            RunError: a record is not readable.
        """
        written, seen = 0, set()
        for command in self.store.commands():
            ends = []
            for name in command.runs:
                dataset, _, run = name.rpartition("/")
                folder = self.store.folder(dataset, run)
                if (folder / "run.json").exists():  # a run may have been removed since
                    record = self.store.read(folder)
                    self._log_run(folder, record, command)
                    ends.append(fields.milliseconds(record.finished) or 0)
                    seen.add(folder)
                    written += 1
            for name, message in command.failed.items():
                self._log_failure(name, message, command)
                written += 1
            if not command.finished:
                # It was killed; its last run says how far it came.
                self._finish(command, "", "KILLED", max(ends, default=None))
        for folder, record in self.store.runs():
            if folder not in seen:
                self._log_run(folder, record, None)
                written += 1
        return written


def rebuild(store: Store, uri: str | None = None) -> int:
    """Make the view again from the plain files; returns the number of runs in it, parents not counted.

    The store inside the results folder is written anew beside the old one, which it replaces only when it is complete.
    Any other store may hold what is not ours: missing runs are added there, and changed ones replaced.

    Raises:
        RunError: a record is not readable, the store cannot be written, or another process is using it.
    """
    tracker = Tracker(store, uri)
    place = tracker.place
    try:
        with quiet():
            if not place.own:
                return tracker.replay()
            with place.hold(exclusive=True):
                return _replace(tracker)
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"cannot rebuild the MLflow store {_masked(place.uri)}: {_one_line(error)}") from error


def _replace(tracker: Tracker) -> int:
    place, fresh = tracker.place, tracker.place.beside()
    assert fresh.database is not None and place.artifacts is not None
    before = set(place.artifacts.glob("*/*"))
    tracker.place, tracker._client = fresh, fresh.connect()
    try:
        written = tracker.replay()
        place.replace_by(fresh)
    except BaseException:
        _remove(set(place.artifacts.glob("*/*")) - before)
        raise
    finally:
        fresh.database.unlink(missing_ok=True)
    _remove(before)
    return written


def _remove(folders: set[Path]) -> None:
    """Delete artifact folders of runs that are in no database any more."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def ui_command(store: Store, uri: str | None, port: int) -> list[str]:
    """Command line of the MLflow UI on this store, for this machine only.

    Raises:
        UsageError: the store is a server, which has its own UI.
        RunError: there is no store yet, or it came here with a copied folder.
    """
    place = Place.of(store.root, uri)
    if place.artifacts is None:
        raise UsageError(f"{_masked(place.uri)} is a server with its own UI; open it in a browser")
    if place.database is not None and not place.database.exists():
        raise RunError(f"no MLflow store at {place.database}; `bench ui --rebuild` makes it from the results")
    if place.own and place.moved():
        raise RunError(f"{place.database} was made for another folder; `bench ui --rebuild` makes it anew")
    configure(sqlite=place.database is not None)
    where = ["--backend-store-uri", place.uri, "--artifacts-destination", str(place.artifacts)]
    return [sys.executable, "-m", "mlflow", "ui", *where, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def _table_file(store: Store, command: CommandRecord) -> Path:
    return store.root / "commands" / f"{command.id}.md"


def _read_table(store: Store, command: CommandRecord) -> str:
    path = _table_file(store, command)
    return path.read_text().rstrip("\n") if path.exists() else ""


def _note(table: str) -> str:
    if len(table) <= fields.TAG_LENGTH:
        return table
    return table[: fields.TAG_LENGTH].rpartition("\n")[0] + "\n\n(cut here; complete in the artifact table.md)"


def _warn(message: str) -> None:
    warnings.warn(message, TrackingWarning, stacklevel=4)


def _one_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _masked(line if len(line) <= 200 else line[:199] + "…")


def _masked(text: str) -> str:
    """Without the password of a database URI."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)
