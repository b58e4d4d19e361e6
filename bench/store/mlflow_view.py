"""The MLflow view of a results folder: one experiment per data set, a parent run per command, a child per (model, seed).

Each finished run is written once, below the command that made it; a command that found everything there has no run of its
own. What changes later (a run is removed, a folder is moved) or breaks is repaired by a rebuild from the plain files,
which `bench ui` does when it finds that the two differ.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import first_line
from bench.store import mlflow_content as content
from bench.store.mlflow_database import (
    TrackingStore,
    TrackingStoreError,
    quiet,
    remove_folders,
    without_password,
    write_run,
)
from bench.store.mlflow_studies import write_study
from bench.store.records import BenchWarning, CommandRecord, RunRecord, content_digest
from bench.store.results import Store
from bench.store.studies import studies

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient

_PAIRS = """
    SELECT a.value, b.value FROM tags a JOIN tags b USING (run_uuid) JOIN tags c USING (run_uuid) JOIN runs r USING (run_uuid)
    WHERE a.key = 'bench.run' AND b.key = 'bench.digest' AND c.key = 'bench.kind' AND c.value NOT IN ('failed', 'trial', 'study')
    AND r.lifecycle_stage = 'active'
"""
_LOCATIONS = "SELECT artifact_location FROM experiments WHERE experiment_id != 0"


class TrackingWarning(BenchWarning):
    """MLflow could not be written; the results are complete without it."""


class Tracker:
    """Writes what a command does into MLflow. No method raises: results must not depend on MLflow.

    A failure of the store (unreachable server, broken database) is one `TrackingWarning`, after which the tracker is
    silent; a run whose own files are not readable is one warning for that run. MLflow is imported when there is something
    to write.

    Args:
        store: the results folder.
        uri: MLflow tracking URI; None is the SQLite store inside the results folder.
    """

    def __init__(self, store: Store, uri: str | None = None):
        self.store = store
        self.tracking = TrackingStore(store.root, uri)
        self._lock: BaseFileLock | None = None
        self._off = False

    def start(self, command: CommandRecord) -> None:
        """Announce a command before its work begins, and end those that were killed."""
        self._safely(f"the command {command.id}", lambda: self._start(command))

    def log_run(self, folder: Path, record: RunRecord, command: CommandRecord | None) -> None:
        """Write a finished run as a child of the command, or by itself where no command made it.

        A run that is there with the same content stays as it is; with other content (ranked on further candidates, fitted
        again) it is replaced.
        """
        self._safely(f"the run {record.id}", lambda: self._log_run(folder, record, command))

    def fail(self, name: str, message: str, command: CommandRecord) -> None:
        """Write a run that ended with an error; `name` is "<data set>/<run id>" as in `CommandRecord.failed`."""
        self._safely(
            f"the failed run {name}", lambda: self._view(lambda view: view.add_failure(name, message, command))
        )

    def finish(self, command: CommandRecord, table_markdown: str, status: str | None = None) -> None:
        """Close the command's parent runs with its table as their description.

        The table is also written beside the command's record (`commands/<id>.md`), from where a rebuild takes it.

        Args:
            command: with `finished` set.
            table_markdown: may be empty.
            status: FINISHED, FAILED or KILLED; without it, FAILED where a run of the command failed.
        """
        if table_markdown:
            path = _table_file(self.store, command)
            try:
                write_atomically(path, lambda scratch: scratch.write_text(table_markdown.rstrip("\n") + "\n"))
            except RunError as error:
                _warn(f"{error}; `bench table` prints the table again")
        self._safely(f"the command {command.id}", lambda: self._finish(command, status))

    def _safely(self, what: str, action: Callable[[], object]) -> None:
        if self._off:
            return
        try:
            action()
        except Exception as error:
            # A broken run says nothing about the next one; a broken store would cost its timeouts again and again.
            self._off = not isinstance(error, RunError) or isinstance(error, TrackingStoreError)
            lost = f"MLflow does not show {what}{' and what follows' if self._off else ''} ({_short(error)})"
            _warn(f"{lost}; the results in {self.store.root} are complete, `bench ui --rebuild` shows them")

    def _view(self, action: "Callable[[_View], object]") -> None:
        with self.tracking.opened() as client:
            action(_View(self.store, self.tracking, client))

    def _start(self, command: CommandRecord) -> None:
        dead = self.tracking.dead_commands()
        if dead:
            self._view(lambda view: view.end_commands(dead))
        elif self.tracking.scratch_files():
            with self.tracking.locked():
                pass  # removes them
        self._lock = self.tracking.command_lock(command.id)
        self._lock.acquire(timeout=0)

    def _log_run(self, folder: Path, record: RunRecord, command: CommandRecord | None) -> None:
        if self.tracking.own and (content.run_key(record), content_digest(record)) in self.tracking.rows(_PAIRS):
            return
        shown = content.run_content(self.store, folder, record)
        self._view(lambda view: view.add_run(shown, record.dataset["name"], command))

    def _finish(self, command: CommandRecord, status: str | None) -> None:
        try:
            if not self.tracking.own or self.tracking.rows(
                "SELECT 1 FROM tags WHERE key = 'bench.command' AND value = ?", command.id
            ):
                self._view(lambda view: view.close_command(command, status))
        finally:
            if self._lock is not None:
                self._lock.release()
                self.tracking.forget_command(command.id)


class _View:
    """Changes of an open store. Nothing is remembered between them, since another process may rebuild the store."""

    def __init__(self, store: Store, tracking: TrackingStore, client: "MlflowClient"):
        self.store, self.tracking, self.client = store, tracking, client

    def add_run(self, run: content.RunContent, dataset: str, command: CommandRecord | None) -> None:
        """Write a run unless it is there with the same content; other content of the same run is deleted."""
        experiment = self.tracking.experiment(self.client, dataset)
        there = self.client.search_runs([experiment], f"tags.`bench.run` = '{run.key}'", max_results=1000)
        if any(one.data.tags.get("bench.digest") == run.digest for one in there):
            return
        write_run(self.client, experiment, run, self._parent(command, dataset) if command else None)
        for one in there:
            self.client.delete_run(one.info.run_id)

    def add_failure(self, name: str, message: str, command: CommandRecord) -> None:
        """Write a run that failed."""
        folder = name.rpartition("/")[0] or command.datasets[0]
        # Failures are named by folder, experiments by data set.
        known = {self.store.folder(dataset).name: dataset for dataset in command.datasets}
        self.add_run(content.failed_content(name, message, command), known.get(folder, folder), command)

    def close_command(self, command: CommandRecord, status: str | None = None, end: int | None = None) -> None:
        """Give the command's parent runs their table, their failures, their end and their status."""
        path = _table_file(self.store, command)
        table = path.read_text().rstrip("\n") if path.exists() else ""
        for dataset in command.datasets:
            for parent in self._parents(command, dataset):
                if table:
                    self.client.set_tag(parent, "mlflow.note.content", _note(table))
                    self.client.log_text(parent, table, "table.md")
                if command.failed:
                    # Their messages are with the failed runs.
                    self.client.set_tag(parent, "bench.failed", "; ".join(command.failed)[: content.TAG_LENGTH])
                status = status or ("FAILED" if command.failed else "FINISHED")
                self.client.set_terminated(parent, status, content.milliseconds(command.finished) or end)

    def end_commands(self, commands: list[str]) -> None:
        """Set the runs of killed commands, which MLflow shows as running for ever, to KILLED."""
        experiments = [one.experiment_id for one in self.client.search_experiments(max_results=1000)]
        for command in commands:
            running = f"tags.`bench.command` = '{command}' and attributes.status = 'RUNNING'"
            for run in self.client.search_runs(experiments, running, max_results=1000):
                self.client.set_terminated(run.info.run_id, "KILLED")
            self.tracking.forget_command(command)

    def replay(self) -> int:
        """Write everything that the plain files hold; returns how many runs, parents not counted."""
        commands, ends, written = self.store.commands(), dict[str, int](), 0
        for folder, record in self.store.runs():
            name = f"{record.dataset['name']}/{record.id}"
            makers = [one for one in commands if name in one.runs]
            # The last one that was at work when the run was finished; later ones found it there.
            maker = next((one for one in reversed(makers) if one.started <= record.finished), None)
            maker = maker or next(iter(makers), None)
            try:
                self.add_run(content.run_content(self.store, folder, record), record.dataset["name"], maker)
            except TrackingStoreError:
                raise
            except RunError as error:
                _warn(f"MLflow does not show the run {record.id} ({_short(error)})")
                continue
            written += 1
            if maker:
                ends[maker.id] = max(ends.get(maker.id, 0), content.milliseconds(record.finished) or 0)
        dead = self.tracking.dead_commands()
        for command in commands:
            for name, message in command.failed.items():
                self.add_failure(name, message, command)
                written += 1
            if command.finished:
                self.close_command(command)
            elif command.id in dead or not (self.tracking.folder / f".command.{command.id}.lock").exists():
                # It was killed; its last run says how far it came.
                self.close_command(command, "KILLED", ends.get(command.id))
        return written + sum(
            write_study(self.tracking, self.client, study, study.trials) for study in studies(self.store)
        )

    def _parents(self, command: CommandRecord, dataset: str) -> list[str]:
        experiment = self.tracking.experiment(self.client, dataset)
        runs = self.client.search_runs([experiment], f"tags.`bench.command` = '{command.id}'", max_results=1000)
        return [run.info.run_id for run in runs]

    def _parent(self, command: CommandRecord, dataset: str) -> str:
        """MLflow run of the command on a data set, made where there is none."""
        parents = self._parents(command, dataset)
        if not parents:
            experiment = self.tracking.experiment(self.client, dataset)
            parents = [write_run(self.client, experiment, content.command_content(command))]
            if command.finished:
                self.close_command(command)
        return parents[0]


