"""Reads the pickles of UniSAR's release in a process of its own and writes them as Parquet.

    python -I unisar_unpickle.py KIND SOURCE TARGET [KIND SOURCE TARGET ...]

KIND is rows, users, sessions, queries or tables.

A pickle is a program. Three fences stand around it: names resolve through an allow-list of what pandas and numpy need
to rebuild tables (nothing on it opens files or calls what it is given); an audit hook refuses files, processes, network
and code while a pickle is read; and the process has neither the caller's environment nor a result other than the
Parquet files. This file imports nothing of bench, so that it can run in Python's isolated mode. Exit code 3: one line
on stderr says which file was refused and why.
"""

import collections
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pandas.compat.pickle_compat as pickle_compat
import pyarrow as pa
import pyarrow.parquet as pq

REFUSED = 3
_AUDITED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "urllib.", "exec", "compile", "open",
            "code.", "marshal.", "import", "tempfile.", "glob.", "mmap.", "winreg.")  # fmt: skip
_KEYWORD = re.compile(r"[\[(]?\s*(\d+(?:[\s,]+\d+)*)?[\s,]*[\])]?")
_INTEGERS = pa.large_list(pa.int64())


class RefusedPickle(Exception):
    """The file is not what the release is documented to hold; the message says what is wrong."""


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """In place of `_codecs.encode`, which old protocols use for bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedPickle("it calls _codecs.encode for something else than bytes")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    """(module, name) as a pickle of any numpy or pandas since 1.0 writes it -> what it stands for today."""
    from numpy._core import multiarray, numeric
    from pandas._libs import internals as lib
    from pandas.core.indexes import base
    from pandas.core.internals import managers

    found: dict[tuple[str, str], Any] = {
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (list, dict, tuple, set, frozenset, int, float, bool, str, bytes, bytearray, slice)
    }
    found |= {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
    }
    found |= {("_codecs", "encode"): _latin1, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = multiarray._reconstruct
        found[f"{core}.multiarray", "scalar"] = multiarray.scalar
        found[f"{core}.numeric", "_frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    found |= {("pandas", kind.__name__): kind for kind in (pd.DataFrame, pd.Series, pd.Index, pd.RangeIndex)}
    found |= {
        ("pandas.core.frame", "DataFrame"): pd.DataFrame,
        ("pandas.core.series", "Series"): pd.Series,
        ("pandas.core.indexes.base", "Index"): pd.Index,
        ("pandas.core.indexes.base", "_new_Index"): base._new_Index,
        ("pandas.core.indexes.range", "RangeIndex"): pd.RangeIndex,
        ("pandas.core.internals.managers", "BlockManager"): managers.BlockManager,
        ("pandas.core.internals.managers", "SingleBlockManager"): managers.SingleBlockManager,
        ("pandas._libs.internals", "_unpickle_block"): lib._unpickle_block,
        # Older versions of pandas kept these elsewhere.
        ("pandas.core.internals", "BlockManager"): managers.BlockManager,
        ("pandas.core.internals.blocks", "new_block"): lib._unpickle_block,
        **{("pandas.core.indexes.numeric", f"{kind}Index"): pd.Index for kind in ("Int64", "UInt64", "Float64")},
    }
    return found


class Restricted(pickle.Unpickler):
    """Resolves the names of the allow-list and no others."""

    allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise RefusedPickle(f"it asks for {module}.{name}, which tables of numbers do not need; it was not run")
        return self.allowed[module, name]


class RestrictedOld(pickle_compat.Unpickler):
    """The same with pandas' own shims for tables that pandas before 1.3 wrote; slower."""

    find_class = Restricted.find_class
    allowed = Restricted.allowed


_reading = False


def _audit(event: str, _: tuple) -> None:
    if _reading and event.startswith(_AUDITED):
        raise RefusedPickle(f"it tries to reach outside ({event}); it was stopped")


def unpickle(stream: BinaryIO) -> Any:
    """The object of a pickle.

    Raises:
        RefusedPickle: it asks for a name outside the allow-list, tries to reach outside, or is damaged.
    """
    global _reading
    _reading = True
    try:
        try:
            return Restricted(stream).load()
        except (TypeError, AttributeError, ValueError, NotImplementedError):
            stream.seek(0)
            return RestrictedOld(stream).load()
    except RefusedPickle:
        raise
    except MemoryError:
        raise RefusedPickle("it needs more memory than there is") from None
    except Exception as error:
        raise RefusedPickle(f"it is damaged or no pickle of tables ({type(error).__name__}: {error})") from None
    finally:
        _reading = False


