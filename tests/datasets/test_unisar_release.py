"""UniSAR's release: rows and histories as published, stored negatives as candidates."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench.data import sources
from bench.data.history import Histories, Window
from bench.data.split import split
from bench.errors import RunError, UsageError
from bench.evaluation.given import read_lists

from .unisar_files import ITEMS, write, write_release


def load(folder: Path, root: Path):
    return sources.load(f"unisar-release:{folder}", root=root)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "amazon"
    root = tmp_path_factory.mktemp("root")
    content = write_release(folder)
    return content, load(folder, root), root


def test_events_split_and_features_are_the_releases(released):
    content, log, _ = released
    events, given = log.events, split(log, "given")
    assert log.name == "unisar-release:amazon" and log.manifest["release"]["time unit"] == "s"
    # Each purchase once as a click and once as a search, and these two are one act.
    assert len(events) == 2 * 12 * 8 and len(np.unique(events.event_id)) == 12 * 8
    for code, kind in enumerate(("rec", "src")):
        for part, name in ((2, "test"), (1, "val")):
            published = {(row[0], row[1]) for row in content["rows"][kind] if row[-1] == name}
            here = (events.part == part) & (events.task == code)
            mine = {
                (int(u), int(i))
                for u, i in zip(log.users.id[events.user[here]], log.items.id[events.item[here]], strict=True)
            }
            assert mine == published
    assert len(given.rows("test", "search")) == 12
    asked = {tuple(entry[0][:2]) for entry in content["sessions"][1:]}
    assert len(log.queries) == len(asked) and all(log.queries.text[1:])
    word = log.words.id[log.items.words[1]]
    item = int(log.items.id[1])
    assert word.tolist() == [str(item % 7 + 1), str(item % 5 + 20)] and log.items.text[1] == " ".join(word)
    assert set(log.users.features) == {"onehot_feat1", "rec_active_level"} and set(log.items.features) == {
        "first_level_category",
        "second_level_category",
    }
    assert log.categories.id[log.items.categories[2]].tolist() == [
        f"{level}:{int(log.items.id[2]) % size}" for level, size in ((1, 4), (2, 9)) if int(log.items.id[2]) % size
    ]


def test_histories_are_the_prefixes_without_the_rows_own_act(released):
    content, log, _ = released
    events = log.events
    histories = Histories(log)
    place = {
        (log.users.id[events.user[row]], log.items.id[events.item[row]], events.task[row]): row
        for row in range(len(events))
    }
    for code, kind in enumerate(("rec", "src")):
        for user, item, _, n_rec, n_src, keyword, _, _ in content["rows"][kind]:
            row = place[str(user), str(item), code]
            past = histories.gather(np.asarray([row]), Window(None, None, 5))
            said = [i for i in content["users"][user]["rec_his"][:n_rec] if i != item]
            assert [int(i) for i in log.items.id[past.rec_items[0, : past.rec_len[0]]]] == said
            searched = content["users"][user]["src_session_his"][:n_src]
            assert [int(i) for i in log.items.id[past.search_items[0, : past.search_len[0], 0]]] == [
                content["sessions"][s][1][0] for s in searched
            ]
            if code:
                assert log.queries.id[events.query[row]] == " ".join(map(str, keyword))
    facts = log.manifest["release"]["events"]
    rows = sum(len(found) for found in content["rows"].values())
    assert (
        facts["rows whose histories have the lengths of the release's prefixes"]
        + facts["rows whose recommendation history is shorter here than the release's prefix"]
        == rows
    )
    # Every search prefix of the release holds the click of its own purchase.
    assert facts["rows whose recommendation history is shorter here than the release's prefix"] == len(
        content["rows"]["src"]
    )


def test_leak_rates_are_those_of_a_slow_count(released):
    content, log, _ = released
    rates = log.manifest["release"]["leak rates"]
    trained = {kind: {(row[0], row[1]) for row in rows if row[-1] == "train"} for kind, rows in content["rows"].items()}
    for kind, task in (("rec", "rec"), ("src", "search")):
        for name, part in (("test", "test"), ("val", "valid"), ("train", "train")):
            rows = [row for row in content["rows"][kind] if row[-1] == name]
            whole = [row[1] in content["users"][row[0]]["rec_his"][: row[3]] for row in rows]
            found = rates[f"{task}/{'val' if part == 'valid' else part}"]
            assert found["target anywhere in its recommendation history"] == pytest.approx(np.mean(whole), abs=1e-6)
            clicks = [
                [content["sessions"][s][1][0] for s in content["users"][row[0]]["src_session_his"][: row[4]]]
                for row in rows
            ]
            assert found["target anywhere in its search history"] == pytest.approx(
                np.mean([row[1] in c for row, c in zip(rows, clicks, strict=True)]), abs=1e-6
            )
            for other, label in (("rec", "rec"), ("src", "search")):
                if name != "train":
                    share = np.mean([(row[0], row[1]) in trained[other] for row in rows])
                    assert found[f"user and item are a {label} training row"] == pytest.approx(share, abs=1e-6)
    assert rates["search/test"]["target in the last 30 of its recommendation history"] == 1.0


def test_stored_negatives_are_ranked_as_given_lists(released):
    content, log, root = released
    given = split(log, "given")
    candidates = read_lists(root / log.manifest["candidates"]["file"], given, ("rec", "search"))
    assert len(candidates) == len(given.test) == log.manifest["candidates"]["test rows with a list"] == 24
    stored = {
        (kind, row[0]): (row[1], row[2]) for kind, rows in content["rows"].items() for row in rows if row[-1] == "test"
    }
    for row, items, position in zip(candidates.rows, candidates.items, candidates.position, strict=True):
        kind = ("rec", "src")[log.events.task[row]]
        positive, negatives = stored[kind, int(log.users.id[log.events.user[row]])]
        ids = [int(i) for i in log.items.id[items]]
        assert ids[position] == positive and sorted(ids) == sorted([positive, *negatives]) and len(ids) == 100


def test_times_cut_to_days_keep_the_order_of_the_lists(tmp_path):
    content = write_release(tmp_path / "r", days=True, features=False)
    log = load(tmp_path / "r", tmp_path / "root")
    rec = log.events.task == 0
    for code, user in enumerate(log.users.id[1:], 1):
        mine = log.events.item[rec & (log.events.user == code)]
        assert [int(i) for i in log.items.id[mine]] == content["users"][int(user)]["rec_his"]
    assert log.manifest["release"]["events"]["events moved in time to keep the order"] > 0
    assert (log.events.time < (1_300_000_000 + 31 * 86_400) * 1000).all()
    assert log.items.text[1:].tolist() == [""] * len(log.items)


def test_odd_rows_are_counted_not_dropped(tmp_path):
    """Targets that no list holds, wrong negatives, prefixes too long, sessions unknown and without clicks."""
    folder = tmp_path / "odd"
    content = write_release(folder, n_users=4)
    path = folder / "dataset" / "rec_test.pkl"
    table = pickle.loads(path.read_bytes())
    table.at[0, "neg_items"] = [
        *table.at[0, "neg_items"][:97],
        int(table.at[0, "item_id"]),
        table.at[0, "neg_items"][0],
    ]
    table.at[1, "rec_his"] = 99
    unseen = next(
        i for i in range(1, ITEMS) if i not in content["users"][2]["rec_his"] and i not in table.at[2, "neg_items"]
    )
    table.at[2, "item_id"] = unseen
    path.write_bytes(pickle.dumps(table))
    user = dict(content["users"])
    user[3] = {
        **user[3],
        "src_session_his": [*user[3]["src_session_his"], 0, 9_999],
        "src_session_his_ts": [*user[3]["src_session_his_ts"], 2e9, 2e9],
    }
    write(folder, "user_vocab", user)
    log = load(folder, tmp_path / "root")
    facts = log.manifest["release"]
    assert facts["checks"]["rows with the positive among the negatives"] == 1
    assert facts["checks"]["rows with a negative more than once"] == 1
    assert facts["checks"]["rows whose recommendation prefix is longer than the list"] == 1
    assert facts["checks"]["rows with another number of negatives than documented (4 train, 99 else)"] == 0
    assert facts["checks"]["most test rows of a user and task"] == 1
    assert facts["events"]["recommendation rows whose target is not (events of their own)"] == 1
    assert facts["histories"]["search"]["sessions without a click (no event of ours)"] == 1
    assert facts["histories"]["search"]["sessions that the session table lacks"] == 1
    candidates = read_lists(tmp_path / "root" / log.manifest["candidates"]["file"], split(log, "given"), ("rec",))
    assert sorted((candidates.items > 0).sum(1)) == [98, 100, 100, 100]
    assert log.manifest["candidates"]["stored negatives left out (the positive, repeats, the id 0)"] == 2
    own = (
        (log.events.part == 2) & (log.items.id[log.events.item] == str(unseen)) & (log.users.id[log.events.user] == "2")
    )
    assert own.sum() == 1


def test_sessions_with_several_clicks_are_one_act(tmp_path):
    folder = tmp_path / "kuaisar"
    write_release(folder, n_users=3, length=5)
    vocabulary = pickle.loads((folder / "vocab" / "src_session_vocab_np.pkl").read_bytes())
    clicks = np.concatenate(
        [vocabulary["pos_items"], np.where(vocabulary["pos_items"] > 0, 7, 0), vocabulary["pos_items"]], axis=1
    )
    write(folder, "src_session_vocab_np", vocabulary | {"pos_items": clicks})
    log = load(folder, tmp_path / "root")
    search = log.events.task == 1
    of_session = pd.Series(log.events.session[search]).value_counts()
    assert (
        of_session.max() == 2
        and log.manifest["release"]["histories"]["search"]["repeated clicks in a session, counted once"] >= 15
    )
    times = pd.DataFrame({"session": log.events.session[search], "time": log.events.time[search]})
    assert (times.groupby("session")["time"].nunique() == 1).all()


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(RunError, match="no folder"):
        load(tmp_path / "nowhere", tmp_path / "root")
    with pytest.raises(UsageError, match="unisar-release:DIR"):
        sources.load("unisar-release:", root=tmp_path)
    write_release(tmp_path / "r", n_users=2, length=5)
    (tmp_path / "r" / "vocab" / "user_vocab.pkl").unlink()
    with pytest.raises(RunError, match=r"user_vocab\.pkl is missing"):
        load(tmp_path / "r", tmp_path / "root")


def test_lists_file_is_compact(released):
    _, log, root = released
    table = pq.read_table(root / log.manifest["candidates"]["file"])
    assert table.column_names == ["row", "item"] and table.num_rows == 24 * 100