def rebuild(store: Store, uri: str | None = None) -> int:
    """Make the view again from the plain files; returns the number of runs in it, parents not counted.

    The store inside the results folder is written anew beside the old one, which it replaces only when it is complete.
    Any other store may hold what is not ours: missing runs are added there, and changed ones replaced.

    Raises:
        RunError: the store cannot be written.
    """
    tracking = TrackingStore(store.root, uri)
    try:
        with quiet(), tracking.locked():
            if not tracking.own:
                return _View(store, tracking, tracking.client()).replay()
            return _replace(store, tracking)
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"cannot rebuild the MLflow store {without_password(tracking.uri)}: {_short(error)}") from error


def _replace(store: Store, tracking: TrackingStore) -> int:
    fresh = tracking.fresh()
    assert fresh.database is not None and tracking.artifacts is not None
    before = set(tracking.artifacts.glob("*/*"))
    try:
        written = _View(store, fresh, fresh.client()).replay()
        tracking.replace_by(fresh)
    except BaseException:
        remove_folders(set(tracking.artifacts.glob("*/*")) - before)
        raise
    finally:
        fresh.database.unlink(missing_ok=True)
    remove_folders(before)
    return written


def is_stale(store: Store) -> bool:
    """Whether the store inside the results folder shows something else than its plain files; without MLflow."""
    tracking = TrackingStore(store.root)
    assert tracking.database is not None and tracking.artifacts is not None
    if not tracking.database.exists():
        return True
    try:
        moved = any(not Path(location).is_relative_to(tracking.artifacts) for (location,) in tracking.rows(_LOCATIONS))
        shown = sorted(tracking.rows(_PAIRS))
    except RunError:
        return True
    return moved or shown != sorted((content.run_key(record), content_digest(record)) for _, record in store.runs())


def _table_file(store: Store, command: CommandRecord) -> Path:
    return store.root / "commands" / f"{command.id}.md"


def _note(table: str) -> str:
    if len(table) <= content.TAG_LENGTH:
        return table
    return table[: content.TAG_LENGTH].rpartition("\n")[0] + "\n\n(cut here; complete in the artifact table.md)"


def _warn(message: str) -> None:
    warnings.warn(message, TrackingWarning, stacklevel=4)


def _short(error: Exception) -> str:
    line = first_line(error).strip()
    return without_password(line if len(line) <= 200 else line[:199] + "…")
