"""Copies of runs: the same numbers without the weights, whole or not at all."""

from dataclasses import replace

import numpy as np
import pytest

from bench.errors import RunError
from bench.evaluation.ranks import Ranks
from bench.report.table import table
from bench.store.copies import copy_run
from bench.store.results import WEIGHTS, Store


@pytest.fixture
def target(tmp_path):
    return Store(tmp_path / "published")


def copy_all(store, target):
    return [copy_run(store, folder, target) for folder in store.run_folders()]


def test_a_copy_gives_the_same_table_and_has_no_weights(store, target, make_run):
    for model in ("one", "two"):
        for seed in (0, 1):
            make_run(store, model, seed)
    assert copy_all(store, target) == [True] * 4
    assert table(target).json() == table(store).json()
    assert not list(target.root.rglob(WEIGHTS)) and len(list(store.root.rglob(WEIGHTS))) == 4
    assert copy_all(store, target) == [False] * 4
    assert copy_all(target, Store(target.root.with_name("further"))) == [True] * 4


def test_candidates_come_along_once(store, target, make_run):
    folder, record = make_run(store)
    start = next(iter(record.evaluations))[:16]
    store.candidates("toy").mkdir()
    for name in (f"{start}.json", f"{start}.parquet", "f0f0f0f0f0f0f0f0.parquet"):
        (store.candidates("toy") / name).write_text(name)
    copy_run(store, folder, target)
    assert sorted(path.name for path in target.candidates("toy").iterdir()) == [f"{start}.json", f"{start}.parquet"]


def test_a_run_with_further_evaluations_takes_the_place_of_its_older_copy(store, target, make_run):
    folder, _ = make_run(store)
    copy_run(store, folder, target)
    folder, record = make_run(store, sets=(("c1" * 32, "uniform-99"), ("d2" * 32, "same-query-99")))
    assert copy_run(store, folder, target)
    assert target.finished("toy", record.id).evaluations.keys() == record.evaluations.keys()


@pytest.mark.parametrize("name", ["ranks", "curve.jsonl", "run.json"])
def test_what_is_not_what_its_record_says_is_not_copied(store, target, make_run, name):
    folder, record = make_run(store)
    if name == "ranks":
        (evaluation,) = record.evaluations.values()
        ranks = Ranks.load(folder / evaluation.ranks)
        replace(ranks, better=np.zeros_like(ranks.better)).save(folder / evaluation.ranks)
    else:
        path = folder / name
        path.write_text(path.read_text().replace("3", "4", 1))
    with pytest.raises(RunError, match=name):
        copy_run(store, folder, target)
    assert target.run_folders() == []


def test_a_copy_that_cannot_be_written_leaves_the_older_one(store, target, make_run, monkeypatch):
    folder, _ = make_run(store)
    copy_run(store, folder, target)
    before = {path.name: path.read_bytes() for path in target.run_folders()[0].iterdir()}
    folder, record = make_run(store, sets=(("d2" * 32, "same-query-99"),))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("bench.store.copies.shutil.copyfile", full)
        with pytest.raises(RunError, match="No space left"):
            copy_run(store, folder, target)
    place = target.folder("toy", record.id)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in place.parent.iterdir()] == [record.id]


def test_what_a_killed_copy_left_is_swept(store, target, make_run):
    folder, record = make_run(store)
    half = target.folder("toy", f".{record.id}-abc")
    half.mkdir(parents=True)
    (half / "curve.jsonl").write_text("{")
    assert target.run_folders() == []
    copy_run(store, folder, target)
    assert not half.exists() and len(target.run_folders()) == 1


def test_a_run_that_a_process_works_on_is_not_replaced(store, target, make_run):
    folder, record = make_run(store)
    with target.locked("toy", record.id), pytest.raises(RunError, match="another process is working on the run"):
        copy_run(store, folder, target)
