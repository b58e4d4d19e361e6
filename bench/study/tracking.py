"""The MLflow view of a results folder: one experiment a data set, a parent run a command, a child run a (model, seed).

Only the driver process writes it, at the same time as the plain files; everything in it can be made again from them.
"""

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.errors import BenchError, RunError, UsageError
from bench.study import tracking_fields as fields
from bench.study.store import CommandRecord, RunRecord, Store
from bench.study.tracking_store import Place, configure, end_abandoned, quiet, writer_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_METRICS_PER_CALL = 900  # MLflow's limits are 1,000 metrics and 100 parameters
_PARAMS_PER_CALL = 90


class TrackingWarning(UserWarning):
    """MLflow could not be written; the results are complete without it."""


class Tracker:
    """Writes the view of what a command does. Nothing here raises: results must not depend on MLflow.

    A failure of the store (unreachable server, broken database) is one `TrackingWarning`, after which this tracker is
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

        The command's parent runs appear with its first run on each data set.
        """
        with self._guarded(f"the command {command.id}"):
            self._open()

    def log_run(self, folder: Path, record: RunRecord, command: CommandRecord) -> None:
        """Write a finished run as a child of the command; again with the same content it changes nothing, with another
        content (further candidates, a repeated fit) it replaces the child."""
        with self._guarded(f"the run {record.id}"):
            self._log_run(folder, record, command)

    def fail(self, name: str, message: str, command: CommandRecord) -> None:
        """Write a run that ended with an error; `name` is "<data set>/<run id>" as in `CommandRecord.failed`."""
        with self._guarded(f"the failed run {name}"):
            self._fail(name, message, command)

    def finish(self, command: CommandRecord, table_markdown: str, status: str | None = None) -> None:
        """Close the command's parent runs with its table as their description.

        The table is also written beside the command's record (`commands/<id>.md`), from where a rebuild takes it.

        Args:
            command: with `finished` set.
            table_markdown: may be empty.
            status: FINISHED, FAILED or KILLED; by default FAILED where a run of the command failed.
        """
        if table_markdown:
            path = _table_file(self.store, command)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(table_markdown.rstrip("\n") + "\n")
            except OSError as error:
                self._warn(f"cannot write {path}: {error.strerror or error}; `bench table` prints the table again")
        with self._guarded(f"the command {command.id}"):
            self._finish(command, table_markdown, status)
        self.close()

    def close(self) -> None:
        """Give the store free for a rebuild."""
        if self._use is not None:
            self._use.close()
            self._use = None

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        if self._off:
            return_early = True
        else:
            return_early = False
        try:
            if return_early:
                raise _Silent
            with quiet():
                yield
        except _Silent:
            yield
        except Exception as error:
            pass

    def _open(self) -> "MlflowClient":
        if self._client is None:
            if self.place.own and self._use is None:
                self._use = self.place.hold(exclusive=False)
            self._client = self.place.connect()
            end_abandoned(self._client)
        return self._client
