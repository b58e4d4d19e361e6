"""The results folder: what is read back is what was written, and a kill at any place leaves a result."""

import json
import os
import queue
import shutil
import threading
import warnings
from dataclasses import asdict, replace
from pathlib import PurePosixPath

import numpy as np
import pytest

from bench.errors import RunError, UsageError
from bench.evaluation.candidates import draw
from bench.evaluation.ranks import Ranks
from bench.report.table import table
from bench.store.records import DamagedRecordWarning
from bench.store.results import CURVE, WEIGHTS, checked_file, read_ranks

RUN = "one-s0-0123456789ab"


def test_a_record_is_read_as_it_was_written(store, make_run):
    folder, record = make_run(store)
    assert asdict(store.read(folder)) == asdict(record)
    assert read_ranks(folder, record.evaluations["c1" * 32]).tasks == ("rec", "search")
    assert checked_file(folder, WEIGHTS).read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("old", "new"),
    [('"epochs": 3', '"epochs": 4'), ('"seed": 0', '"seed": 1'), ('"leave-one-out"', '"last-day"'), ("0.001", "0.002")],
)
def test_an_edited_record_is_refused(store, make_run, old, new):
    folder, _ = make_run(store)
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace(old, new, 1))
    with pytest.raises(RunError, match=r"run\.json was changed after it was written"):
        store.read(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 3}', '{"format": 3, "sha256": 1, "dataset": null}', "[" * 100_000, b"\xff\xfe"],
)
def test_what_is_no_record_is_one_line_and_stops_nothing(store, make_run, content):
    folder, _ = make_run(store)
    make_run(store, "two")
    (folder / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(DamagedRecordWarning, match=r"run\.json") as caught:
        assert [record.model for _, record in store.runs()] == ["two"]
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert store.locate(RUN) == folder
    store.remove(folder)
    assert [record.model for _, record in store.runs()] == ["two"]


def test_a_broken_command_is_named_and_left_out(store, make_command):
    make_command(store, "c1")
    make_command(store, "c2")
    path = store.root / "commands" / "c1.json"
    path.write_text(path.read_text().replace("quick", "paper"))
    with pytest.warns(DamagedRecordWarning, match=r"c1\.json was changed"):
        assert [command.id for command in store.commands()] == ["c2"]


def test_ranks_weights_and_curves_that_were_altered_are_refused(store, make_run):
    folder, record = make_run(store)
    (evaluation,) = record.evaluations.values()
    ranks = Ranks.load(folder / evaluation.ranks)
    best = replace(ranks, better=np.zeros_like(ranks.better), tied=np.zeros_like(ranks.tied))
    best.save(folder / evaluation.ranks)
    with pytest.raises(RunError, match=r"ranks-.* is not the file that run\.json describes"):
        read_ranks(folder, evaluation)
    with pytest.raises(RunError, match="ranks-"):
        table(store)
    for name in (WEIGHTS, CURVE):
        (folder / name).write_bytes(bytes(len((folder / name).read_bytes())))
        with pytest.raises(RunError, match=f"{name} is not the file"):
            checked_file(folder, name)
    (folder / WEIGHTS).unlink()
    with pytest.raises(RunError, match=r"weights\.safetensors is not readable"):
        checked_file(folder, WEIGHTS)


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "ranks-0000000000000000.parquet", "."])
def test_a_record_names_ranks_of_its_own_folder_only(store, make_run, name):
    folder, record = make_run(store)
    record.evaluations["c1" * 32].ranks = name
    store.write(folder, record)  # with a digest that fits
    with pytest.raises(RunError, match=r"run\.json names the ranks"):
        read_ranks(folder, store.read(folder).evaluations["c1" * 32])


def test_a_record_under_the_name_of_another_run_is_refused(store, make_run):
    folder, _ = make_run(store)
    shutil.copytree(folder, folder.with_name("two-s0-0123456789ab"))
    with pytest.raises(RunError, match="record of another run, one-s0"):
        store.finished("toy", "two-s0-0123456789ab")


def test_candidates_files_hold_what_they_are_named_by(store, make_log):
    from bench.data.split import split as split_log

    split = split_log(make_log(n_items=150))
    chosen = draw(split, negatives=20)
    folder = store.candidates("toy")
    target = chosen.save(folder, split)
    assert chosen.save(folder, split) == target
    for suffix in (".json", ".parquet", ".positions.parquet"):
        path = target.with_name(target.stem + suffix)
        before = path.read_bytes()
        path.write_bytes(before.replace(b'"rows": ', b'"rows": 9') if suffix == ".json" else before[:-9] + bytes(9))
        with pytest.raises(RunError, match=f"{target.stem}.*does not hold the candidates"):
            chosen.save(folder, split)
        path.write_bytes(before)
    # Well-formed, with another content.
    other = draw(split, negatives=20, seed=1)
    elsewhere = other.save(store.root / "other", split)
    for suffix in (".parquet", ".positions.parquet"):
        path = target.with_name(target.stem + suffix)
        before = path.read_bytes()
        shutil.copy(elsewhere.with_name(elsewhere.stem + suffix), path)
        with pytest.raises(RunError, match="does not hold the candidates"):
            chosen.save(folder, split)
        path.write_bytes(before)
    assert chosen.save(folder, split) == target


