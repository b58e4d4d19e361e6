"""Counting, per-user means, and the file that keeps the ranks."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import RunError, UsageError
from bench.evaluation.metrics import DEFAULT, PRIMARY, Metric
from bench.evaluation.ranks import Ranks, count

COLUMNS = ["user", "event_id", "item", "task", "query", "better", "tied", "candidates"]


def make(n=500, seed=0, **meta):
    generator = np.random.default_rng(seed)
    better = generator.integers(0, 60, n)
    return Ranks(
        user=generator.integers(1, 80, n),
        event_id=np.arange(n) + 2**40,
        item=generator.integers(1, 1000, n),
        task=generator.integers(0, 2, n),
        query=generator.integers(0, 50, n),
        better=better,
        tied=generator.integers(0, 40, n),
        candidates=np.full(n, 100),
        meta={"model": "popularity", "candidates": "sha256:abc"} | meta,
    )


def same(a, b):
    return a.meta == b.meta and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


# --- counting


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 20), st.integers(1, 6))
def test_count_equals_a_plain_loop_and_ignores_the_order_of_candidates(seed, rows, columns, levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(levels, size=(rows, columns)).astype(np.float32)
    position = generator.integers(columns, size=rows)
    better, tied = count(scores, position)
    for row in range(rows):
        negatives = [scores[row, column] for column in range(columns) if column != position[row]]
        assert better[row] == sum(score > scores[row, position[row]] for score in negatives)
        assert tied[row] == sum(score == scores[row, position[row]] for score in negatives)
    order = generator.permutation(columns)
    shuffled = count(scores[:, order], np.argsort(order)[position])
    assert np.array_equal(shuffled, (better, tied))


def test_the_column_of_the_positive_gives_no_advantage():
    scores = np.zeros((100, 100), np.float32)
    for position in (np.zeros(100, int), np.full(100, 99), np.arange(100)):
        better, tied = count(scores, position)
        assert (better == 0).all() and (tied == 99).all()


def test_padding_is_neither_counted_nor_checked():
    scores = np.array([[1, 2, 3, np.nan], [1, 1, 1, 9]], np.float32)
    valid = np.array([[True, True, True, False], [True, True, False, False]])
    better, tied = count(scores, np.array([1, 0]), valid)
    assert better.tolist() == [1, 0] and tied.tolist() == [0, 1]
    with pytest.raises(RunError):
        count(scores, np.array([1, 0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_stops_with_model_and_row(value):
    scores = np.zeros((4, 100), np.float32)
    scores[2, 17] = value
    with pytest.raises(RunError, match=rf"^mine returned the score {value} in row 1002, candidate 17;"):
        count(scores, np.zeros(4, int), model="mine", first_row=1000)


@pytest.mark.parametrize(
    "scores",
    [np.zeros((4, 5), np.float16), np.zeros((4, 5), np.int64), np.zeros(4, np.float32), np.zeros((3, 5), np.float32)],
    ids=["half precision", "integers", "one axis", "a row less"],
)
def test_scores_of_a_wrong_shape_or_type_are_refused(scores):
    with pytest.raises(RunError, match="the model returned"):
        count(scores, np.zeros(4, int))


# --- the columns


def test_per_user_averages_the_rows_of_a_user_first():
    ranks = Ranks([7, 3, 7, 7], range(4), [1] * 4, [0, 0, 0, 1], [0, 0, 0, 5], [0, 0, 20, 0], [0, 1, 0, 0], [100] * 4)
    users, means = ranks.only("rec").per_user(Metric("R", 1))
    assert users.tolist() == [3, 7] and means.tolist() == [0.5, 0.5]
    assert ranks.mean(Metric("R", 1)) == pytest.approx((0.5 + 2 / 3) / 2)
    assert ranks.values(Metric("R", 1)).mean() == pytest.approx(2.5 / 4)
    assert ranks.tasks == ("rec", "search") and ranks.only("search").query.tolist() == [5]
    assert ranks.tie_rate == 0.25


def test_the_order_of_rows_does_not_matter():
    ranks = make()
    order = np.random.default_rng(3).permutation(len(ranks))
    shuffled = Ranks(**{name: getattr(ranks, name)[order] for name in COLUMNS})
    for metric in DEFAULT:
        for one, other in zip(ranks.per_user(metric), shuffled.per_user(metric), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_no_rows_are_no_number():
    empty = make(n=0)
    assert np.isnan(empty.mean(PRIMARY)) and np.isnan(empty.tie_rate) and empty.tasks == ()
    assert empty.per_user(PRIMARY)[0].shape == (0,)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("task", np.full(500, 2), "task codes"), ("better", np.full(500, 99), "row 0"), ("user", [1], "differ in length")],
)
def test_columns_that_no_evaluation_gives_are_refused(column, value, words):
    with pytest.raises(RunError, match=words):
        replace(make(), **{column: value})


def test_an_unknown_task_is_a_usage_error():
    with pytest.raises(UsageError, match="did you mean search"):
        make().only("serch")


# --- the file


def test_a_file_gives_back_what_was_saved(tmp_path):
    for ranks in (make(), make(n=0), make(n=1)):
        ranks.save(tmp_path / "ranks.parquet")
        loaded = Ranks.load(tmp_path / "ranks.parquet")
        assert same(ranks, loaded)
        assert [getattr(loaded, name).dtype for name in COLUMNS] == [getattr(ranks, name).dtype for name in COLUMNS]
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.parquet"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first, again, other = (tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet"))
    ranks = make(n=5000)
    ranks.save(first)
    reordered = replace(ranks, user=ranks.user.astype(np.int64), meta=dict(reversed(ranks.meta.items())))
    reordered.save(again)
    make(n=5000, seed=1).save(other)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    script = (
        "import sys, pathlib; from bench.evaluation.ranks import Ranks;"
        "Ranks.load(pathlib.Path(sys.argv[1])).save(pathlib.Path(sys.argv[2]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "TZ": "Asia/Shanghai"}
    subprocess.run([sys.executable, "-c", script, first, other], check=True, env=environment)
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "ranks.parquet"
    make(n=50).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"ranks.parquet is not readable Parquet .*; remove that run and repeat it$"):
            Ranks.load(path)


def test_changed_bytes_never_pass_as_other_numbers(tmp_path):
    path = tmp_path / "ranks.parquet"
    ranks = make(n=50)
    ranks.save(path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in range(0, footer, 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert same(Ranks.load(path), ranks)  # a byte of the page header that does not matter
        except RunError:
            refused += 1
    assert refused > footer / 11 * 0.5


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "ranks.parquet"
    with pytest.raises(RunError, match="no ranks at"):
        Ranks.load(path)
    with pytest.raises(RunError, match="not readable"):
        Ranks.load(tmp_path)
    pq.write_table(pa.table({"user": [1, 2]}), path)
    with pytest.raises(RunError, match="user is int64"):
        Ranks.load(path)
    make(n=3).save(path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["tied"]), path)
    with pytest.raises(RunError, match="the column tied is missing"):
        Ranks.load(path)
    gap = pa.array([1, None, 2], pa.int32())
    pq.write_table(table.set_column(table.column_names.index("tied"), "tied", gap), path)
    with pytest.raises(RunError, match="has gaps"):
        Ranks.load(path)
    many = pa.array([1, 100, 2], pa.int32())
    pq.write_table(table.set_column(table.column_names.index("tied"), "tied", many), path)
    with pytest.raises(RunError, match="row 1"):
        Ranks.load(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "ranks.parquet"
    make().save(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(RunError, match=r"cannot write .*ranks\.parquet: No space left on device"):
        make(seed=1).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RunError, match=r"cannot write .*; choose another disk"):
        make().save(path / "ranks.parquet", "choose another disk")
