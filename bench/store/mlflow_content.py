"""What MLflow shows of a run, read from the plain files alone and without MLflow."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import RunError
from bench.evaluation.finding import SEVERITIES, in_order, of_record
from bench.evaluation.metrics import DEFAULT
from bench.messages import comma_list, first_line, shortened
from bench.store.metric_names import mlflow_name
from bench.store.records import CommandRecord, Evaluation, RunRecord, content_digest
from bench.store.results import CURVE, Store, checked_file, read_ranks

PARAM_LENGTH = 500  # a longer value is cut; the artifact config.json has it whole
TAG_LENGTH = 5000  # MLflow cuts at 8,000 without a word
NAME_LENGTH = 250
_RUN_ID = re.compile(r"(?P<model>.+)-s(?P<seed>\d+)-[0-9a-f]{12}")
DIGEST_LENGTH = 36  # MLflow refuses longer data set digests


class MetricValue(NamedTuple):
    """One value of a metric; `time` in ms since the epoch, `step` is the optimiser step (0 for a final value)."""

    name: str
    value: float
    time: int
    step: int


class DatasetInput(NamedTuple):
    """A data set of a run: its name, our fingerprint of it, "training" or "eval", and where it comes from."""

    name: str
    fingerprint: str
    context: str
    source: dict[str, str]


@dataclass(frozen=True)
class RunContent:
    """One run of the view. `start` and `end` in ms; `key` finds it again, `digest` changes with its content."""

    name: str
    key: str
    digest: str
    start: int | None
    end: int | None
    status: str = "FINISHED"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[MetricValue] = field(default_factory=list)
    inputs: list[DatasetInput] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def run_key(record: RunRecord) -> str:
    """What a finished run is found by."""
    return f"{record.id}:{record.fit_key}"


def run_content(store: Store, folder: Path, record: RunRecord) -> RunContent:
    """A finished run with all its evaluations.

    The metrics of one evaluation (the uniform one where there are several) have the plain names of `mlflow_name`; those
    of the others are prefixed with their label.

    Raises:
        RunError: the curve or a ranks file is not readable or differs from its record.
    """
    start, end = milliseconds(record.started or record.finished), milliseconds(record.finished)
    evaluations = _by_prefix(record)
    final = {"seconds": record.seconds, "peak_memory_mb": record.peak_memory_mb} | _numbers(record.fit, "fit")
    for prefix, evaluation in evaluations.items():
        final |= {prefix + name: value for name, value in _evaluation_metrics(folder, evaluation).items()}
    metrics = [MetricValue(name, float(value), end or 0, 0) for name, value in final.items()]
    files = [folder / "run.json", *(folder / evaluation.ranks for evaluation in evaluations.values())]
    if CURVE in record.files:
        files.append(checked_file(folder, CURVE))
        metrics += _curve(files[-1], start or 0)
    return RunContent(
        name=_spoken(record.title, record.seed) if record.kind == "fit" else record.title,
        key=run_key(record),
        digest=content_digest(record),
        start=start,
        end=end,
        params=_params(record),
        tags=_tags(store, folder, record, list(evaluations.values())),
        metrics=metrics,
        inputs=_inputs(record, list(evaluations.values())),
        config=record.config,
        files=files,
    )


def failed_content(name: str, message: str, command: CommandRecord) -> RunContent:
    """A run of a command that ended with an error; `name` as in `CommandRecord.failed`."""
    message = message[:TAG_LENGTH]
    run = name.rpartition("/")[2]
    parts = _RUN_ID.fullmatch(run)
    return RunContent(
        name=_spoken(parts["model"], int(parts["seed"])) if parts else run,
        # Of this command only: another one may have failed with another message. `allowed_name` leaves no quotes, which
        # a filter could not escape.
        key=allowed_name(f"{command.id} {name}"),
        digest=hashlib.sha256(message.encode()).hexdigest(),
        start=milliseconds(command.started),
        end=milliseconds(command.finished),
        status="FAILED",
        tags={"bench.kind": "failed", "bench.failed": message, "mlflow.note.content": message},
    )


def command_content(command: CommandRecord) -> RunContent:
    """The parent run of a command, while the command works."""
    words = {"models": command.models, "datasets": command.datasets, "seeds": command.seeds, "budget": command.budget}
    line = command.line[:TAG_LENGTH]
    tags = {"bench.kind": "command", "bench.command": command.id, "bench.budget": command.budget, "bench.line": line}
    tags |= {"mlflow.source.name": line, "mlflow.source.type": "LOCAL"}
    params = _texts(words, "bench", PARAM_LENGTH)
    name = f"{shortened(comma_list(command.models), NAME_LENGTH // 4)} ({command.budget}), {command.started[:16].replace('T', ' ')}"
    return RunContent(name, "", "", milliseconds(command.started), None, "RUNNING", params, tags)


def milliseconds(text: str) -> int | None:
    """ISO time to ms since the epoch; a time without a zone is local, no time is None."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def allowed_name(name: str) -> str:
    """The nearest name that MLflow accepts: letters, digits, `_ - . : /` and space, no empty or dotted path parts."""
    name = re.sub(r"[^\w\-. :/]", "", re.sub(r"[@=+%]", "_", name))
    parts = [" ".join(part.split()) for part in name.split("/")]
    return "/".join(part for part in parts if part.strip("."))[:NAME_LENGTH].rstrip("/ ") or "_"


def _spoken(model: str, seed: int) -> str:
    """What a person would call a run."""
    return f"{model}, seed {seed}"[:NAME_LENGTH]


