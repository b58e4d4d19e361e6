"""Names of metrics in MLflow, which forbids `@`."""

from bench.data.log import TASKS
from bench.errors import unknown
from bench.evaluation.metrics import Metric, parse


def mlflow_name(task: str, metric: Metric) -> str:
    """Name under which MLflow, which forbids `@`, stores the metric of a task: `rec/N_10`."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return f"{task}/{str(metric).replace('@', '_')}"


def from_mlflow_name(name: str) -> tuple[str, Metric]:
    """Task and metric behind a name that `mlflow_name` made."""
    task, _, rest = name.partition("/")
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return task, parse(rest.replace("_", "@"))
