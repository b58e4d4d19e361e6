"""Runs and relevance judgements in the format of trec_eval, which `ir_measures`, `ranx` and others read.

A line of a run is `query Q0 document rank score name`, a line of the judgements `query 0 document relevance`. The query is the
name of an evaluated row (`bench.evaluation.given`), the document an item.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.errors import RunError
from bench.evaluation.given import LongTable

_COLUMNS = ("row", "q0", "item", "rank", "score", "name")


def read_run(path: Path) -> LongTable:
    """Row, item and score of a run; as in trec_eval the rank is not read, the score orders.

    Raises:
        RunError: the file is missing, empty, or a line does not have six fields.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not readable ({' '.join(str(error).split())})") from None
    lines = [line.split() for line in text.splitlines()]
    if not lines:
        raise RunError(f"{path} is empty")
    wrong = next((number for number, fields in enumerate(lines, 1) if len(fields) != len(_COLUMNS)), None)
    if wrong:
        raise RunError(
            f"{path}, line {wrong}: {len(lines[wrong - 1])} fields; a line of a TREC run is `query Q0 document rank score name`"
        )
    fields = list(zip(*lines, strict=True))
    columns = {
        name: pa.chunked_array([pa.array(fields[_COLUMNS.index(name)], pa.string())]) for name in ("row", "item")
    }
    try:
        scores = [float(score) for score in fields[_COLUMNS.index("score")]]
    except ValueError as error:
        raise RunError(f"{path}: {error}; the fifth field of a line is the score") from None
    return LongTable(path, columns | {"score": pa.chunked_array([pa.array(scores, pa.float64())])})


def run_lines(rows: np.ndarray, items: np.ndarray, ids: np.ndarray, name: str) -> Iterator[str]:
    """Lines of a run from lists of the best items.

    Args:
        rows: names of the rows, (n,).
        items: (n, k) item ids, best first; 0 for none.
        ids: original id of each item id.
        name: of the model, without blanks.
    """
    for row, best in zip(rows, items, strict=True):
        for place, item in enumerate(best[best > 0], 1):
            yield f"{row} Q0 {ids[item]} {place} {items.shape[1] + 1 - place} {name}\n"


def judgement_lines(rows: np.ndarray, positives: np.ndarray, ids: np.ndarray) -> Iterator[str]:
    """Lines of the judgements: the clicked item of every row, (n,)."""
    for row, item in zip(rows, positives, strict=True):
        yield f"{row} 0 {ids[item]} 1\n"


def check_ids(names: Iterable[str], what: str) -> None:
    """Refuse ids that fields between blanks cannot hold.

    Raises:
        RunError: an id is empty or holds a blank.
    """
    for name in names:
        if name.split() != [name]:
            raise RunError(f"the {what} '{name}' is empty or holds a blank, which the format of TREC cannot express")
