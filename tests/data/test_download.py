"""Fetching from a local server that drops connections, truncates, ignores ranges and serves wrong bytes."""

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.data import download, publications
from bench.data.download import fetch
from bench.data.publications import Publication, Remote, publication
from bench.errors import RunError, UsageError

CONTENT = gzip.compress(os.urandom(300_000), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """`plans` say how the next requests are answered; then everything works. `ranges` are the Range headers seen."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: list[str] = []
        self.ranges: list[str] = []
        self.content = CONTENT
        self.etag = '"one"'
        self.record: dict | bytes = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/record":
            body = (
                self.server.record if isinstance(self.server.record, bytes) else json.dumps(self.server.record).encode()
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        plan = self.server.plans.pop(0) if self.server.plans else "good"
        content, etag = self.server.content, self.server.etag
        if plan.isdigit():
            self.send_error(int(plan))
            return
        if plan == "hang up":
            self.close_connection = True
            self.connection.close()
            return
        if plan == "cut":
            content = content[: len(content) // 2]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        same = self.headers.get("If-Range", etag) == etag
        if plan == "ignore range" or not same:
            start = 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        shown = start + 7 if plan == "wrong range" else start
        body = content[shown:]
        self.send_response(206 if start else 200)
        if plan != "no length":
            self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if plan != "no etag":
            self.send_header("ETag", etag)
        self.end_headers()
        if plan == "drop":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        if plan == "wrong bytes":
            body = body[:1000] + bytes([body[1000] ^ 255]) + body[1001:]
        if plan == "page":
            body = b"<html>too many requests</html>".ljust(len(body))
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def get(server: Server, tmp_path: Path) -> Callable:
    """Fetch one file `reviews.json.gz` into tmp_path; `record=True` with the publisher's metadata."""

    def call(record: bool = False, urls: tuple[str, ...] | None = None):
        file = Remote("reviews.json.gz", () if record else urls or (f"{server.url}/reviews.json.gz",))
        source = Publication("https://example.org/page", (file,), f"{server.url}/record" if record else "")
        seen: list[tuple[str, int, int | None]] = []
        found = fetch("kindle", source, tmp_path, lambda *facts: seen.append(facts), pause=0.001)
        return found[0], seen

    return call


def is_there(folder: Path) -> bool:
    """The file in its place, complete, and nothing half-written beside it."""
    names = {path.name for path in folder.iterdir()} - {".reviews.json.gz.lock"}
    return names == {"reviews.json.gz", "fetched.json"} and (folder / "reviews.json.gz").read_bytes() == CONTENT


def test_a_file_is_fetched_once_and_its_sum_recorded(get, server, tmp_path):
    found, seen = get()
    assert is_there(tmp_path) and found.sha256 == SHA256 and found.checksum == "" and found.new
    assert seen[0][1:] == (0, len(CONTENT)) and seen[-1] == ("reviews.json.gz", len(CONTENT), len(CONTENT))
    assert json.loads((tmp_path / "fetched.json").read_text())[0] == {
        "name": "reviews.json.gz", "url": found.url, "bytes": len(CONTENT), "sha256": SHA256, "checksum": "",
    }  # fmt: skip
    again, _ = get()
    assert not again.new and again.sha256 == SHA256 and len(server.ranges) == 1


@pytest.mark.parametrize(
    ("plans", "resumed"),
    [
        (["drop"], True),
        (["drop", "drop", "drop", "hang up", "503", "drop"], True),
        (["drop", "ignore range"], True),
        (["drop", "wrong range"], True),
        (["429", "500", "hang up"], False),
        (["no length"], False),
        (["no etag", "drop"], False),
    ],
)
def test_interruptions_are_resumed(get, server, tmp_path, plans, resumed):
    server.plans = list(plans)
    get()
    assert is_there(tmp_path)
    assert any(server.ranges) == resumed


def test_a_server_that_ignores_ranges_is_asked_no_third_time(get, server, tmp_path):
    server.plans = ["drop", "ignore range"]
    get()
    assert is_there(tmp_path) and len(server.ranges) == 2


def test_a_later_command_goes_on_where_the_first_stopped(get, server, tmp_path):
    server.plans = ["drop", *["503"] * 5]
    with pytest.raises(RunError, match="503"):
        get()
    part = tmp_path / ".reviews.json.gz.part"
    half = part.stat().st_size
    assert 0 < half < len(CONTENT) and not (tmp_path / "reviews.json.gz").exists()
    get()
    assert is_there(tmp_path) and server.ranges[-1] == f"bytes={half}-"


def test_a_file_that_changed_meanwhile_starts_anew(get, server, tmp_path):
    server.content, server.etag = CONTENT[::-1], '"old"'
    server.plans = ["drop", *["503"] * 5]
    with pytest.raises(RunError):
        get()
    server.content, server.etag = CONTENT, '"new"'
    get()
    assert is_there(tmp_path)


def test_a_part_that_is_complete_already_needs_no_byte_more(get, server, tmp_path):
    (tmp_path / ".reviews.json.gz.part").write_bytes(CONTENT)
    state = {"url": f"{server.url}/reviews.json.gz", "total": len(CONTENT), "validator": server.etag}
    (tmp_path / ".reviews.json.gz.part.json").write_text(json.dumps(state))
    _, seen = get()
    assert is_there(tmp_path) and seen == []


def test_a_second_address_helps_where_the_first_has_no_file(get, server, tmp_path):
    server.plans = ["404"]
    found, _ = get(urls=(f"{server.url}/gone", f"{server.url}/reviews.json.gz"))
    assert is_there(tmp_path) and found.url.endswith("/reviews.json.gz")


def record(server: Server, checksum: str) -> dict:
    entry = {"key": "reviews.json.gz", "size": len(CONTENT), "links": {"self": f"{server.url}/api/content"}}
    return {"files": [entry | ({"checksum": checksum} if checksum else {})]}


def test_the_publishers_checksum_is_checked(get, server, tmp_path):
    server.record = record(server, f"md5:{MD5}")
    found, _ = get(record=True)
    assert is_there(tmp_path) and found.checksum == f"md5:{MD5}" and found.url.endswith("/api/content")


def test_wrong_bytes_are_removed_and_named(get, server, tmp_path):
    server.record = record(server, f"md5:{MD5}")
    server.plans = ["wrong bytes"]
    with pytest.raises(RunError, match=rf"publisher states {MD5}.*try again"):
        get(record=True)
    assert {path.name for path in tmp_path.iterdir()} == {".reviews.json.gz.lock"}
    get(record=True)
    assert is_there(tmp_path)


@pytest.mark.parametrize("plan", ["page", "wrong bytes", "cut"])
def test_damaged_archives_are_not_taken_where_no_sum_is_stated(get, server, tmp_path, plan):
    server.plans = [plan]
    with pytest.raises(RunError, match=r"no whole \.gz file"):
        get()
    assert {path.name for path in tmp_path.iterdir()} == {".reviews.json.gz.lock"}


@pytest.mark.parametrize("answer", [b"<html>", {"files": []}, {"message": "gone"}])
def test_odd_metadata_are_one_line(get, server, tmp_path, answer):
    server.record = answer
    with pytest.raises(RunError) as caught:
        get(record=True)
    assert "\n" not in str(caught.value) and "https://example.org/page" in str(caught.value)


def test_without_a_connection_the_message_says_what_to_do(get, tmp_path):
    with pytest.raises(RunError) as caught:
        get(urls=("http://127.0.0.1:1/reviews.json.gz",))
    message = str(caught.value)
    assert "no connection" in message and "get reviews.json.gz from https://example.org/page and put it into" in message
    assert str(tmp_path) in message and "\n" not in message


def test_too_little_room_is_said_before_anything_is_written(get, server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 70_000_000 - len(CONTENT)})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(download, "_SPARE", 70_000_000)
    with pytest.raises(RunError, match="still to come"):
        get()
    assert not (tmp_path / ".reviews.json.gz.part").exists()
    monkeypatch.setattr(download, "_SPARE", 0)
    get()
    assert is_there(tmp_path)


