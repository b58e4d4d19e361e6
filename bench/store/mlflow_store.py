"""Where the MLflow view lives and how it is opened and written: quietly, and made by one process at a time."""

import json
import logging
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import RunError
from bench.store.mlflow_runs import View

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_RESERVED = frozenset("%?#")  # have a meaning of their own in a database URI
_METRICS_PER_CALL = 1000  # MLflow's limits
_PARAMS_PER_CALL = 100
_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own settings keep an unreachable server waiting for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class StoreError(RunError):
    """The tracking store itself cannot be used, whatever is to be written."""


@dataclass(frozen=True)
class Place:
    """A tracking store. `artifacts` is None where a server decides; `own` marks the store inside a results folder."""

    uri: str
    folder: Path  # for locks
    database: Path | None
    artifacts: Path | None
    own: bool

    @classmethod
    def of(cls, root: Path, uri: str | None) -> "Place":
        """The store behind a URI, or the one inside the results folder `root`."""
        folder = root / "mlflow"
        default = folder / "mlflow.db"
        if uri is None:
            uri = f"{_SQLITE}{default}"
        if uri.startswith(_SQLITE):
            # A relative path would mean another file in every working folder.
            database = Path(uri.removeprefix(_SQLITE)).resolve()
            artifacts = database.parent / "artifacts"
            return cls(f"{_SQLITE}{database}", folder, database, artifacts, database == default.resolve())
        remote = uri.partition(":")[0] in ("http", "https", "databricks", "databricks-uc")
        return cls(uri, folder, None, None if remote else folder / "artifacts", False)

    def beside(self) -> "Place":
        """A new database beside this one with the same artifacts."""
        assert self.database is not None
        database = self.database.with_name(f".{self.database.name}.{os.getpid()}")
        return Place(f"{_SQLITE}{database}", self.folder, database, self.artifacts, self.own)

    def location(self, experiment: str) -> str | None:
        """Absolute artifact location of an experiment."""
        name = experiment.replace(":", "-").replace("/", "_")
        return str(self.artifacts / name) if self.artifacts else None

    def connect(self) -> "MlflowClient":
        """A client on the store, which is made first where there is none."""
        configure(sqlite=self.database is not None)
        from mlflow import MlflowClient

        with self.locked("schema"):
            if self.database is not None:
                if _RESERVED & set(str(self.database)):
                    raise StoreError(
                        f"MLflow cannot open {self.database}: the path holds one of {' '.join(sorted(_RESERVED))}"
                    )
                if not self.database.exists():
                    _create(self.database)
                # MLflow tries for two minutes before it says so.
                with closing(sqlite3.connect(self.database, timeout=20)) as base:
                    base.execute("BEGIN IMMEDIATE")
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        return client

    def experiment(self, client: "MlflowClient", name: str) -> str:
        """Id of the experiment with this name, made where there is none.

        Raises:
            StoreError: the store was made for a results folder in another place.
        """
        from mlflow.exceptions import MlflowException

        with self.locked("schema"):
            found = client.get_experiment_by_name(name)
            if found is None:
                try:
                    return client.create_experiment(name, artifact_location=self.location(name))
                except MlflowException:
                    # On a server, somebody on another machine may have been faster.
                    found = client.get_experiment_by_name(name)
                    if found is None:
                        raise
        if self.own and found.artifact_location != self.location(name):
            raise StoreError(f"the store in {self.folder} was made for another folder, {found.artifact_location}")
        return found.experiment_id

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Wait for, then hold a lock of this store.

        Two processes that make the tables of one database at the same time leave neither of them with a usable one.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def hold(self, exclusive: bool) -> Any:
        """An open file that says "in use" (shared) or "being replaced" (exclusive) until it is closed.

        Raises:
            StoreError: another process holds it the other way.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        stream = (self.folder / ".use.lock").open("w")
        try:
            fcntl.flock(stream, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            doing = "writing to it; repeat this when that is done" if exclusive else "rebuilding it"
            raise StoreError(f"the MLflow store in {self.folder} is busy: another process is {doing}") from None
        return stream

    def replace_by(self, other: "Place") -> None:
        """Take over the content of another database in one transaction, also under the eyes of an open MLflow UI."""
        assert self.database is not None and other.database is not None
        try:
            with closing(sqlite3.connect(other.database)) as source, closing(sqlite3.connect(self.database)) as target:
                source.backup(target)
        except sqlite3.DatabaseError:
            # The old file is no database any more.
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{self.database}{suffix}").unlink(missing_ok=True)
            os.replace(other.database, self.database)

    def moved(self) -> bool:
        """Whether the database was made for another folder; a question to SQLite, which answers at once."""
        if self.database is None or self.artifacts is None:
            return False
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as base:
                rows = base.execute("SELECT artifact_location FROM experiments WHERE experiment_id != 0").fetchall()
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.database} is not readable ({error}); `bench ui --rebuild` makes it anew") from None
        return any(not Path(location).is_relative_to(self.artifacts) for (location,) in rows)


def configure(sqlite: bool = False) -> None:
    """Settings that MLflow reads from the environment; what the user has set stays, except that nothing phones home."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sqlite:
        # Pooled connections would outlive a database that is deleted and rebuilt.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that MLflow and what it stands on have to say reaches the terminal; errors are raised."""
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401  (its import sets the level of its loggers)

        before = {name: logging.getLogger(name).level for name in _LOGGERS}
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def write(client: "MlflowClient", experiment: str, view: View, tags: dict[str, str]) -> str:
    """A new run with everything in the view, still running; its id."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    tags = view.tags | tags | _writer()
    run = client.create_run(experiment, start_time=view.start, tags=tags, run_name=view.name).info.run_id
    params = [Param(name, value) for name, value in view.params.items()]
    for low in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run, params=params[low : low + _PARAMS_PER_CALL])
    metrics = [Metric(point.name, point.value, point.time, point.step) for point in view.points]
    for low in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run, metrics=metrics[low : low + _METRICS_PER_CALL])
    inputs = []
    for one in view.inputs:
        # Our own digest: those that MLflow computes do not see a changed cell.
        dataset = Dataset(one.name, one.digest, source_type="code", source=json.dumps({"tags": one.source}))
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)]))
    if inputs:
        client.log_inputs(run, datasets=inputs)
    if view.config:
        client.log_dict(run, view.config, "config.json")
    for path in view.artifacts:
        client.log_artifact(run, str(path))
    return run


def _writer() -> dict[str, str]:
    """Which process writes a run, so that a later one can tell whether it still lives."""
    import psutil

    started = f"{psutil.Process().create_time():.1f}"
    names = ("bench.writer.host", "bench.writer.pid", "bench.writer.started")
    return dict(zip(names, (socket.gethostname(), str(os.getpid()), started), strict=True))


def end_abandoned(client: "MlflowClient") -> int:
    """Set runs of dead processes of this machine, which MLflow shows as running for ever, to KILLED; how many."""
    ids = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    mine = f"attributes.status = 'RUNNING' and tags.`bench.writer.host` = '{socket.gethostname()}'"
    found = client.search_runs(ids, mine, max_results=1000) if ids else []
    abandoned = [run.info.run_id for run in found if not _alive(run.data.tags)]
    for run_id in abandoned:
        client.set_terminated(run_id, "KILLED")
    return len(abandoned)


def _alive(tags: dict[str, str]) -> bool:
    """Whether the process that wrote these tags lives; a pid alone is given to another process later."""
    import psutil

    try:
        process = psutil.Process(int(tags["bench.writer.pid"]))
        same = abs(process.create_time() - float(tags["bench.writer.started"])) < 2
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, ValueError):
        return False


def _create(database: Path) -> None:
    """A database with all tables, made under another name: nobody, not even after a kill, meets it half-made."""
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    scratch = database.with_name(f".new.{database.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    try:
        MlflowClient(f"{_SQLITE}{scratch}").search_experiments(max_results=1)
        os.replace(scratch, database)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
