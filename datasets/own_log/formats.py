"""Which files make up an own log, and what to do with files in another format."""

import difflib
from pathlib import Path

from bench.datasets.own_log.columns import COLUMNS, REQUIRED
from bench.datasets.own_log.problem import Problem

FORMATS = (".csv", ".csv.gz", ".parquet")
SNIFFED_BYTES = 4096

_SPREADSHEET = "a spreadsheet; export the sheet as CSV (UTF-8, commas)"
_TABS = "separated by tabs; needed are commas"
_JSON_LINES = "JSON lines"
_PACKED = "packed; unpack it (of packed files only .csv.gz is read)"
_ARROW = "an Arrow file; needed are CSV or Parquet"
# What files are by the end of their names, and the pandas function with which to read them.
_OTHER_FORMATS = {
    ".tsv": (_TABS, "read_csv({name!r}, sep='\\t', dtype=str, keep_default_na=False)"),
    ".tsv.gz": (_TABS, "read_csv({name!r}, sep='\\t', dtype=str, keep_default_na=False)"),
    ".tab": (_TABS, "read_csv({name!r}, sep='\\t', dtype=str, keep_default_na=False)"),
    ".txt": ("a text file; needed are CSV or Parquet", ""),
    ".xlsx": (_SPREADSHEET, ""),
    ".xls": (_SPREADSHEET, ""),
    ".ods": (_SPREADSHEET, ""),
    ".jsonl": (_JSON_LINES, "read_json({name!r}, lines=True, dtype=False)"),
    ".ndjson": (_JSON_LINES, "read_json({name!r}, lines=True, dtype=False)"),
    ".jsonl.gz": (_JSON_LINES, "read_json({name!r}, lines=True, dtype=False)"),
    ".json": ("JSON", "read_json({name!r}, dtype=False)"),
    ".feather": (_ARROW, "read_feather({name!r})"),
    ".arrow": (_ARROW, "read_feather({name!r})"),
    ".pkl": ("a pickle, which can run code when it is read; needed are CSV or Parquet", ""),
    ".pq": ("Parquet under another name; rename it to {stem}.parquet", ""),
    ".csv.zip": (_PACKED, ""),
    ".zip": (_PACKED, ""),
    ".csv.bz2": (_PACKED, ""),
    ".csv.xz": (_PACKED, ""),
    ".csv.zst": (_PACKED, ""),
    ".parquet.gz": (_PACKED, ""),
}
# What a file is by its first bytes.
_SIGNATURES = (
    (b"\x1f\x8b", "gzip"),
    (b"PAR1", "Parquet"),
    (b"version https://git-lfs.github.com/spec", "Git LFS"),
    (b"PK\x03\x04", "zip"),
    (b"\xd0\xcf\x11\xe0", "spreadsheet"),
    (b"ARROW1", "Arrow"),
    (b"BZh", "packed"),
    (b"\xfd7zXZ", "packed"),
    (b"\x28\xb5\x2f\xfd", "packed"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"%PDF", "PDF"),
    (b"SQLite format 3", "database"),
)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def find_files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The files of a folder by name ("events", "items", "queries", "users"), and what is wrong with the choice."""
    files: dict[str, Path] = {}
    problems = []
    names = sorted(path.name for path in folder.iterdir())
    for file in COLUMNS:
        there = [folder / f"{file}{suffix}" for suffix in FORMATS if (folder / f"{file}{suffix}").is_file()]
        if len(there) > 1:
            problems.append(Problem(file, f"there are {' and '.join(path.name for path in there)}; keep one of them"))
        if there:
            files[file] = there[0]
            continue
        advice = [(name, _named_otherwise(folder / name, file)) for name in names]
        problems += [Problem(name, what) for name, what in advice if what]
        if file == "events" and not any(what for _, what in advice):
            near = difflib.get_close_matches("events.csv", [name for name in names if name.endswith(FORMATS)], n=1)
            guess = f" (is it {near[0]}? rename it)" if near else ""
            problems.append(Problem("events", f"the folder has no events.csv, events.csv.gz or events.parquet{guess}"))
    return files, problems


def unread_files(folder: Path, files: dict[str, Path]) -> list[str]:
    """Names of files that look like tables and are not read."""
    read = {path.name for path in files.values()}
    suffixes = (*FORMATS, *_OTHER_FORMATS)
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(suffixes) and path.name not in read)


def wrong_bytes(name: str, head: bytes) -> str:
    """What a file is by its first bytes, where its name says otherwise; "" where they agree.

    Args:
        name: of the file.
        head: its first bytes (`SNIFFED_BYTES` are enough), those of the content for a file that is unpacked already.
    """
    stem = name.split(".")[0]
    content = next((what for signature, what in _SIGNATURES if head.startswith(signature)), "")
    expected = {".gz": "gzip", ".parquet": "Parquet"}.get(Path(name).suffix, "")
    if content == expected:
        return "" if content else _wrong_text(stem, head)
    if content == "gzip":
        return f"its content is packed with gzip; rename it to {stem}.csv.gz"
    if content == "Parquet":
        return f"its content is Parquet; rename it to {stem}.parquet"
    if content == "Git LFS":
        return "a pointer of Git LFS in place of the file; fetch the file with git lfs pull"
    if content == "zip":
        sheet = b"xl/" in head or b"[Content_Types].xml" in head
        return f"its content is {_SPREADSHEET if sheet else 'a zip archive; unpack it'}"
    if content == "spreadsheet":
        return f"its content is {_SPREADSHEET}"
    if content == "UTF-16":
        return "the text is UTF-16; save it as UTF-8"
    if content:
        return (
            f"its content is {'packed' if content == 'packed' else f'of the kind {content}'}; needed is CSV or Parquet"
        )
    if b"\0" in head:
        return f"its content is neither {expected or 'CSV'} nor text; write the file again"
    text = _wrong_text(stem, head) or f"its content is text; rename it to {stem}.csv"
    return text if head.strip() else ""


def wrong_separator(header: str, file: str, name: str) -> str:
    """What to do with a header whose columns are not separated by commas; "" where they are."""
    if all(column in header.split(",") for column in REQUIRED[file]):
        return ""
    for separator, word in _SEPARATORS.items():
        columns = {column.strip().strip('"') for column in header.split(separator)}
        if len(columns) > 1 and len(columns) > header.count(",") + 1 and columns & set(COLUMNS[file]):
            how = f"read_csv({name!r}, sep={separator!r}, dtype=str, keep_default_na=False)"
            return f"the columns are separated by {word}; needed are commas{_convert(how, file)}"
    return ""


def _named_otherwise(path: Path, file: str) -> str:
    """What to do with a file whose name means `file` and whose format is not read; "" for any other file."""
    name = path.name
    suffix = name[len(file) :].lower()
    if name[: len(file)].lower() != file:
        return ""
    if path.is_dir():
        if suffix not in FORMATS:
            return ""
        return f"a folder; needed is one file{_convert(f'read_parquet({name!r})', file, 'to_parquet')}"
    if suffix in FORMATS:  # of other case, otherwise the file had been taken
        return f"names are in lower case; rename it to {file}{suffix}"
    if suffix not in _OTHER_FORMATS:
        return ""
    what, how = _OTHER_FORMATS[suffix]
    return what.format(stem=file) + (_convert(how.format(name=name), file) if how else "")


def _convert(how: str, file: str, write: str = "to_csv") -> str:
    ending = "csv" if write == "to_csv" else "parquet"
    return f", for example with pandas.{how}.{write}('{file}.{ending}', index=False)"


def _wrong_text(stem: str, head: bytes) -> str:
    """What is wrong with text that is no CSV; "" where nothing speaks against it."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] == b"{":
        how = f"read_json('{stem}.csv', lines=True, dtype=False)"
        return f"its content is JSON lines{_convert(how, stem)}"
    if start[:1] == b"[":
        return "its content is JSON; needed are CSV or Parquet"
    if start[:1] == b"<":
        return "its content is a web page or XML, perhaps a download that failed; fetch the file again"
    if b"\0" in head:
        return "its content is no text; needed are CSV or Parquet"
    return ""