def rows(content: Any) -> pa.Table:
    """`dataset/*.pkl`: one line an evaluated or trained row."""
    if not isinstance(content, pd.DataFrame):
        raise RefusedPickle(f"it holds a {type(content).__name__}, expected a pandas DataFrame")
    needed = ("user_id", "item_id", "neg_items", "rec_his", "src_session_his")
    missing = [name for name in needed if name not in content]
    if missing:
        raise RefusedPickle(f"the column {missing[0]} is missing; there are {', '.join(map(str, content.columns))}")
    columns: dict[str, Any] = {name: _whole(content[name].to_numpy(), name) for name in needed if name != "neg_items"}
    columns["neg_items"] = _lists(content["neg_items"], "neg_items")
    if "keyword" in content:
        columns["keyword"] = _lists(content["keyword"], "keyword")
    if "ts" in content:
        columns["ts"] = _whole(content["ts"].to_numpy(), "ts")
    return pa.table(columns)


def users(content: Any) -> pa.Table:
    """`vocab/user_vocab.pkl`: each user's two histories with times."""
    names = ("rec_his", "rec_his_ts", "src_session_his", "src_session_his_ts")
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise RefusedPickle("it is not a dict of a dict for each user")
    for user, entry in content.items():
        missing = [name for name in names if name not in entry]
        if missing:
            raise RefusedPickle(f"user {user} has no {missing[0]}")
    columns = {name: _lists((entry[name] for entry in content.values()), name) for name in names}
    return pa.table({"user": _whole(np.asarray(list(content)), "user"), **columns})


def sessions(content: Any) -> pa.Table:
    """`vocab/src_session_vocab_np.pkl`: query words and clicked items of each session, zeros (padding) taken out."""
    if not isinstance(content, dict) or not {"keyword", "pos_items"} <= set(content):
        raise RefusedPickle("it is not a dict with keyword and pos_items")
    return pa.table({name: _matrix(content[name], name) for name in ("keyword", "pos_items")})


def queries(content: Any) -> pa.Table:
    """`vocab/query_vocab.pkl`: query words of each query."""
    if not isinstance(content, (list, tuple, np.ndarray)):
        raise RefusedPickle("it is not a list of queries")
    return pa.table({"keyword": _lists(content, "keyword")})


def tables(content: Any) -> pa.Table:
    """`vocab/{user,item}_vocab_np.pkl`: arrays by id; two-dimensional ones become lists without zeros."""
    if not isinstance(content, dict) or not content:
        raise RefusedPickle("it is not a dict of arrays")
    columns = {}
    for name, values in content.items():
        array = np.asarray(values)
        columns[str(name)] = _whole(array, name) if array.ndim == 1 else _matrix(array, name)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RefusedPickle(f"its arrays differ in length: {lengths}")
    return pa.table(columns)


def _whole(values: np.ndarray, name: Any) -> np.ndarray:
    """(n,) int64.

    Raises:
        RefusedPickle: something is no whole number.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64) if values.dtype == object else values
        if numbers.dtype.kind in "fiub" and numbers.ndim == 1:
            whole = values.astype(np.int64)
            if (whole == values).all():
                return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise RefusedPickle(f"{name} holds something that is no whole number")


def _lists(entries: Iterable[Any], name: str) -> pa.Array:
    """Lists of whole numbers from lists, arrays, their string forms or single numbers."""
    found = []
    for place, entry in enumerate(entries):
        if isinstance(entry, str):
            match = _KEYWORD.fullmatch(entry.strip())
            if match is None:
                raise RefusedPickle(f"{name} of row {place} is no list of whole numbers: {entry[:60]!r}")
            entry = [int(part) for part in re.findall(r"\d+", entry)]
        elif isinstance(entry, (int, np.integer)):
            entry = [int(entry)]
        found.append(entry)
    try:
        return pa.array(found, _INTEGERS)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise RefusedPickle(f"{name} holds something that is no list of whole numbers ({error})") from None


def _matrix(values: Any, name: Any) -> pa.Array:
    """Rows of a right-padded matrix as lists without the zeros."""
    try:
        array = np.asarray(values)
    except ValueError:
        return _lists(values, str(name))
    if array.ndim == 1 and array.dtype == object:
        return _lists(array, str(name))
    if array.ndim != 2 or array.dtype.kind not in "iuf" or (array != array.astype(np.int64)).any():
        raise RefusedPickle(f"{name} is no matrix of whole numbers (shape {array.shape}, {array.dtype})")
    real = array != 0
    offsets = np.concatenate([[0], np.cumsum(real.sum(1))])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(array[real].astype(np.int64)))


KINDS: dict[str, Callable[[Any], pa.Table]] = {
    "rows": rows, "users": users, "sessions": sessions, "queries": queries, "tables": tables,
}  # fmt: skip


def main(*arguments: str) -> int:
    # Printing a warning would open source files.
    warnings.simplefilter("ignore")
    sys.addaudithook(_audit)
    for kind, source, target in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        try:
            with open(source, "rb") as stream:
                content = unpickle(stream)
            pq.write_table(KINDS[kind](content), target, compression="zstd")
        except (RefusedPickle, OSError, pa.ArrowException) as error:
            print(f"{source}: {' '.join(str(error).split())}", file=sys.stderr)
            return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
