"""UniSAR's release: pickles that may not run code, rows and histories as published, stored negatives as candidates."""

import codecs
import copyreg
import io
import os
import pickle
import pickletools
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pandas.core.indexes.base import _new_Index
from pandas.core.internals import BlockManager

from bench.data import sources
from bench.data.history import Histories, Window
from bench.data.split import split
from bench.datasets.unisar import unpickle as unisar_unpickle
from bench.datasets.unisar.source import convert
from bench.errors import RunError, UsageError
from bench.evaluation.given import read_lists

OLD = Path(__file__).parent / "fixtures" / "rows-pandas-1.5.3"
ITEMS = 160


def frame(columns: dict) -> pd.DataFrame:
    """As the release's: names of columns are Python strings."""
    return pd.DataFrame(columns).rename(columns=str).set_axis(pd.Index(list(columns), dtype=object), axis=1)


def write(folder: Path, name: str, content: object, protocol: int = 4) -> Path:
    path = folder / ("vocab" if "vocab" in name else "dataset") / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_release(
    folder: Path, seed: int = 0, n_users: int = 12, length: int = 8, days: bool = False, features: bool = True
) -> dict:
    """A release in the published form: every purchase is a click and a search of the same time; returns the vocabulary.

    Prefix lengths are recorded while both lists grow, clicks of a time before its searches, so that a search's prefix
    holds the click of the same purchase (the release's own leak); the last row of each task is test, the second last
    validation.
    """
    rng = np.random.default_rng(seed)
    unit = 86_400 if days else 1
    users, sessions = {}, [([0, 0, 0], [0])]
    rows: dict[str, list[list]] = {"rec": [], "src": []}
    for user in range(n_users):
        items = rng.permutation(ITEMS)[:length] + 1
        ts = np.sort(rng.integers(1_300_000_000 // unit, 1_300_000_000 // unit + 30, length)) * unit
        history = {"rec_his": [], "rec_his_ts": [], "src_session_his": [], "src_session_his_ts": []}
        of_user: dict[str, list[list]] = {"rec": [], "src": []}
        for stamp in np.unique(ts):
            for kind in ("rec", "src"):
                for item in items[ts == stamp]:
                    keyword = [int(item) % 7 + 1, int(item) % 5 + 20]
                    others = [int(i) for i in rng.permutation(ITEMS) + 1 if i not in items][:99]
                    lengths = [len(history["rec_his"]), len(history["src_session_his"])]
                    of_user[kind].append([user, int(item), others, *lengths, keyword, int(stamp)])
                    if kind == "rec":
                        history["rec_his"].append(int(item))
                    else:
                        history["src_session_his"].append(len(sessions))
                        sessions.append(([*keyword, 0], [int(item)]))
                    history["rec_his_ts" if kind == "rec" else "src_session_his_ts"].append(int(stamp))
        users[user] = history
        for kind, found in of_user.items():
            kept = [row for row in found if row[3] and row[4]]
            rows[kind] += [
                [*row, part] for row, part in zip(kept, ["train"] * (len(kept) - 2) + ["val", "test"], strict=True)
            ]
    names = ("user_id", "item_id", "neg_items", "rec_his", "src_session_his", "keyword", "ts")
    for kind, found in rows.items():
        for part in ("train", "val", "test"):
            chosen = [row for row in found if row[-1] == part]
            table = {name: [row[column] for row in chosen] for column, name in enumerate(names)}
            if part == "train":
                table["neg_items"] = [negatives[:4] for negatives in table["neg_items"]]
            if kind == "rec":
                del table["keyword"]
            write(folder, f"{kind}_{part}", frame(table))
    write(folder, "user_vocab", users)
    keyword, clicked = (np.asarray([entry[k] for entry in sessions]) for k in (0, 1))
    write(folder, "src_session_vocab_np", {"keyword": keyword, "pos_items": clicked})
    write(folder, "query_vocab", [[0], *sorted({tuple(entry[0]) for entry in sessions[1:]})])
    if features:
        ids = np.arange(ITEMS + 1)
        captions = np.where(ids[:, None] > 0, ids[:, None] % [7, 5] + [1, 20], 0)
        write(
            folder,
            "item_vocab_np",
            {"caption": captions, "first_level_category_id": ids % 4, "second_level_category_id": ids % 9},
        )
        write(
            folder,
            "user_vocab_np",
            {"onehot_feat1": np.arange(n_users) % 8, "rec_active_level": np.arange(n_users) % 4},
        )
    return {"users": users, "rows": rows, "sessions": sessions}


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
    assert set(log.users.features) == {"onehot_feat1", "rec_active_level"} and set(log.items.features) == set()
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


# Pickles that are programs. Each would leave a file or a process behind.
class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dotted(name: str) -> bytes:
    """Protocol 4 resolves dotted names: pandas' DataFrame leads to everything."""
    return b"\x80\x04\x8c\x11pandas.core.frame\x8c" + bytes([len(name)]) + name.encode() + b"\x93."


def plants(trace: Path) -> dict[str, bytes]:
    return {
        "system": pickle.dumps(Call(os.system, f"touch {trace}")),
        "open": pickle.dumps(Call(open, str(trace), "w")),
        "eval": pickle.dumps(Call(eval, f"open({str(trace)!r}, 'w')")),
        "import": pickle.dumps(Call(__import__, "antigravity")),
        "dotted": dotted("DataFrame.to_csv"),
        "read_pickle": pickle.dumps(Call(pd.read_pickle, str(trace))),
        "nested": pickle.dumps(frame({"user_id": [0], "neg_items": [Call(os.system, f"touch {trace}")]})),
        # BUILD with a slot state sets attributes; here on the class DataFrame, to a function that is not on the list.
        "setattr": b"\x80\x02cpandas.core.frame\nDataFrame\nN}U\x0c__setstate__cos\nsystem\ns\x86b.",
        "codecs": pickle.dumps(Call(codecs.encode, "x", "zlib_codec")).replace(b"\x06codecs", b"\x07_codecs"),
    }


@pytest.mark.parametrize("plant", plants(Path()))
def test_pickles_that_would_run_code_are_refused_unrun(tmp_path, plant):
    trace = tmp_path / "trace"
    with pytest.raises(unisar_unpickle.RefusedPickle, match=r"it asks for|it calls"):
        unpickled(plants(trace)[plant])
    assert not trace.exists()


def test_a_refused_file_is_named_and_nothing_is_written(tmp_path):
    folder, trace = tmp_path / "r", tmp_path / "trace"
    write_release(folder, n_users=2, length=5, features=False)
    path = folder / "dataset" / "src_val.pkl"
    path.write_bytes(plants(trace)["nested"])
    with pytest.raises(RunError) as caught:
        load(folder, tmp_path / "root")
    assert str(path) in str(caught.value) and "system" in str(caught.value) and "not run" in str(caught.value)
    assert "\n" not in str(caught.value) and not trace.exists() and not (tmp_path / "root" / "prepared").exists()


@pytest.mark.parametrize("damage", ["truncated", "page", "empty"])
def test_damaged_pickles_are_one_sentence(damage):
    good = pickle.dumps(frame(WRITTEN))
    bad = {"truncated": good[: len(good) // 2], "page": b"<!DOCTYPE html><html>Too many requests</html>", "empty": b""}[
        damage
    ]
    with pytest.raises(unisar_unpickle.RefusedPickle, match="damaged or no pickle"):
        unpickled(bad)


def test_the_audit_hook_stops_what_the_allow_list_would_let_through(tmp_path):
    """With a hole in the list the second fence holds: the hook runs in the child only, so a child is started."""
    trace = tmp_path / "trace"
    program = tmp_path / "x.pkl"
    program.write_bytes(pickle.dumps(Call(open, str(trace), "w")))
    code = (
        "import sys, runpy, io; sys.argv = ['x'];"
        f"m = runpy.run_path({unisar_unpickle.__file__!r});"
        "m['Restricted'].allowed[('_io', 'open')] = m['Restricted'].allowed[('io', 'open')] = io.open;"
        f"sys.exit(m['main']('queries', {str(program)!r}, {str(tmp_path / 'out')!r}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert (
        done.returncode == unisar_unpickle.REFUSED
        and "tries to reach outside (open)" in done.stderr
        and not trace.exists()
    )


def test_the_child_has_neither_environment_nor_the_callers_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    seen = {}
    monkeypatch.setattr(
        "subprocess.run",
        lambda command, **how: seen.update(how, command=command) or types.SimpleNamespace(returncode=0),
    )
    convert({"query_vocab": tmp_path / "q.pkl"}, tmp_path)
    assert "SECRET" not in seen["env"] and "-I" in seen["command"] and seen["cwd"] == tmp_path


def unpickled(content: bytes) -> pd.DataFrame:
    return unisar_unpickle.unpickle(io.BytesIO(content))


WRITTEN = {
    "user_id": [0, 1, 1],
    "item_id": [3, 1, 2],
    "neg_items": [[1, 2, 4], [2, 3, 4], [1, 3, 4]],
    "rec_his": [2, 0, 1],
    "src_session_his": [1, 1, 0],
    "keyword": [[5, 6], [7, 8], [9]],
    "ts": [1, 2, 3],
}


@pytest.mark.parametrize("path", sorted(OLD.glob("*.pkl")), ids=lambda path: path.stem)
def test_tables_written_by_pandas_1_5_and_numpy_1(path):
    """Written by pandas 1.5.3 with numpy 1.24.4; `keyword` is a list, its string form or a single number there."""
    assert unisar_unpickle.rows(unpickled(path.read_bytes())).to_pydict() == WRITTEN


def test_tables_in_the_form_of_pandas_1_0(monkeypatch):
    """Before pandas 1.3 a BlockManager was made empty and given its state; an index of integers had its own class."""
    table = frame({name: values for name, values in WRITTEN.items()})
    numeric = types.ModuleType("pandas.core.indexes.numeric")
    numeric.Int64Index = type("Int64Index", (), {"__module__": "pandas.core.indexes.numeric"})
    monkeypatch.setitem(sys.modules, "pandas.core.indexes.numeric", numeric)

    class Old(pickle._Pickler):
        def reducer_override(self, value):
            if isinstance(value, pd.RangeIndex):
                return _new_Index, (numeric.Int64Index, {"data": np.asarray(value), "name": None})
            if isinstance(value, BlockManager):
                blocks = [np.asarray(block.values) for block in value.blocks]
                places = [block.mgr_locs.as_array for block in value.blocks]
                axes = list(value.axes)
                named = [{"values": v, "mgr_locs": p} for v, p in zip(blocks, places, strict=True)]
                labels = [axes[0].take(place) for place in places]
                state = (axes, blocks, labels, {"0.14.1": {"axes": axes, "blocks": named}})
                return copyreg.__newobj__, (BlockManager,), state
            return NotImplemented

    stream = io.BytesIO()
    Old(stream, 2).dump(table)
    content = stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
    names = {argument for code, argument, _ in pickletools.genops(content) if code.name == "GLOBAL"}
    assert "pandas.core.indexes.numeric Int64Index" in names and not any("_core" in name for name in names)
    assert unisar_unpickle.rows(unpickled(content)).to_pydict() == WRITTEN


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        ("rows", frame({"user_id": [0]}), "item_id is missing"),
        ("rows", frame({**WRITTEN, "item_id": [1.5, 2, 3]}), "item_id holds something that is no whole number"),
        ("rows", frame({**WRITTEN, "keyword": ["[1, 2]", "__import__('os')", 3]}), "keyword of row 1"),
        ("rows", frame({**WRITTEN, "neg_items": [[1], ["a"], [2]]}), "neg_items"),
        ("users", {0: {"rec_his": []}}, "user 0 has no rec_his_ts"),
        ("users", [1], "not a dict"),
        ("sessions", {"keyword": np.zeros((2, 3))}, "pos_items"),
        ("tables", {"a": np.zeros(2), "b": np.zeros(3)}, "differ in length"),
    ],
)
def test_what_is_wrong_is_said(kind, content, what):
    with pytest.raises(unisar_unpickle.RefusedPickle, match=what):
        unisar_unpickle.KINDS[kind](content)


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
