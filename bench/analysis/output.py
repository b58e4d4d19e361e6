"""What an analysis leaves: tables (CSV, LaTeX), figures (PNG, PDF), what it takes to repeat it, and an MLflow run."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import first_line
from bench.store import environment
from bench.store.mlflow_content import MetricValue, RunContent
from bench.store.mlflow_database import TrackingStore, write_run
from bench.store.records import BenchWarning
from bench.store.results import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "analyses"


@dataclass
class Analysis:
    """The result of one analysis.

    Attributes:
        name: `mi`, `space`, ...
        settings: everything that decides the numbers.
        tables: by name; the one called like the analysis is the main one.
        figures: by name.
        remarks: a line each, for the terminal and the report.
    """

    name: str
    settings: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    figures: dict[str, "Figure"] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def write(analysis: Analysis, folder: Path, store: Store, tracking_uri: str | None = None) -> list[Path]:
    """Write everything into a folder, and an MLflow run with the same files.

    Returns:
        the files.

    Raises:
        RunError: a file cannot be written.
    """
    started = int(time.time() * 1000)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; give another folder with --to") from error
    files: list[Path] = []

    def put(name: str, content: str) -> None:
        write_atomically(folder / name, lambda scratch: scratch.write_text(content))
        files.append(folder / name)

    for name, frame in analysis.tables.items():
        put(f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
        put(f"{name}.tex", latex(frame))
    for name, figure in analysis.figures.items():
        for kind in ("png", "pdf"):
            path = folder / f"{name}.{kind}"
            write_atomically(path, partial(_draw, figure, kind))
            files.append(path)
    facts = {"analysis": analysis.name, "settings": analysis.settings, "remarks": analysis.remarks}
    put("analysis.json", json.dumps(facts | {"environment": environment.facts()}, indent=1, default=str) + "\n")
    _track(analysis, files, store, tracking_uri, started)
    return files


def _draw(figure: "Figure", kind: str, path: Path) -> None:
    """Write a figure; without a date the same figure has the same bytes."""
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    figure.savefig(path, format=kind, dpi=150, metadata=metadata)


def latex(frame: pd.DataFrame) -> str:
    """A booktabs `tabular` with three digits."""
    from tabulate import tabulate

    shown = frame.dropna(axis=1, how="all")
    return (
        tabulate(
            shown, headers=list(map(str, shown.columns)), tablefmt="latex_booktabs", floatfmt=".3f", showindex=False
        )
        + "\n"
    )


def _track(analysis: Analysis, files: list[Path], store: Store, uri: str | None, started: int) -> None:
    """The MLflow run. The files are complete without it, so what is wrong with MLflow is a warning."""
    import warnings

    tracking = TrackingStore(store.root, uri)
    content = RunContent(
        name=f"{analysis.name}",
        key="",
        digest="",
        start=started,
        end=int(time.time() * 1000),
        params={key: str(value)[:500] for key, value in analysis.settings.items()},
        tags={"bench.kind": "analysis", "bench.command": environment.command_line()[:5000]},
        metrics=[
            MetricValue(name, value, started, 0) for name, value in _numbers(analysis.tables[analysis.name]).items()
        ],
        files=files,
    )
    try:
        with tracking.opened() as client:
            write_run(client, tracking.experiment(client, EXPERIMENT), content)
    except Exception as error:
        warnings.warn(
            f"MLflow was not written ({first_line(error)}); the files are complete", BenchWarning, stacklevel=2
        )


def _numbers(frame: pd.DataFrame) -> Mapping[str, float]:
    """Columns with numbers as metrics, a line's words before them; MLflow takes no empty word."""
    out = {}
    words = [name for name in frame.columns if frame[name].dtype == object or frame[name].dtype.name == "str"]
    spoken = [name for name in words if name not in ("remark", "metric", "dataset")]
    for _, line in frame.iterrows():
        label = [str(line[name]) for name in spoken if pd.notna(line[name]) and str(line[name])]
        for name in frame.columns.difference(words):
            if pd.notna(line[name]):
                key = "".join(c if c.isalnum() or c in "_-./ " else "_" for c in "/".join([*label, name]))
                out[key[:250]] = float(line[name])
    return out
