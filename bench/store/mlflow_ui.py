"""The MLflow UI on a results folder: the command that serves it, and the address that shows the newest runs."""

import hashlib
import json
import sys
from urllib.parse import urlencode

from bench.data.log import TASKS
from bench.errors import UsageError
from bench.evaluation.metrics import PRIMARY
from bench.store.metric_names import mlflow_name
from bench.store.mlflow_database import TrackingStore, without_password
from bench.store.results import Store

_NEWEST = """
    SELECT r.experiment_id, r.run_uuid FROM runs r JOIN tags t USING (run_uuid)
    WHERE t.key = 'bench.kind' AND t.value = 'command' AND r.lifecycle_stage = 'active' ORDER BY r.start_time DESC LIMIT 1
"""
_METRICS = """
    SELECT DISTINCT m.key FROM latest_metrics m JOIN tags t USING (run_uuid)
    WHERE t.key = 'mlflow.parentRunId' AND t.value = ?
"""


def ui_command(store: Store, uri: str | None, port: int) -> list[str]:
    """Command line of the MLflow UI on this store, for this machine only.

    Raises:
        UsageError: the store is a server, which has its own UI.
    """
    tracking = TrackingStore(store.root, uri)
    if tracking.artifacts is None:
        raise UsageError(f"{without_password(tracking.uri)} is a server with its own UI; open it in a browser")
    where = ["--backend-store-uri", tracking.uri, "--artifacts-destination", str(tracking.artifacts)]
    return [sys.executable, "-m", "mlflow", "ui", *where, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def ui_address(store: Store, uri: str | None, port: int) -> str:
    """Address of the page with the runs of the newest command that made any; of the first page where there is none.

    The page shows the models of that command, the best first, with the primary metric of each task as columns. MLflow
    reads such a view from a tag of the experiment, which is written here.

    Raises:
        RunError: the store cannot be written.
    """
    address = f"http://127.0.0.1:{port}"
    tracking = TrackingStore(store.root, uri)
    newest = tracking.rows(_NEWEST) if tracking.database is not None else []
    if not newest:
        return address
    experiment, parent = newest[0]
    there = {name for (name,) in tracking.rows(_METRICS, parent)}
    columns = [name for task in TASKS if (name := mlflow_name(task, PRIMARY)) in there]
    view = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "selectedColumns": [f"metrics.`{name}`" for name in columns],
        "viewMaximized": True,
    }
    if columns:
        view |= {"orderByKey": f"metrics.`{columns[0]}`", "orderByAsc": False}
    content_of_tag = json.dumps(view)
    key = hashlib.sha256(content_of_tag.encode()).hexdigest()[:16]
    with tracking.opened() as client:
        client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", content_of_tag)
    words = {"viewStateShareKey": key, "workflowType": "machine_learning"}
    return f"{address}/#/experiments/{experiment}/runs?{urlencode(words)}"
