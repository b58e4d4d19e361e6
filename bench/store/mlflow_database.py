"""The MLflow store of a results folder: where it lies, and how it is opened and written, quietly and by one at a time."""

import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RunError
from bench.files import exclusive
from bench.store.mlflow_content import DIGEST_LENGTH, RunContent
from bench.store.records import BenchWarning

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_RESERVED = frozenset("%?#")  # have a meaning of their own in a database URI
_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # MLflow's limits
_LOGGERS = ("mlflow", "alembic", "sqlalchemy", "urllib3")
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own settings keep an unreachable server waiting for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Pooled connections would outlive a database that is rebuilt.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}


class TrackingStoreError(RunError):
    """The MLflow store itself cannot be used, whatever is to be written."""


class TrackingStore:
    """An MLflow store; without a URI the SQLite database inside the results folder, which alone is `own`.

    Every change is made under one file lock, so that processes that share a results folder write in turn.
    """

    def __init__(self, root: Path, uri: str | None = None):
        self.folder = root / "mlflow"  # for locks
        default = self.folder / "mlflow.db"
        self.uri = uri or f"{_SQLITE}{default}"
        self.database: Path | None = None
        self.artifacts: Path | None = self.folder / "artifacts"  # None where a server decides
        if self.uri.startswith(_SQLITE):
            # A relative path would mean another file in every working folder.
            self.database = Path(self.uri.removeprefix(_SQLITE)).resolve()
            self.uri = f"{_SQLITE}{self.database}"
            self.artifacts = self.database.parent / "artifacts"
        elif self.uri.partition(":")[0] in ("http", "https", "databricks", "databricks-uc"):
            self.artifacts = None
        self.own = self.database == default.resolve()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store against other processes of this results folder; the scratch files of dead ones are removed."""
        with exclusive(self.folder / ".write.lock", "writing MLflow", "the MLflow store", lambda _: None):
            for leftover in self.scratch_files():
                leftover.unlink(missing_ok=True)
            yield

    @contextmanager
    def opened(self) -> Iterator["MlflowClient"]:
        """A client on the store, which is made where there is none, while this process holds the lock."""
        with quiet(), self.locked():
            yield self.client()

    def client(self) -> "MlflowClient":
        """A client on the store, which is made where there is none. The caller holds the lock."""
        from mlflow import MlflowClient

        if self.database is not None:
            if _RESERVED & set(str(self.database)):
                letters = " ".join(sorted(_RESERVED))
                raise TrackingStoreError(f"MLflow cannot open {self.database}: the path holds one of {letters}")
            if not self.database.exists():
                # Made under another name: nobody, not even after a kill, meets a database with half of its tables.
                scratch = self._scratch("new")
                MlflowClient(f"{_SQLITE}{scratch}").search_experiments(max_results=1)
                os.replace(scratch, self.database)
            # MLflow tries for two minutes before it says that a database cannot be opened.
            with closing(sqlite3.connect(self.database, timeout=20)) as base:
                base.execute("BEGIN IMMEDIATE")
        return MlflowClient(self.uri)

    def experiment(self, client: "MlflowClient", name: str) -> str:
        """Id of the experiment with this name, made where there is none.

        Raises:
            TrackingStoreError: the store was made for a results folder in another place.
        """
        from mlflow.exceptions import MlflowException

        folder = name.replace(":", "-").replace("/", "_")
        location = str(self.artifacts / folder) if self.artifacts else None
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                # The kind makes MLflow's page open on training runs instead of on traces of language models.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return client.create_experiment(name, artifact_location=location, tags=kind)
            except MlflowException:
                # On a server, somebody on another machine may have been faster.
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if self.own and experiment.artifact_location != location:
            raise TrackingStoreError(f"the store in {self.folder} was made for {experiment.artifact_location}")
        return experiment.experiment_id

    def rows(self, statement: str, *values: str) -> list[tuple]:
        """Rows of a query to the database, without MLflow, which takes seconds to import.

        Raises:
            TrackingStoreError: the database is not readable.
        """
        assert self.database is not None
        if not self.database.exists():
            return []
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as base:
                return base.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise TrackingStoreError(f"{self.database} is not readable ({error})") from None

    def fresh(self) -> "TrackingStore":
        """A new database beside this one with the same artifacts, to be filled and then to `replace` this one."""
        fresh = TrackingStore(self.folder.parent)
        fresh.database = self._scratch("rebuilt")
        fresh.uri = f"{_SQLITE}{fresh.database}"
        return fresh

    def replace_by(self, other: "TrackingStore") -> None:
        """Take over the content of another database in one transaction, also under the eyes of an open MLflow page."""
        assert self.database is not None and other.database is not None
        try:
            with closing(sqlite3.connect(other.database)) as source, closing(sqlite3.connect(self.database)) as target:
                source.backup(target)
        except sqlite3.DatabaseError:
            # The old file is no database any more.
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.database}{suffix}").unlink(missing_ok=True)
            os.replace(other.database, self.database)

    def command_lock(self, command: str) -> "BaseFileLock":
        """The lock that a command holds while it works; where it is free, the command has ended."""
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / f".command.{command}.lock")

    def dead_commands(self) -> list[str]:
        """Commands that were killed: their lock files are there, and nobody holds them."""
        import filelock

        dead = []
        for path in self.folder.glob(".command.*.lock"):
            command = path.name.removeprefix(".command.").removesuffix(".lock")
            with suppress(filelock.Timeout), self.command_lock(command).acquire(timeout=0):
                dead.append(command)
        return dead

    def forget_command(self, command: str) -> None:
        """Remove the lock file of a command that has ended."""
        (self.folder / f".command.{command}.lock").unlink(missing_ok=True)

    def scratch_files(self) -> list[Path]:
        """Databases that were being made."""
        return [] if self.database is None else list(self.database.parent.glob(f".*.{self.database.name}.*"))

    def _scratch(self, kind: str) -> Path:
        assert self.database is not None
        self.database.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own each time: MLflow remembers which databases it has given tables.
        return self.database.with_name(f".{kind}.{self.database.name}.{secrets.token_hex(4)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Import MLflow; nothing that it and what it stands on log or warn of reaches the terminal. Errors are raised."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", BenchWarning)
        import mlflow  # noqa: F401  (its import sets the level of its loggers)

        before = {name: logging.getLogger(name).level for name in _LOGGERS}
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def write_run(client: "MlflowClient", experiment: str, content: RunContent, parent: str | None = None) -> str:
    """Write a run with everything in it; returns its id.

    Its status is final from the start, and its digest is written last, so a kill leaves no run that works for ever and
    none that passes for complete.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    tags = content.tags | ({"bench.run": content.key} if content.key else {})
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment, start_time=content.start, tags=tags, run_name=content.name).info.run_id
    if content.status != "RUNNING":
        client.set_terminated(run, content.status, content.end)
    params = [Param(name, value) for name, value in content.params.items()]
    for low in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run, params=params[low : low + _PARAMS_PER_CALL])
    metrics = [Metric(one.name, one.value, one.time, one.step) for one in content.metrics]
    for low in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run, metrics=metrics[low : low + _METRICS_PER_CALL])
    inputs = []
    for one in content.inputs:
        # Our own digest: those that MLflow computes do not see a changed cell. The source has it whole.
        source = json.dumps({"tags": one.source})
        dataset = Dataset(one.name, one.fingerprint[:DIGEST_LENGTH], source_type="code", source=source)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)]))
    if inputs:
        client.log_inputs(run, datasets=inputs)
    if content.config:
        client.log_dict(run, content.config, "config.json")
    for path in content.files:
        client.log_artifact(run, str(path))
    if content.digest:
        client.set_tag(run, "bench.digest", content.digest)
    return run


def remove_folders(folders: set[Path]) -> None:
    """Delete artifact folders of runs that are in no database any more."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def without_password(text: str) -> str:
    """A text without the password of a database URI."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)
