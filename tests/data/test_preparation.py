"""A preparation that is killed, that finds the disk full, that two processes want at once."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data import sources

# What each process does before it loads the log; {} is filled in by the test.
SCRIPT = """
import os, resource, signal, sys, time
from pathlib import Path
import pyarrow.parquet as pq
from bench.data import log as logs, sources
folder, root, start = sys.argv[1:]

{}

log = sources.load(f"log:{{folder}}", None, root=root)
print(log.fingerprint)
"""
KILLED = """
write = pq.write_table
def cut(table, path, **options):
    write(table, path, **options)
    if Path(path).name.startswith("words"):  # several files are there by now
        os.kill(os.getpid(), signal.SIGKILL)
pq.write_table = cut
"""
FULL = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
"""
TOGETHER = """
from bench.datasets.own_log import source as own_log
kind = own_log.OwnLog
original = kind.prepare
def slow(self, files):
    print("prepared here", flush=True)
    time.sleep(4)  # longer than the other one takes to come here, on a busy machine too
    return original(self, files)
kind.prepare = slow
Path(start, str(os.getpid())).touch()
while len(os.listdir(start)) < 2:
    time.sleep(0.01)
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 12)
    folder = tmp_path / "raw"
    folder.mkdir()
    pd.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": [f"i{i}" for i in rng.integers(0, 40, len(user))],
            "time": 1_600_000_000_000 + rng.integers(0, 10**9, len(user)),
            "task": "rec",
        }
    ).to_csv(folder / "events.csv", index=False)
    return folder


def process(raw: Path, root: Path, setup: str) -> subprocess.Popen:
    line = [sys.executable, "-c", textwrap.dedent(SCRIPT).format(setup), str(raw), str(root), str(raw.parent / "start")]
    (raw.parent / "start").mkdir(exist_ok=True)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def visible(root: Path) -> list[str]:
    return [path.name for path in (root / "prepared").glob("*") if not path.name.startswith(".")]


def scratch(root: Path) -> list[Path]:
    return [path for path in (root / "prepared").glob(".*") if path.is_dir()]


def test_after_a_killed_preparation_the_next_starts_cleanly(raw, tmp_path):
    root = tmp_path / "data"
    killed = process(raw, root, KILLED)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    # Nothing that could be taken for a Log; the half of one lies hidden until the next preparation.
    assert visible(root) == [] and len(scratch(root)) == 1
    log = sources.load(f"log:{raw}", None, root=root)
    assert scratch(root) == [] and len(visible(root)) == 1
    assert log.fingerprint == sources.load(f"log:{raw}", None, root=tmp_path / "other").fingerprint


def test_two_preparations_at_once_make_one_log(raw, tmp_path):
    root = tmp_path / "data"
    both = [process(raw, root, TOGETHER) for _ in range(2)]
    results = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], results
    lines = sorted(line for out, _ in results for line in out.split("\n") if line)
    fingerprint = sources.load(f"log:{raw}", None, root=root).fingerprint
    # Both have the Log; one of them made it, and the other one said that it waits.
    assert lines == sorted(["prepared here", fingerprint, fingerprint])
    assert sum("is making" in err and "waiting" in err for _, err in results) == 1
    assert len(visible(root)) == 1 and scratch(root) == []


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_full_disk_leaves_nothing_and_says_where(raw, tmp_path):
    root = tmp_path / "data"
    full = process(raw, root, FULL)
    _, error = full.communicate(timeout=60)
    assert full.returncode == 1
    last = error.strip().split("\n")[-1]
    assert "RunError: cannot write the prepared log to" in last and str(root / "prepared") in last
    assert visible(root) == [] and scratch(root) == []
    assert sources.load(f"log:{raw}", None, root=root).fingerprint


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_data_root_is_one_clear_line(raw, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    root.chmod(0o500)
    from bench.errors import RunError

    with pytest.raises(RunError, match="cannot write the prepared log to"):
        sources.load(f"log:{raw}", None, root=root)


def test_an_old_folder_survives_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    from bench.errors import RunError
    from bench.files import atomic_folder

    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "kept").touch()
    replace = os.replace

    def refuse(source, target):
        if Path(target) == folder and Path(source).name.startswith(".log-") and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(RunError, match=r"cannot write the log to .*: Input/output error"),
        atomic_folder(folder, "the log") as new,
    ):
        (new / "fresh").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["log"] and (folder / "kept").exists()
