"""What the MLflow view shows of a run, read from the plain files alone and without MLflow."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import RunError
from bench.evaluation.metrics import DEFAULT
from bench.store.metric_names import mlflow_name
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store, read_ranks

PARAM_LENGTH = 500  # a longer value is cut; the artifact config.json has it whole
TAG_LENGTH = 5000  # MLflow cuts at 8,000 without a word
NAME_LENGTH = 250
DIGEST_LENGTH = 36  # MLflow refuses longer data set digests


class Point(NamedTuple):
    """One value of a metric; `time` in ms since the epoch, `step` is the training epoch (0 for a final value)."""

    name: str
    value: float
    time: int
    step: int


class Input(NamedTuple):
    """A data set input: what it is called, our fingerprint of it, "training" or "eval", and where it comes from."""

    name: str
    digest: str
    context: str
    source: dict[str, str]


@dataclass(frozen=True)
class View:
    """A child run, ready to be written. `start` and `end` in ms; `digest` changes whenever anything shown changes."""

    name: str
    key: str
    digest: str
    start: int | None
    end: int | None
    status: str = "FINISHED"
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)


def run_view(store: Store, folder: Path, record: RunRecord) -> View:
    """A finished run with all its evaluations.

    The figures of one evaluation (the uniform one where there are several) have plain names as in `mlflow_name`; those
    of the others are prefixed with their label.

    Raises:
        RunError: the curve or a ranks file is not readable.
    """
    shown = _shown(record)
    start, end = milliseconds(record.started or record.finished), milliseconds(record.finished)
    points = [Point(name, value, end or 0, 0) for name, value in _final(record).items()]
    for prefix, evaluation in shown.items():
        values = evaluation_metrics(store, folder, evaluation)
        points += [Point(prefix + name, value, end or 0, 0) for name, value in values.items()]
    curve = folder / "curve.jsonl"
    points += list(_curve(curve, start or 0)) if curve.exists() else []
    state = json.dumps(asdict(record), sort_keys=True, default=str)
    files = [folder / "run.json", curve, *(folder / evaluation.ranks for evaluation in shown.values())]
    return View(
        name=record.id,
        key=f"{record.id}:{record.fit_key}",
        digest=hashlib.sha256(state.encode()).hexdigest()[:16],
        start=start,
        end=end,
        params=_params(record),
        tags=_tags(store, folder, record, list(shown.values())),
        points=points,
        inputs=_inputs(record, list(shown.values())),
        config=record.config,
        artifacts=[path for path in files if path.exists()],
    )


def failed_view(name: str, message: str, command: CommandRecord) -> View:
    """A run of a command that ended with an error; `name` as in `CommandRecord.failed`."""
    message = message[:TAG_LENGTH]
    return View(
        name=name.rpartition("/")[2],
        # Of this command only: another one may have failed with another message. `allowed` leaves no quotes, which a
        # filter could not escape.
        key=allowed(f"{command.id} {name}"),
        digest=hashlib.sha256(message.encode()).hexdigest()[:16],
        start=milliseconds(command.started),
        end=milliseconds(command.finished),
        status="FAILED",
        tags={"bench.kind": "failed", "bench.failed": message, "mlflow.note.content": message},
    )


def command_view(command: CommandRecord) -> View:
    """The parent run of a command."""
    asked = {"models": command.models, "datasets": command.datasets, "seeds": command.seeds, "budget": command.budget}
    line = command.line[:TAG_LENGTH]
    tags = {"bench.kind": "command", "bench.command": command.id, "bench.budget": command.budget, "bench.line": line}
    tags |= {"mlflow.source.name": line, "mlflow.source.type": "LOCAL"}
    return View(
        name=command.id,
        key=command.id,
        digest="",
        start=milliseconds(command.started),
        end=milliseconds(command.finished),
        params=_texts(asked, "bench", PARAM_LENGTH),
        tags=tags,
    )


def evaluation_metrics(store: Store, folder: Path, evaluation: Evaluation) -> dict[str, float]:
    """Metrics of the ranks file (`rec/N_10`, ...), rows and ties of each task, leak counters (`leaks/...`), seconds."""
    ranks = read_ranks(folder, evaluation)
    found: dict[str, float] = {}
    for task in ranks.tasks:
        of_task = ranks.only(task)
        found |= {mlflow_name(task, metric): of_task.mean(metric) for metric in DEFAULT}
        found |= {f"rows/{task}": float(len(of_task)), f"ties/{task}": of_task.tie_rate}
    found |= _numbers(evaluation.leaks, "leaks")
    return found | {"seconds/evaluation": float(evaluation.seconds)}


def milliseconds(text: str) -> int | None:
    """ISO time to ms since the epoch; a time without a zone is local, no time is None."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def allowed(name: str) -> str:
    """The nearest name that MLflow accepts: letters, digits, `_ - . : /` and space, no empty or dotted path parts."""
    kept = re.sub(r"[^\w\-. :/]", "", re.sub(r"[@=+%]", "_", name))
    parts = [" ".join(part.split()) for part in kept.split("/")]
    return "/".join(part for part in parts if part.strip("."))[:NAME_LENGTH].rstrip("/ ") or "_"


