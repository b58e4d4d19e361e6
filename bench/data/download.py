"""Fetching the raw files of data sets: resumed after an interruption, checked, moved into place when they are whole.

A file grows as `.NAME.part` beside its final place, with what the server said of it in `.NAME.part.json`; what was
fetched is recorded in `fetched.json` of the folder (source, bytes, sha256, and the publisher's checksum where one is
stated).
"""

import errno
import gzip
import hashlib
import json
import os
import shutil
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.publications import Publication
from bench.errors import RunError
from bench.files import write_atomically
from bench.messages import first_line, reason

if TYPE_CHECKING:
    import requests

RECORD = "fetched.json"
# Left free on the disk beside the file itself.
_SPARE = 64 << 20
_CHUNK = 1 << 20
# What is read at a time; a connection that breaks loses at most so much.
_PIECE = 1 << 16
_TRIES = 5
_TIMEOUT = 60
# Servers that are busy rather than unwilling.
_BUSY = (408, 425, 429, 500, 502, 503, 504)

Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """A file in its place. `checksum` is the publisher's ("md5:..."), which it has; empty where none is stated."""

    name: str
    url: str
    bytes: int
    sha256: str
    checksum: str
    new: bool = True


def fetch(name: str, source: Publication, folder: Path, report: Report, *, pause: float = 1.0) -> list[Fetched]:
    """Bring all files of a publication into `folder`; what is there already stays as it is.

    Args:
        name: of the data set, for messages.
        source: its files and where they are.
        folder: where they go; it is made.
        report: called with (file, bytes so far, bytes in all or None).
        pause: seconds before the second try, doubled each time.

    Raises:
        RunError: no connection, a checksum or length that does not fit, no room; the message says what to do by hand.
    """
    done = {entry["name"]: Fetched(**entry, new=False) for entry in _read_json(folder / RECORD, [])}
    found = []
    wanted = [remote for remote in source.files if not (folder / remote.name).exists()]
    session = _session(pause)
    try:
        stated = _metadata(session, source.metadata) if source.metadata and wanted else {}
        for remote in source.files:
            path = folder / remote.name
            if remote not in wanted:
                # Put there by hand: taken as it is.
                here = done.get(remote.name) or Fetched(remote.name, "", path.stat().st_size, "", "", False)
                found.append(here)
                continue
            if source.metadata and remote.name not in stated:
                raise RunError(f"{source.page} does not list {remote.name}; its files: {', '.join(stated) or 'none'}")
            url, checksum = stated.get(remote.name, ("", ""))
            new = _download(session, remote.name, (url,) if url else remote.urls, checksum, folder, report, pause)
            done[remote.name] = new
            _write_json(folder / RECORD, [_recorded(entry) for entry in done.values()])
            found.append(new)
    except _NoAnswer as error:
        names = " and ".join(remote.name for remote in wanted)
        them = "it" if len(wanted) == 1 else "them"
        raise RunError(
            f"cannot fetch {name} ({error}); get {names} from {source.page} and put {them} into {folder}"
        ) from None
    except OSError as error:
        what = "no space left on the disk" if error.errno == errno.ENOSPC else reason(error)
        raise RunError(f"{folder}: {what}; what was fetched so far is kept, the same command goes on") from None
    return found


class _NoAnswer(Exception):
    """No address answered with the file."""


def _download(
    session: "requests.Session",
    name: str,
    urls: tuple[str, ...],
    checksum: str,
    folder: Path,
    report: Report,
    pause: float,
) -> Fetched:
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.part"
    lock = filelock.FileLock(folder / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"another process is fetching {folder / name}; wait for it") from None
    with lock:
        said: dict[str, None] = {}
        for url in urls:
            try:
                _complete(session, url, partial, lambda so_far, total: report(name, so_far, total), pause)
                break
            except _NoAnswer as error:
                said[str(error)] = None
        else:
            raise _NoAnswer("; ".join(said))
        sums = _checked(partial, name, url, checksum)
        size = partial.stat().st_size
        os.replace(partial, folder / name)
        _state(partial).unlink(missing_ok=True)
    return Fetched(name, url, size, sums, checksum)


def _complete(
    session: "requests.Session", url: str, part: Path, report: Callable[[int, int | None], None], pause: float
) -> None:
    """Read `url` into `part` until it is whole; up to `_TRIES` times in a row without a further byte."""
    import requests
    import urllib3

    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        why = "the connection ended early"
        try:
            if _read(session, url, part, report):
                return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why = _reason(error)
            if "NameResolutionError" in repr(error):
                # Off line: no name is found however often one asks.
                failures = _TRIES
        grown = part.exists() and part.stat().st_size > before
        failures = 1 if grown and failures < _TRIES else failures + 1
        if failures >= _TRIES:
            raise _NoAnswer(f"{_host(url)}: {why}")
        time.sleep(pause * 2 ** (failures - 1))


