"""What `bench analyze` left in a results folder: tables, figures and remarks, small enough for a page."""

import base64
import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.messages import comma_list, first_line

FOLDER, FACTS = "analyses", "analysis.json"
MOST_LINES = 60  # of a table
MOST_BYTES = 700_000  # of all figures together, as they stand in the page
_WIDTH, _COLORS = 1100, 64  # of a figure


@dataclass(frozen=True)
class StoredAnalysis:
    """One analysis as plain data.

    Attributes:
        name: `mi`, `space`, ...
        settings: what decides its numbers, a line.
        remarks: a line each.
        header: of its main table.
        lines: of its main table, at most `MOST_LINES`.
        of: how many lines the table has.
        figures: names and data URIs.
        left_out: what is not shown, and why; empty where all is there.
    """

    name: str
    settings: str
    remarks: tuple[str, ...]
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    of: int
    figures: tuple[tuple[str, str], ...]
    left_out: str


def analyses(roots: Iterable[Path], datasets: Iterable[str]) -> list[StoredAnalysis]:
    """The analyses in results folders that are on these data sets, or on none.

    Args:
        roots: results folders.
        datasets: names of the table's data sets.
    """
    found, room, wanted = [], MOST_BYTES, set(datasets)
    for root in dict.fromkeys(roots):
        for path in sorted((root / FOLDER).glob(f"*/{FACTS}")):
            try:
                facts: dict[str, Any] = json.loads(path.read_text())
                name, settings = str(facts["analysis"]), dict(facts["settings"])
                on = settings.get("dataset", ())
                if on and not wanted & set([on] if isinstance(on, str) else on):
                    continue
                header, lines = _table(path.with_name(f"{name}.csv"))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                found.append(_unreadable(path, error))
                continue
            figures, left_out = [], []
            for figure in sorted(path.parent.glob("*.png")):
                uri = _data_uri(figure)
                if uri is None or len(uri) > room:
                    left_out.append(figure.stem)
                    continue
                figures.append((figure.stem, uri))
                room -= len(uri)
            found.append(
                StoredAnalysis(
                    name=name,
                    settings=comma_list(f"{key} {_words(value)}" for key, value in settings.items()),
                    remarks=tuple(map(str, facts.get("remarks", ()))),
                    header=header,
                    lines=tuple(lines[:MOST_LINES]),
                    of=len(lines),
                    figures=tuple(figures),
                    left_out=f"figures that are not in this page: {comma_list(left_out)}" if left_out else "",
                )
            )
    return found


def _table(path: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and lines of a CSV, without columns that are empty throughout."""
    with path.open(newline="", encoding="utf-8") as stream:
        header, *lines = list(csv.reader(stream)) or [[]]
    kept = [place for place in range(len(header)) if any(line[place] for line in lines)]
    return tuple(header[place] for place in kept), [tuple(_short(line[place]) for place in kept) for line in lines]


def _short(text: str) -> str:
    """A number with three decimals at most; other text as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if number.is_integer() else f"{number:.3f}" if abs(number) >= 0.001 else f"{number:.1e}"


def _data_uri(path: Path) -> str | None:
    """A figure as a PNG of few colours; None where it is no readable picture."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError:
        return None
    picture.thumbnail((_WIDTH, 4 * _WIDTH))
    stream = io.BytesIO()
    picture.quantize(_COLORS).save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _words(value: Any) -> str:
    return comma_list(map(str, value)) if isinstance(value, list) else str(value)


def _unreadable(path: Path, error: Exception) -> StoredAnalysis:
    words = f"{path.parent.name} is not readable ({first_line(error)}); repeat bench analyze {path.parent.name}"
    return StoredAnalysis(path.parent.name, "", (), (), (), 0, (), words)