def _shown(record: RunRecord) -> dict[str, Evaluation]:
    """Evaluations by the prefix of their names: "" for the first, "<label>/" for the others."""
    chosen = sorted(record.evaluations.values(), key=lambda one: one.strategy != "uniform")
    shown: dict[str, Evaluation] = {}
    for one in chosen:
        prefix = f"{allowed(one.label)}/" if shown else ""
        # Two candidate sets of one strategy differ in their seed, which the label need not say.
        shown[prefix if prefix not in shown else f"{allowed(one.label)}-{one.fingerprint[:8]}/"] = one
    return shown


def _final(record: RunRecord) -> dict[str, float]:
    facts = {"seconds": float(record.seconds), "peak_memory_mb": float(record.peak_memory_mb)}
    return facts | _numbers(record.fit, "fit")


def _curve(path: Path, start: int) -> Iterator[Point]:
    """Training and validation values by epoch. Validation has its own names, so that it never reads as the result."""
    passed = 0.0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            values = json.loads(line)
            step = int(values.pop("epoch"))
            stage = values.pop("stage", "fit")
            values.pop("step", None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            mend = "remove that run and repeat it"
            raise RunError(f"line {number} of {path} is not an epoch of a curve ({error}); {mend}") from None
        passed += float(values.get("seconds", 0.0))
        for name, value in _numbers(values).items():
            if name == "seconds":
                name = "epoch/seconds"
            elif not name.startswith("train/"):
                name = f"valid/{name}"
            name = name if stage == "fit" else f"{stage}/{name}"
            yield Point(name, value, start + round(passed * 1000), step)


def _params(record: RunRecord) -> dict[str, str]:
    data = record.dataset
    facts = {"model": record.model, "seed": record.seed, "budget": record.budget, "tasks": record.tasks}
    facts |= {"device": record.device, "threads": record.threads, "dataset": data["name"]}
    facts |= {name: data[name] for name in ("mode", "split", "options") if name in data}
    return _texts(record.config, "", PARAM_LENGTH) | _texts(facts, "bench", PARAM_LENGTH)


def _tags(store: Store, folder: Path, record: RunRecord, shown: list[Evaluation]) -> dict[str, str]:
    environment = dict(record.environment)
    commit, dirty = environment.pop("commit", None), environment.pop("dirty", None)
    facts = {
        "kind": record.kind,
        "model": record.model,
        "title": record.title,
        "group": record.group,
        "tasks": record.tasks,
        "seed": record.seed,
        "budget": record.budget,
        "candidates": ",".join(one.fingerprint for one in shown),
        "candidates.labels": ",".join(one.label for one in shown),
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
    }
    tags = _texts({name: value for name, value in facts.items() if value not in (None, {})}, "bench", TAG_LENGTH)
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _inputs(record: RunRecord, shown: list[Evaluation]) -> list[Input]:
    """The log that was learned from and the candidate sets that were ranked."""
    data = record.dataset
    told: tuple[str, ...] = ("name", "options", "mode", "split", "fingerprint")
    source = {name: _text(value) for name, value in data.items() if name in told}
    # A longer fingerprint is cut here only; the source and the tags have it whole.
    found = [Input(data["name"], data["fingerprint"][:DIGEST_LENGTH], "training", source)]
    for one in shown:
        drawn = {"candidates": one.fingerprint, "label": one.label, "strategy": one.strategy, "seed": str(one.seed)}
        found.append(Input(f"{data['name']} {one.label}", one.fingerprint[:DIGEST_LENGTH], "eval", source | drawn))
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _texts(values: dict[str, Any], prefix: str, length: int) -> dict[str, str]:
    """Nested values as text under names that MLflow accepts, none lost where two names become the same."""
    found: dict[str, str] = {}
    for name, value in _flat(values, prefix):
        unique, count = allowed(name), 2
        while unique in found:
            unique, count = f"{allowed(name)[: NAME_LENGTH - 4]}_{count}", count + 1
        text = _text(value)
        found[unique] = text if len(text) <= length else text[: length - 1] + "…"
    return found if values else {}


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numeric values among nested ones; truth values are 0 and 1."""
    flat = ((f"{prefix}/{name}" if prefix else name, value) for name, value in _flat(values, ""))
    return {allowed(name): float(value) for name, value in flat if isinstance(value, int | float)}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)