def test_a_flipped_byte_gives_an_error_or_the_same_numbers(store, make_run, make_command):
    """200 seeded flips of one byte in any ranks, record or command file: never another number."""
    runs = [make_run(store, model, seed) for model, seed in (("one", 0), ("one", 1))]
    make_command(store, runs=[f"toy/{record.id}" for _, record in runs], finished="2025-03-01T11:00:00+00:00")

    def values():
        frame = table(store).frame()
        return {tuple(row[:-1]): row[-1] for row in frame[["task", "model", "metric", "mean"]].itertuples(index=False)}

    expected, rng = values(), np.random.default_rng(0)
    files = [path for path in sorted(store.root.rglob("*")) if path.suffix in (".json", ".parquet")]
    refused = left_out = 0
    for _ in range(200):
        path = files[rng.integers(len(files))]
        before = path.read_bytes()
        place, bit = rng.integers(len(before)), rng.integers(1, 256)
        path.write_bytes(before[:place] + bytes([before[place] ^ bit]) + before[place + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = values()
            except RunError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                named = [
                    one for one in caught if one.category is DamagedRecordWarning and str(path) in str(one.message)
                ]
                # A seed that is left out changes the mean over seeds of its model, and the warning names the file.
                other = {key for key in expected if found.get(key) != expected[key]}
                assert not other or named, path
                left_out += bool(named)
        path.write_bytes(before)
    assert values() == expected and refused > 30 and left_out > 30


@pytest.mark.parametrize("text", [".", "..", "", " ", "./", "/"])
def test_what_is_no_id_and_no_folder_of_a_run_is_refused(store, make_run, text):
    make_run(store)
    with pytest.raises(UsageError):
        store.locate(text)


def test_a_run_is_located_by_id_by_the_start_of_it_and_by_its_folder_here(store, make_run, tmp_path, monkeypatch):
    folder, _ = make_run(store)
    monkeypatch.chdir(store.root)
    for text in (RUN, "one", str(folder), f"toy/{RUN}", f"./toy/../toy/{RUN}/"):
        assert store.locate(text) == folder
    namesake = tmp_path / "backup" / RUN
    shutil.copytree(folder, namesake)
    for text in (str(namesake), f"/nowhere/backup/{RUN}", str(store.root), str(folder.parent), f"{folder}/run.json"):
        with pytest.raises(UsageError, match=r"no folder|no run of the results folder"):
            store.locate(text)
    make_run(store, "one", 1)
    with pytest.raises(UsageError, match=f"could be toy/{RUN}, toy/one-s1"):
        store.locate("one")
    shutil.copytree(folder, store.folder("other", RUN))
    with pytest.raises(UsageError, match=f"could be other/{RUN}, toy/{RUN}"):
        store.locate(RUN)


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


@pytest.mark.parametrize("before", [0, 1, 2])
def test_after_a_kill_while_a_forced_run_is_published_a_result_stands(store, make_run, monkeypatch, before):
    folder, old = make_run(store)
    shutil.copytree(folder, store.part("toy", RUN))
    store.write(store.part("toy", RUN), replace(old, seconds=1.0))
    renames = []

    def rename(source, target):
        if len(renames) == before:
            raise Killed
        renames.append(target)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("bench.store.results.os.replace", rename)
        patch.setattr("bench.store.results.shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            store.publish("toy", RUN)
    assert len(renames) == before
    # Reading alone finds a complete result, and leaves nothing of the kill behind.
    seconds = [record.seconds for _, record in store.runs()]
    assert seconds == ([330.25] if before == 0 else [1.0])
    with store.locked("toy", RUN):
        pass
    assert [record.seconds for _, record in store.runs()] == [1.0]
    assert [path.name for path in folder.parent.iterdir()] == [RUN]


def test_leftovers_of_killed_commands_are_removed_or_put_back(store, make_run):
    folder, _ = make_run(store)
    folder.rename(folder.with_name(f".{RUN}.old.4711"))
    two, _ = make_run(store, "two")
    two.rename(two.with_name(f".{two.name}.removed"))
    assert [path.name for path in store.run_folders()] == [RUN]
    assert [path.name for path in folder.parent.iterdir()] == [RUN]


def test_what_a_living_process_holds_is_not_swept(store, make_run):
    folder, _ = make_run(store)
    with store.locked("toy", RUN):
        hidden = folder.rename(folder.with_name(f".{RUN}.old"))
        assert store.run_folders() == [] and hidden.exists()
        with (
            pytest.raises(RunError, match=f"another process is working on the run {RUN}; wait for it"),
            store.locked("toy", RUN),
        ):
            pass
    assert store.run_folders() == [folder]


def test_who_waits_says_so_and_finds_the_result_of_the_other(store, make_run):
    lines, found = queue.Queue(), []

    def work():
        with store.locked("toy", RUN, lines.put):
            found.append(store.finished("toy", RUN).seconds)

    other = threading.Thread(target=work)
    with store.locked("toy", RUN):
        other.start()
        assert lines.get(timeout=60) == f"another process is working on the run {RUN}"
        make_run(store, seconds=5.0)
    other.join(60)
    assert found == [5.0] and lines.empty()


def test_a_file_system_without_locks_is_named(store, monkeypatch):
    def missing(*_, **__):
        raise NotImplementedError("flock")

    monkeypatch.setattr("filelock.FileLock.acquire", missing)
    with pytest.raises(RunError, match="has no file locks; choose a folder on another one"), store.locked("toy", RUN):
        pass


def test_records_hold_plain_json(store, make_run):
    folder, record = make_run(store, evidence={1: (1, 2), "path": PurePosixPath("a/b")})
    assert store.read(folder).evidence == {"1": [1, 2], "path": "a/b"}
    assert json.loads((folder / "run.json").read_text())["id"] == record.id