def test_a_full_disk_keeps_what_is_there(get, server, tmp_path, monkeypatch):
    opened = Path.open

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, chunk):
            self.stream.write(chunk[:1000])
            raise OSError(28, "No space left on device")

    def limited(path, mode="r", *rest, **more):
        stream = opened(path, mode, *rest, **more)
        return Full(stream) if path.name.endswith(".part") and mode in ("wb", "ab") else stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", limited)
        with pytest.raises(RunError, match=r"no space left.*goes on"):
            get()
    get()
    assert is_there(tmp_path) and server.ranges[-1] == "bytes=1000-"


def test_two_at_once_do_not_write_into_each_other(get, tmp_path):
    import filelock

    with filelock.FileLock(tmp_path / ".reviews.json.gz.lock"), pytest.raises(RunError, match="another process"):
        get()


def test_files_put_there_by_hand_stay(get, server, tmp_path):
    (tmp_path / "reviews.json.gz").write_bytes(b"mine")
    found, _ = get()
    assert (
        not found.new
        and found.sha256 == ""
        and (tmp_path / "reviews.json.gz").read_bytes() == b"mine"
        and not server.ranges
    )


def test_what_is_known_and_what_is_not():
    kindle = publication("amazon-kindle")
    assert [file.name for file in kindle.files] == ["reviews_Kindle_Store_5.json.gz", "meta_Kindle_Store.json.gz"]
    assert publication("amazon:Beauty").files[1].name == "meta_Beauty.json.gz"
    assert publication("kuaisar").files[0].name == "KuaiSAR_v2.zip" and publication("kuaisar").metadata.endswith(
        "/8181109"
    )
    with pytest.raises(UsageError, match="did you mean kuaisar"):
        publication("kuaisr")
    with pytest.raises(UsageError, match="letters"):
        publication("amazon:../x")


def test_the_command_prints_place_and_sum(server, tmp_path, monkeypatch):
    from bench.cli.data_fetch import fetch as command

    source = Publication("https://example.org", (Remote("reviews.json.gz", (f"{server.url}/x",)),))
    monkeypatch.setitem(publications.PUBLICATIONS, "kuaisar", source)
    done = CliRunner().invoke(command, ["kuaisar", "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "kuaisar" / "reviews.json.gz") in done.stdout
    assert "not verified" in done.stdout and SHA256 in done.stdout
    assert is_there(tmp_path / "kuaisar")


def test_off_line_the_command_says_so_at_once(tmp_path, monkeypatch):
    import socket

    asked = []

    def off_line(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", off_line)
    for name, files in (("amazon-kindle", 2), ("amazon:Beauty", 2)):
        asked.clear()
        with pytest.raises(RunError) as caught:
            fetch(name, publication(name), tmp_path, lambda *_: None, pause=60)
        assert len(asked) == 3 and str(caught.value).count(".json.gz") == files and "put them into" in str(caught.value)
        assert str(caught.value).count("Name or service not known") == 2  # once a host
