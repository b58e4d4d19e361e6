"""Turns the pickles of UniSAR's release into Parquet, in a process of its own.

    python -I -m bench.datasets.unisar.unpickle KIND SOURCE TARGET [KIND SOURCE TARGET ...]

KIND is rows, users, sessions, queries or tables.

`pickle_reader` reads the files without running them. Behind it stand an audit hook, which refuses files, processes,
network and code while a pickle is read, and limits of processor time and memory (`set_limits`); the caller adds a
limit of wall-clock time and gives neither its environment nor its folder. Exit code 3: one line on stderr says which
file was refused and why.
"""

import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.datasets.unisar.pickle_reader import RefusedPickle, frame_columns, kind_of, plain, unpickle

REFUSED = 3
# Of one file: what any file may take, and what each byte of it adds.
_SECONDS, _SECONDS_PER_BYTE = 3, 4e-6
_MEMORY, _MEMORY_PER_BYTE = 1_200_000_000, 40
_AUDITED = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "urllib.", "exec", "compile", "open",
            "code.", "marshal.", "import", "tempfile.", "glob.", "mmap.", "winreg.")  # fmt: skip
_KEYWORD = re.compile(r"[\[(]?\s*+(\d++(?:[\s,]++\d++)*+)?[\s,]*+[\])]?")
_INTEGERS = pa.large_list(pa.int64())
_LONGEST_MESSAGE = 300


def seconds_for(size: int) -> float:
    """Seconds of processor time that a file of `size` bytes may take."""
    return _SECONDS + _SECONDS_PER_BYTE * size


def set_limits(size: int) -> None:
    """Bound what reading a file of `size` bytes may take of the processor and, on Linux, of the memory.

    The limits are the operating system's (`resource`). Windows has no such limits: there the caller's wall clock ends
    what takes too long, and memory has no bound but the machine's. macOS does not hold a process to RLIMIT_AS.
    """
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(time.process_time() + seconds_for(size)) + 1
    signal.signal(signal.SIGXCPU, _out_of_time)
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    used = pages * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + _MEMORY + _MEMORY_PER_BYTE * size
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _out_of_time(*_: Any) -> None:
    raise RefusedPickle("it takes more processor time than a file of its size can need")


_reading = False


def _audit(event: str, _: tuple) -> None:
    if _reading and event.startswith(_AUDITED):
        raise RefusedPickle(f"it tries to reach outside ({event}); it was stopped")


def _read(stream: BinaryIO) -> Any:
    """`unpickle` under the audit hook."""
    global _reading
    _reading = True
    try:
        return unpickle(stream)
    finally:
        _reading = False


def rows(content: Any) -> pa.Table:
    """`dataset/*.pkl`: one line per evaluated or trained row."""
    given = frame_columns(content)
    needed = ("user_id", "item_id", "neg_items", "rec_his", "src_session_his")
    missing = [name for name in needed if name not in given]
    if missing:
        raise RefusedPickle(f"the column {missing[0]} is missing; there are {', '.join(given)}")
    columns: dict[str, Any] = {name: _whole(given[name], name) for name in needed if name != "neg_items"}
    columns["neg_items"] = _lists(given["neg_items"], "neg_items")
    if "keyword" in given:
        columns["keyword"] = _lists(given["keyword"], "keyword")
    if "ts" in given:
        columns["ts"] = _whole(given["ts"], "ts")
    return _table(columns)


def users(content: Any) -> pa.Table:
    """`vocab/user_vocab.pkl`: each user's two histories with times."""
    names = ("rec_his", "rec_his_ts", "src_session_his", "src_session_his_ts")
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise RefusedPickle("it is not a dict with a dict per user")
    ids = _whole(list(content), "user")
    for user, entry in zip(ids, content.values(), strict=True):
        missing = [name for name in names if name not in entry]
        if missing:
            raise RefusedPickle(f"user {user} has no {missing[0]}")
    columns = {name: _lists((entry[name] for entry in content.values()), name) for name in names}
    return _table({"user": ids, **columns})


def sessions(content: Any) -> pa.Table:
    """`vocab/src_session_vocab_np.pkl`: query words and clicked items of each session, zeros (padding) taken out."""
    names = ("keyword", "pos_items")
    if not isinstance(content, dict) or not all(name in content for name in names):
        raise RefusedPickle("it is not a dict with keyword and pos_items")
    return _table({name: _without_zeros(content[name], name) for name in names})


def queries(content: Any) -> pa.Table:
    """`vocab/query_vocab.pkl`: query words of each query."""
    content = plain(content)
    if not isinstance(content, list | tuple | np.ndarray):
        raise RefusedPickle("it is not a list of queries")
    return _table({"keyword": _lists(content, "keyword")})