def _read(session: "requests.Session", url: str, part: Path, report: Callable[[int, int | None], None]) -> bool:
    """One request, from where `part` ends if the server agrees that it is the same file; says whether it is whole."""
    state = _read_json(_state(part), {})
    have = part.stat().st_size if part.exists() and state.get("url") == url else 0
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if state.get("validator"):
            headers["If-Range"] = state["validator"]
    with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
        if answer.status_code == 416 and have:
            # Nothing beyond what we have: it is whole, or it is another file by now.
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(have) == str(state.get("total")):
                return True
            part.unlink()
            return False
        _refuse_error(answer)
        length = answer.headers.get("Content-Length")
        total: int | None = int(length) if length else None
        if answer.status_code == 206:
            start, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if start.split("-")[0] != str(have) or whole not in (str(state.get("total")), "*"):
                # Another part than the request names, or another file than the one that was begun.
                part.unlink()
                return False
            total = state.get("total")
        else:
            # The whole file, whatever the request named.
            have = 0
            etag = answer.headers.get("ETag", "")
            validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
            _write_json(_state(part), {"url": url, "total": total, "validator": validator})
        _check_room(part, url, have, total)
        with part.open("ab" if have else "wb") as stream:
            report(have, total)
            for chunk in answer.raw.stream(_PIECE, decode_content=False):
                stream.write(chunk)
                have += len(chunk)
                report(have, total)
    if total is not None and have > total:
        part.unlink()
        return False
    return total is None or have == total


def _check_room(part: Path, url: str, have: int, total: int | None) -> None:
    """Raise a RunError where the disk has no room for what is still to come."""
    if total is None:
        return
    free = shutil.disk_usage(part.parent).free + (part.stat().st_size if not have and part.exists() else 0)
    if free < total - have + _SPARE:
        raise RunError(
            f"{part.parent} has {free / 1e9:.1f} GB free, "
            f"{total - have:,} bytes ({(total - have) / 1e9:.1f} GB) are still to come from {url}"
        )


def _checked(part: Path, name: str, url: str, checksum: str) -> str:
    """The sha256 of a complete part, which is removed where it is not what the publisher states.

    Raises:
        RunError: another checksum than stated, or no whole archive where none is stated.
    """
    kind, _, expected = checksum.partition(":")
    digests = {"sha256": hashlib.sha256()}
    if checksum and kind not in digests:
        digests[kind] = hashlib.new(kind, usedforsecurity=False)
    with part.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    problem = ""
    if not checksum:
        damage = _damage(part, Path(name).suffix)
        problem = f"{url} sent no whole {Path(name).suffix} file ({damage})" if damage else ""
    elif digests[kind].hexdigest() != expected.lower():
        problem = f"{name} from {url} has {kind} {digests[kind].hexdigest()}, its publisher states {expected}"
    if problem:
        part.unlink()
        _state(part).unlink(missing_ok=True)
        raise RunError(f"{problem}; it was removed, try again")
    return digests["sha256"].hexdigest()


def _damage(path: Path, suffix: str) -> str:
    """What an archive's own sums and marks say against it; "" where nothing does."""
    try:
        if suffix == ".gz":
            with gzip.open(path) as stream:
                while stream.read(_CHUNK):
                    pass
        elif suffix == ".zip":
            zipfile.ZipFile(path).close()
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        return str(error)
    return ""


def _metadata(session: "requests.Session", url: str) -> dict[str, tuple[str, str]]:
    """Address and checksum of each file of a Zenodo record."""
    import requests

    try:
        answer = session.get(url, headers={"Accept": "application/json"}, timeout=_TIMEOUT)
        _refuse_error(answer)
        return {entry["key"]: (entry["links"]["self"], entry.get("checksum", "")) for entry in answer.json()["files"]}
    except (ValueError, KeyError, TypeError) as error:
        why = f"its answer is not the description of a record ({type(error).__name__}: {first_line(error)})"
    except requests.RequestException as error:
        why = _reason(error)
    raise _NoAnswer(f"{_host(url)}: {why}")


def _session(pause: float) -> "requests.Session":
    """Asks again where a server is busy; what breaks off in the middle is resumed by `_complete`."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=None, connect=0, read=0, other=0, redirect=10, status=_TRIES - 1, status_forcelist=_BUSY,
        backoff_factor=pause, respect_retry_after_header=False, raise_on_status=False,
    )  # fmt: skip
    session = requests.Session()
    session.headers.update({"Accept-Encoding": "identity", "User-Agent": "bench-data-fetch"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _refuse_error(answer: "requests.Response") -> None:
    if answer.status_code >= 400:
        raise _NoAnswer(f"{_host(answer.url)}: {answer.status_code} {answer.reason}")


def _reason(error: BaseException) -> str:
    """What the deepest error under a library's wrappings says."""
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    return f"no connection: {reason(cause)}" if "ConnectionError" in type(error).__name__ else reason(cause)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _recorded(entry: Fetched) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if key != "new"}


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return default


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda scratch: scratch.write_text(json.dumps(content, indent=1) + "\n"))
