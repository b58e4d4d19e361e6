"""When the MLflow view of a command is written: from its first change on."""

from pathlib import Path
from typing import TYPE_CHECKING

from bench.store.records import CommandRecord, RunRecord
from bench.store.results import Store

if TYPE_CHECKING:
    from bench.store.mlflow_view import Tracker


class CommandTracker:
    """Writes what a command does into the MLflow view.

    A command that finds everything there changes nothing in the view either, and MLflow is not imported for it. From the
    first new run or failure on, the view shows all runs of the command. A store that the user names is always written.

    Args:
        store: the results folder.
        uri: MLflow tracking URI; None is the store inside the results folder.
        command: whose runs these are.
    """

    def __init__(self, store: Store, uri: str | None, command: CommandRecord):
        self._store, self._uri, self._command = store, uri, command
        self._tracker: Tracker | None = None
        self._unchanged: list[tuple[Path, RunRecord]] = []
        if uri is not None:
            self._start()

    @property
    def writes(self) -> bool:
        """Whether the view is written."""
        return self._tracker is not None

    def log_run(self, folder: Path, record: RunRecord, changed: bool) -> None:
        """A run of the command is finished; `changed` says whether this command fitted or ranked it."""
        if not changed and self._tracker is None:
            self._unchanged.append((folder, record))
            return
        self._start().log_run(folder, record, self._command)

    def fail(self, run: str, message: str) -> None:
        """A run "<data set>/<run id>" ended with an error."""
        self._start().fail(run, message, self._command)

    def finish(self, table_markdown: str, status: str | None = None) -> None:
        """The command ends; see `Tracker.finish`."""
        if self._tracker is not None:
            self._tracker.finish(self._command, table_markdown, status)

    def _start(self) -> "Tracker":
        if self._tracker is None:
            from bench.store.mlflow_view import Tracker

            self._tracker = Tracker(self._store, self._uri)
            self._tracker.start(self._command)
            for folder, record in self._unchanged:
                self._tracker.log_run(folder, record, self._command)
        return self._tracker