def tables(content: Any) -> pa.Table:
    """`vocab/{user,item}_vocab_np.pkl`: arrays by id; two-dimensional ones become lists without zeros."""
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise RefusedPickle("it is not a dict of arrays")
    columns = {}
    for name, values in content.items():
        array = plain(values)
        flat = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype != object
        columns[name] = _whole(array, name) if flat or _numbers(array) else _without_zeros(array, name)
    return _table(columns)


def _table(columns: dict[str, Any]) -> pa.Table:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RefusedPickle(f"its columns differ in length: {lengths}")
    return pa.table(columns)


def _numbers(values: Any) -> bool:
    """Whether it is a list of numbers; only then may a library look at it, since a list of lists can lead anywhere."""
    return isinstance(values, list | tuple) and set(map(type, values)) <= {int, float, bool}


def _whole(values: Any, name: Any) -> np.ndarray:
    """(n,) int64.

    Raises:
        RefusedPickle: something is no whole number.
    """
    entries = plain(values)
    if isinstance(entries, np.ndarray) and entries.ndim == 1 and entries.dtype == object:
        entries = entries.tolist()
    try:
        numbers = np.asarray(entries) if _numbers(entries) else entries
        if isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind in "fiub":
            whole = numbers.astype(np.int64)
            if (whole == numbers).all():
                return whole
    except OverflowError:
        pass
    raise RefusedPickle(f"{name} holds something that is no whole number")


def _lists(entries: Iterable[Any], name: Any) -> pa.LargeListArray:
    """Lists of whole numbers from lists, arrays, their string forms or single numbers.

    Raises:
        RefusedPickle: something is no list of whole numbers.
    """
    lists: list[list[Any] | np.ndarray] = []
    for row, given in enumerate(entries):
        entry = plain(given)
        if isinstance(entry, np.ndarray) and entry.dtype == object:
            entry = entry.tolist()
        if isinstance(entry, str):
            if _KEYWORD.fullmatch(entry.strip()) is None:
                raise RefusedPickle(f"{name} of row {row} is no list of whole numbers: {entry[:60]!r}")
            entry = [int(part) for part in re.findall(r"\d+", entry)]
        elif type(entry) in (int, float):
            entry = [entry]
        if not _numbers(entry) and not (
            isinstance(entry, np.ndarray) and entry.ndim == 1 and entry.dtype.kind in "iuf"
        ):
            raise RefusedPickle(f"{name} of row {row} is a {kind_of(entry)} and no list of whole numbers")
        lists.append(entry)
    try:
        return pa.array(lists, _INTEGERS)
    except (pa.ArrowInvalid, TypeError, ValueError, OverflowError) as error:
        raise RefusedPickle(f"{name} holds something that is no list of whole numbers ({error})") from None


def _without_zeros(values: Any, name: Any) -> pa.LargeListArray:
    """Rows of a padded matrix, or lists, without the zeros."""
    array = plain(values)
    if isinstance(array, np.ndarray) and array.ndim == 2 and array.dtype.kind in "iuf":
        offsets, numbers = np.arange(len(array) + 1) * array.shape[1], _whole(array.ravel(), name)
    elif isinstance(array, list | tuple) or (isinstance(array, np.ndarray) and array.ndim == 1):
        lists = _lists(array, name)
        offsets, numbers = lists.offsets.to_numpy(), lists.flatten().to_numpy()
    else:
        raise RefusedPickle(f"{name} is no matrix of whole numbers")
    before = np.concatenate([[0], np.cumsum(numbers != 0)])
    return pa.LargeListArray.from_arrays(pa.array(before[offsets], pa.int64()), pa.array(numbers[numbers != 0]))


KINDS: dict[str, Callable[[Any], pa.Table]] = {
    "rows": rows, "users": users, "sessions": sessions, "queries": queries, "tables": tables,
}  # fmt: skip


def main(*arguments: str) -> int:
    """Convert every file; returns the exit code."""
    # Printing a warning would open source files.
    warnings.simplefilter("ignore")
    sys.addaudithook(_audit)
    for kind, source, target in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        try:
            set_limits(Path(source).stat().st_size)
            with open(source, "rb") as stream:
                content = _read(stream)
            pq.write_table(KINDS[kind](content), target, compression="zstd")
        except MemoryError:
            why = "it takes more memory than a file of its size can need"
        except (RefusedPickle, OSError, pa.ArrowException) as error:
            why = " ".join(str(error).split())[:_LONGEST_MESSAGE]
        except Exception as error:
            why = f"it is no file of the release ({type(error).__name__})"
        else:
            continue
        print(f"{source}: {why}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
