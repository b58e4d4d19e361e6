"""Files of the best items of each row, as other programs write them: RecBole, RecTools, WarpRec, TREC runs, our own form.

A line is one (row, item). The row is named by `row`, or by the user where a task has one row a user:

- RecBole: atomic files, tab-separated, with types in the header (`user_id:token`, `item_id:token`, `score:float`).
- RecTools: columns `user_id`, `item_id`, and `score` or `rank` (1 is the best), as CSV or Parquet.
- WarpRec: `user_id`, `item_id`, `rating`, tab- or comma-separated, with or without a header.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from bench.errors import RunError
from bench.evaluation.given import TREC, LongTable
from bench.evaluation.trec import read_run
from bench.messages import first_line

_NAMES = {"user": ("user_id", "user"), "item": ("item_id", "item"), "score": ("score", "rating"), "rank": ("rank",)}
_WITHOUT_HEADER = ["user_id", "item_id", "rating"]


def read_top(path: Path, task: str) -> LongTable:
    """Columns row, or user and task, and item and score of a file of top lists.

    Args:
        path: the file.
        task: of its rows, where they are named by their users.

    Raises:
        RunError: the file is missing, not readable, or its columns are none of those that are known.
    """
    if path.suffix == TREC:
        return read_run(path)
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else _text(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path} is not readable ({first_line(error)})") from None
    if not len(frame):
        raise RunError(f"{path} is empty")
    frame.columns = [str(name).partition(":")[0] for name in frame.columns]
    found = {what: name for what, names in _NAMES.items() for name in names[::-1] if name in frame.columns}
    if "item" not in found or not {"score", "rank"} & found.keys() or not ("row" in frame.columns or "user" in found):
        raise RunError(
            f"{path} has the columns {', '.join(frame.columns)}; needed are row or user_id, item_id, and score, rating or rank"
        )
    ordering = found.get("score", found.get("rank", ""))
    score = pd.to_numeric(frame[ordering], errors="coerce")
    columns = {
        "item": _ids(frame[found["item"]]),
        "score": pa.array(score if "score" in found else -score, pa.float64()),
    }
    if "row" in frame.columns:
        columns["row"] = _ids(frame["row"])
    else:
        columns |= {"user": _ids(frame[found["user"]]), "task": pa.array([task] * len(frame), pa.string())}
    return LongTable(path, {name: pa.chunked_array([column]) for name, column in columns.items()})


def _text(path: Path) -> pd.DataFrame:
    """A text file with tabs or commas; without a header where its first line has no known name."""
    with path.open(encoding="utf-8-sig") as stream:
        first = stream.readline()
    separator = "\t" if "\t" in first else ","
    names = [name.strip().partition(":")[0] for name in first.split(separator)]
    known = {"row", *(name for group in _NAMES.values() for name in group)}
    header = {} if known & set(names) else {"header": None, "names": _WITHOUT_HEADER}
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", **header)


def _ids(values: pd.Series) -> pa.Array:
    return pa.array(values.astype(str), pa.string())
