"""What an analysis leaves: tables (CSV, LaTeX), figures (PNG, PDF), what it takes to repeat it, and an MLflow run."""

import json
import time
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.analysis import figures
from bench.analysis.captions import caption
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
FACTS = "analysis.json"
LATEX_ROWS = 100
"""A longer table is no table of a paper; it is written as CSV alone."""


@dataclass
class Analysis:
    """The result of one analysis.

    Attributes:
        name: `mi`, `space`, ...
        settings: everything that decides the numbers.
        tables: by name; the one called like the analysis is the main one. The figures are drawn from them.
        remarks: a line each, for the terminal and the report.
    """

    name: str
    settings: dict[str, Any]
    tables: dict[str, pd.DataFrame]
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
    for name, frame in analysis.tables.items():
        _put(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    facts = {"analysis": analysis.name, "settings": analysis.settings, "remarks": analysis.remarks}
    _put(folder / FACTS, json.dumps(facts | {"environment": environment.facts()}, indent=1, default=str) + "\n")
    files = [folder / FACTS, *(folder / f"{name}.csv" for name in analysis.tables)]
    files += _drawn(analysis.name, analysis.settings, folder, analysis.tables)
    _track(analysis, files, store, tracking_uri, started)
    return files


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of a written analysis and set its LaTeX tables anew from the CSV files; nothing is computed.

    Returns:
        the files.

    Raises:
        RunError: there is no analysis in the folder, or it is not readable.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        names = sorted(each.stem for each in folder.glob("*.csv"))
        return _drawn(facts["analysis"], facts["settings"], folder, names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder} holds no analysis that can be drawn ({first_line(error)}); repeat bench analyze"
        ) from error


def _drawn(name: str, settings: Mapping[str, Any], folder: Path, names: Iterable[str]) -> list[Path]:
    """Write LaTeX tables and figures of an analysis from its CSV files, so that they always agree with these."""
    files = []
    tables = {each: pd.read_csv(folder / f"{each}.csv") for each in names}
    for stem, frame in tables.items():
        if len(frame) <= LATEX_ROWS:
            _put(folder / f"{stem}.tex", latex(frame))
            files.append(folder / f"{stem}.tex")
    for stem, figure in figures.draw(name, tables, settings, caption(name, settings)).items():
        for kind in ("png", "pdf"):
            path = folder / f"{stem}.{kind}"
            write_atomically(path, partial(_draw, figure, kind))
            files.append(path)
    return files


def _put(path: Path, content: str) -> None:
    write_atomically(path, lambda scratch: scratch.write_text(content))


def _draw(figure: "Figure", kind: str, path: Path) -> None:
    """Write a figure; without a date the same figure has the same bytes."""
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    figure.savefig(path, format=kind, dpi=150, metadata=metadata)


def latex(frame: pd.DataFrame) -> str:
    """A booktabs `tabular` with three digits; what is not there is empty, and a p below .001 says so."""
    from tabulate import tabulate

    shown = frame.dropna(axis=1, how="all")
    cells = [[_cell(name, value) for name, value in line.items()] for _, line in shown.iterrows()]
    # Cells are words by now, so the columns of numbers are told by their type.
    sides = ["right" if pd.api.types.is_numeric_dtype(kind) else "left" for kind in shown.dtypes]
    headers = list(map(str, shown.columns))
    return tabulate(cells, headers, tablefmt="latex_booktabs", disable_numparse=True, colalign=sides) + "\n"


def _cell(column: Hashable, value: Any) -> str:
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    if column == "value":
        return f"{value:g}"  # of a setting: they span powers of ten
    return "<.001" if str(column) in ("p", "p_holm") and value < 0.001 else f"{value:.3f}"


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
