"""What is recorded of runs and commands. A record is read back only when it is whole, of this format and unaltered."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import first_line

FORMAT = 3
REMEDY = "free space or choose another folder with --out"


class BenchWarning(UserWarning):
    """Base of what a user must hear and no library may silence."""


class DamagedRecordWarning(BenchWarning):
    """A record cannot be used; the command goes on without it."""


class DatasetFacts(TypedDict):
    """The data that a run stands on."""

    name: str  # as on the command line
    title: NotRequired[str]
    options: NotRequired[dict[str, Any]]  # of the data source
    fingerprint: str  # sha256 of the prepared log
    mode: NotRequired[str]  # "mirror" or "disjoint"
    split: str
    synthetic: NotRequired[str | list[str]]  # what is made up, empty when nothing is
    counts: NotRequired[dict[str, int]]
    split_counts: NotRequired[dict[str, int]]


@dataclass
class Evaluation:
    """A fit ranked on one candidate set. The ranks file holds the values; nothing here is an average of them."""

    fingerprint: str  # of the candidates
    label: str  # "uniform-99"
    strategy: str
    seed: int  # of the candidates
    rows: dict[str, int]  # task -> evaluated rows
    tie_rate: dict[str, float]  # task -> share of rows whose positive ties
    leaks: dict[str, Any]  # counters of data, split and candidates; "zero:*" keys must be 0
    ranks: str  # name of the file beside run.json
    sha256: str  # of that file
    seconds: float
    finished: str  # ISO time
    lists: str = ""  # name of the file with the best candidates of every row, where they were asked for
    lists_sha256: str = ""  # of that file


@dataclass
class RunRecord:
    """One fit with its evaluations, as stored in run.json. Keys of the fit come first, evidence after them."""

    id: str  # <model>-s<seed>-<fit key, 12 hex digits>
    fit_key: str
    kind: str  # "fit", or "imported" for scores made elsewhere
    model: str
    title: str
    group: str
    tasks: list[str]
    seed: int
    budget: str
    config: dict[str, Any]  # resolved: every setting of the model
    dataset: DatasetFacts
    device: str
    threads: int
    code: str  # hash of the sources of the model and of the layers below it
    fit: dict[str, Any] = field(default_factory=dict)  # epochs, best_epoch, converged, seconds, parameters, ...
    evidence: dict[str, Any] = field(default_factory=dict)  # what the model reports: backbone, ...
    files: dict[str, str] = field(default_factory=dict)  # file beside run.json -> its sha256 when the fit ended
    evaluations: dict[str, Evaluation] = field(default_factory=dict)  # by candidates fingerprint
    environment: dict[str, Any] = field(default_factory=dict)  # packages, hardware, commit, dirty, command line
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    audit: dict[str, Any] = field(default_factory=dict)  # what `bench audit run` found: made, rows, findings
    format: int = FORMAT


@dataclass
class CommandRecord:
    """What one `bench run` asks for and which runs answer it."""

    id: str
    line: str
    started: str
    datasets: list[str]
    models: list[str]
    seeds: list[int]
    budget: str
    candidates: list[str]  # fingerprints
    runs: list[str] = field(default_factory=list)  # "<data set>/<run id>"
    failed: dict[str, str] = field(default_factory=dict)  # run -> one line
    finished: str = ""
    format: int = FORMAT


def now() -> str:
    """The current time as ISO text, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def content_digest(record: RunRecord | CommandRecord) -> str:
    """Sha256 of a record's canonical JSON: equal exactly where the content is equal."""
    return _digest(_plain(record))


def write_record(path: Path, record: RunRecord | CommandRecord) -> None:
    """Write a record together with the digest of its content, whole or not at all.

    Raises:
        RunError: the disk is full, the folder read-only.
    """
    content = _plain(record)
    text = json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n"
    write_atomically(path, lambda scratch: scratch.write_text(text), REMEDY)


def read_run(folder: Path) -> RunRecord:
    """The record in a run's folder.

    Raises:
        RunError: there is none, it is not readable, of another format, or was changed since it was written.
    """
    content = _read(folder / "run.json", f"no run at {folder}; `bench runs list` shows those that exist")
    try:
        evaluations = {key: Evaluation(**value) for key, value in content.pop("evaluations").items()}
        return RunRecord(**content, evaluations=evaluations)
    except (TypeError, KeyError, AttributeError) as error:
        raise RunError(_unreadable(folder / "run.json", error)) from None


def read_command(path: Path) -> CommandRecord:
    """A command's record.

    Raises:
        RunError: as `read_run`.
    """
    content = _read(path, f"no command at {path}")
    try:
        return CommandRecord(**content)
    except TypeError as error:
        raise RunError(_unreadable(path, error)) from None


def _plain(record: RunRecord | CommandRecord) -> dict[str, Any]:
    """The record as JSON gives it back: text keys, lists for tuples."""
    return json.loads(json.dumps(asdict(record), default=str))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        # Before anything else: a record of another format lacks fields or has others.
        if content["format"] != FORMAT:
            version = content["format"]
            raise RunError(f"{path} has format {version}, this version reads {FORMAT}; {_remedy(path)}")
        expected = content.pop("sha256")
        changed = _digest(content) != expected
    except FileNotFoundError:
        raise RunError(missing) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(_unreadable(path, error)) from None
    if changed:
        raise RunError(
            f"{path} was changed after it was written: its content does not give its sha256; {_remedy(path)}"
        )
    return content


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} is not a readable record ({type(error).__name__}: {first_line(error)}); {_remedy(path)}"


def _remedy(path: Path) -> str:
    return "remove that folder and repeat the run" if path.name == "run.json" else "remove that file"