def _by_prefix(record: RunRecord) -> dict[str, Evaluation]:
    """Evaluations by the prefix of their metrics: "" for the first, "<label>/" for the others."""
    evaluations: dict[str, Evaluation] = {}
    for one in sorted(record.evaluations.values(), key=lambda one: one.strategy != "uniform"):
        prefix = f"{allowed_name(one.label)}/" if evaluations else ""
        # Two candidate sets of one strategy differ in their seed, which the label need not say.
        evaluations[prefix if prefix not in evaluations else f"{prefix[:-1]}-{one.fingerprint[:8]}/"] = one
    return evaluations


def _evaluation_metrics(folder: Path, evaluation: Evaluation) -> dict[str, float]:
    """Metrics of the ranks file (`rec/N_10`, ...), rows and ties per task, leak counters (`leaks/...`), seconds."""
    ranks = read_ranks(folder, evaluation)
    metrics = _numbers(evaluation.leaks, "leaks") | {"seconds/evaluation": evaluation.seconds}
    for task in ranks.tasks:
        of_task = ranks.only(task)
        metrics |= {mlflow_name(task, metric): of_task.mean(metric) for metric in DEFAULT}
        metrics |= {f"rows/{task}": len(of_task), f"ties/{task}": of_task.tie_rate}
    return metrics


def _curve(path: Path, start: int) -> Iterator[MetricValue]:
    """Training and validation values by epoch. Validation has its own names, so that it never reads as the result."""
    seconds = 0.0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            values = json.loads(line)
            epoch = int(values.pop("epoch"))
            # An epoch may have several checks; the optimiser step tells them apart.
            step = int(values.pop("step", epoch))
            stage = values.pop("stage", "fit")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"line {number} of {path} is not an epoch of a curve ({first_line(error)})"
            raise RunError(f"{problem}; remove that run and repeat it") from None
        seconds += float(values.get("seconds", 0.0))
        for name, value in _numbers(values).items():
            shown = name if name.startswith("train/") else f"valid/{name}"
            name = "epoch/seconds" if name == "seconds" else shown
            name = name if stage == "fit" else f"{stage}/{name}"
            yield MetricValue(name, value, start + round(seconds * 1000), step)


def _params(record: RunRecord) -> dict[str, str]:
    data = record.dataset
    facts = {"model": record.model, "seed": record.seed, "budget": record.budget, "tasks": record.tasks}
    facts |= {"device": record.device, "threads": record.threads, "dataset": data["name"]}
    facts |= {name: value for name, value in data.items() if name in ("mode", "split", "options")}
    return _texts(record.config, "", PARAM_LENGTH) | _texts(facts, "bench", PARAM_LENGTH)


def _tags(store: Store, folder: Path, record: RunRecord, evaluations: list[Evaluation]) -> dict[str, str]:
    environment = dict(record.environment)
    commit, dirty = environment.pop("commit", None), environment.pop("dirty", None)
    facts: dict[str, Any] = {
        name: getattr(record, name) for name in ("kind", "model", "title", "group", "tasks", "seed")
    }
    facts |= {
        "budget": record.budget,
        "candidates": ",".join(one.fingerprint for one in evaluations),
        "candidates.labels": ",".join(one.label for one in evaluations),
        "data": record.dataset["fingerprint"],
        "dataset": record.dataset["name"],
        "synthetic": record.dataset.get("synthetic"),
        "code": record.code,
        "commit": commit or "unknown",
        "dirty": "unknown" if dirty is None else str(bool(dirty)).lower(),
        "folder": folder.relative_to(store.root).as_posix() if folder.is_relative_to(store.root) else folder.as_posix(),
        "evidence": record.evidence,
        "fit": {name: value for name, value in record.fit.items() if isinstance(value, str)},
        "env": environment,
        "audit": _audit(record),
    }
    tags = _texts({name: value for name, value in facts.items() if value not in (None, {})}, "bench", TAG_LENGTH)
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _audit(record: RunRecord) -> dict[str, Any]:
    """What `bench audit run` found in the model: how many of each severity, and the grave ones in words."""
    if not record.audit:
        return {}
    found = [of_record(each) for each in record.audit["findings"]]
    counts = {name: sum(each.severity == name for each in found) for name in SEVERITIES}
    return {
        "made": record.audit["made"],
        "counts": ", ".join(f"{count} {name}" for name, count in counts.items()),
        "findings": "\n".join(each.line() for each in in_order(found) if each.severity != "note") or "nothing grave",
    }


def _inputs(record: RunRecord, evaluations: list[Evaluation]) -> list[DatasetInput]:
    """The log that was learned from and the candidate sets that were ranked."""
    data = record.dataset
    names = ("name", "options", "mode", "split", "fingerprint")
    source = {name: _text(value) for name, value in data.items() if name in names}
    inputs = [DatasetInput(data["name"], data["fingerprint"], "training", source)]
    for one in evaluations:
        drawn = {"candidates": one.fingerprint, "label": one.label, "strategy": one.strategy, "seed": str(one.seed)}
        inputs.append(DatasetInput(f"{data['name']} {one.label}", one.fingerprint, "eval", source | drawn))
    return inputs


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _texts(values: dict[str, Any], prefix: str, length: int) -> dict[str, str]:
    """Nested values as text under names that MLflow accepts, none lost where two names become the same."""
    texts: dict[str, str] = {}
    for name, value in _flat(values, prefix) if values else ():
        unique, count = allowed_name(name), 2
        while unique in texts:
            unique, count = f"{allowed_name(name)[: NAME_LENGTH - 4]}_{count}", count + 1
        text = _text(value)
        texts[unique] = text if len(text) <= length else text[: length - 1] + "…"
    return texts


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numeric values among nested ones; truth values are 0 and 1."""
    flat = ((f"{prefix}/{name}" if prefix else name, value) for name, value in _flat(values, ""))
    return {allowed_name(name): float(value) for name, value in flat if isinstance(value, int | float)}


def _text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)
