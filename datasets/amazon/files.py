"""Raw text files of the Amazon product data and of the benchmarks made from it: found by name, plain or gzipped.

Whatever cannot be read stops with one line that names the file, the line in it and what to do.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.errors import RunError

AGAIN = "download or copy it again"
# What a damaged gzip file may raise while it is read.
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


def title_files(folder: Path) -> dict[str, Path]:
    """Every CSV file of a folder with "title" in its name, by a name of its own."""
    paths = sorted({path for ending in ("", ".gz") for path in folder.glob(f"*title*.csv{ending}")})
    return {f"titles {path.name}": path for path in paths}


def find(folder: Path, *patterns: str) -> Path | None:
    """The one file of a folder that fits one of the glob patterns, with or without `.gz`.

    Raises:
        RunError: several do, so that it is not clear which one is meant.
    """
    paths = {
        path
        for pattern in patterns
        for ending in ("", ".gz")
        for path in folder.glob(pattern + ending)
        if path.is_file()
    }
    if len(paths) > 1:
        names = ", ".join(sorted(path.name for path in paths))
        raise RunError(f"{folder} holds several files that could be meant ({names}); keep one of them there")
    return next(iter(paths), None)


def open_bytes(path: Path) -> IO[bytes]:
    """The unpacked bytes of a file that may be gzipped."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def damaged(path: Path, error: BaseException) -> RunError:
    """What to say of a file whose bytes end or break."""
    return RunError(f"{path} cannot be read to its end ({str(error) or type(error).__name__}); {AGAIN}")


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) for every line that is not blank.

    Raises:
        RunError: the file is damaged or a line is not UTF-8.
    """
    try:
        with open_bytes(path) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise RunError(
                        f"{path}, line {number}: not UTF-8 text (byte {error.start + 1} of the line); convert the file"
                    ) from None
                if text.strip():
                    yield number, text
    except DAMAGE as error:
        raise damaged(path, error) from None


def read_lines(path: Path) -> list[str]:
    """All lines, also empty ones: where line i stands for entity i, an empty line says "nothing known".

    Raises:
        RunError: the file is empty, damaged or not UTF-8.
    """
    try:
        with open_bytes(path) as stream:
            content = stream.read()
    except DAMAGE as error:
        raise damaged(path, error) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RunError(f"{path}, line {line}: not UTF-8 text; convert the file") from None
    if not text.strip():
        raise RunError(f"{path} is empty; {AGAIN}")
    # Not splitlines(): that would also cut at separators that occur inside of texts.
    lines = text.removesuffix("\n").split("\n")
    return [line.rstrip("\r") for line in lines]


def unique_ids(path: Path, ids: list[str]) -> list[str]:
    """Ids of a list file as they are, checked to be there and distinct.

    Raises:
        RunError: a line is empty or repeats an id; with both lines.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(ids, 1):
        if not name.strip():
            raise RunError(f"{path}, line {number}: empty, an id is expected")
        if name in first:
            raise RunError(f"{path}, line {number}: the id {name} stands already in line {first[name]}")
        first[name] = number
    return ids
