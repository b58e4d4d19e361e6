"""The Log: round trip, damage, permutation of raw rows."""

import json

import numpy as np
import pytest

from bench.data import log as logs
from bench.data.build import k_core
from bench.errors import RunError


def test_round_trip_keeps_content_and_fingerprint(make_log, tmp_path):
    log = make_log().save(tmp_path / "log")
    read = logs.load(tmp_path / "log")
    assert read.fingerprint == log.fingerprint
    for name, column in vars(log.events).items():
        assert np.array_equal(getattr(read.events, name), column), name
    assert read.items.text.tolist() == log.items.text.tolist()
    assert read.items.queries.values.tolist() == log.items.queries.values.tolist()
    assert read.with_fingerprint().fingerprint == log.fingerprint


@pytest.mark.parametrize("mode", ["disjoint", "mirror"])
def test_raw_row_order_does_not_matter(make_log, mode):
    # Times cut to days make most of the order a matter of the hash.
    plain = make_log(mode=mode, days=True)
    assert all(make_log(mode=mode, days=True, shuffle=seed).fingerprint == plain.fingerprint for seed in (1, 2, 3))
    assert make_log(seed=1, mode=mode, days=True).fingerprint != plain.fingerprint


def test_events_are_sorted_and_twins_share_an_event(make_log):
    events = make_log(mode="mirror", days=True).events
    assert (np.diff(events.user) >= 0).all()
    same_user = np.diff(events.user) == 0
    assert (np.diff(events.time)[same_user] >= 0).all()
    ids, counts = np.unique(events.event_id, return_counts=True)
    assert (counts == 2).all() and ids.min() == 1 and ids.max() == len(ids)
    # Twins stand beside each other: same event, one rec without a query, one search with one.
    assert (events.event_id[::2] == events.event_id[1::2]).all()
    assert (events.task[::2] == 0).all() and (events.query[::2] == 0).all() and (events.query[1::2] > 0).all()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "format"])
def test_damage_is_one_clear_line(make_log, tmp_path, damage):
    folder = tmp_path / "log"
    make_log().save(folder)
    path = folder / "events.parquet"
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "remove":
        path.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(RunError) as caught:
        logs.load(folder)
    message = str(caught.value)
    assert str(folder) in message and "prepare" in message and "\n" not in message


def test_failed_save_leaves_nothing(make_log, tmp_path, monkeypatch):
    import bench.data.log as module

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", full)
    with pytest.raises(RunError, match="No space left"):
        make_log().save(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


def test_five_core_is_iterative():
    # Item 9 has five rows, but one of them is of a user who falls away first.
    users = np.array([0] * 6 + [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6 + [5])
    items = np.array([0, 1, 2, 3, 4, 9] * 4 + [0, 1, 2, 3, 4, 5] + [9])
    keep = k_core(users, items)
    assert not keep[users == 5].any() and not keep[items == 9].any()
    assert keep.sum() == 25
