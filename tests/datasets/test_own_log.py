"""Own logs as Logs: either task or both, acts and sessions, settings, published samples."""

import gzip
import runpy
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import sources
from bench.data.batch import Batches
from bench.data.split import split
from bench.datasets.own_log.check import inspect
from bench.errors import RunError, UsageError
from bench.evaluation import leaks

from .own_log_files import NOW, T0, events, load, problems, tables, write

SAMPLES = {
    "notes.csv": """
        note_title,note_content,taxonomy1_id,taxonomy2_id,taxonomy3_id,note_idx
        Soup,good soup,a,b,c,11
        """,
    "search_train.csv": """
        query,search_result_details_with_idx,search_idx,user_idx
        soup,"[{'click': 1.0, 'note_id': 'x', 'note_idx': 11, 'page_time': nan, 'search_timestamp': 1732475484.0}
         {'click': 0.0, 'note_id': 'y', 'note_idx': 12, 'page_time': nan, 'search_timestamp': 1732475484.0}]",3,7
        """,
    "recommendation_train.csv": """
        rec_result_details_with_idx,request_idx,user_idx
        "[{'click': 1, 'note_id': 'z', 'note_idx': 13, 'page_time': 0.0, 'request_timestamp': 1732475999025}]",5,7
        """,
    "search_test.csv": "query,search_result_details_with_idx,search_idx,user_idx",
    "recommendation_test.csv": "rec_result_details_with_idx,request_idx,user_idx",
    # Tabs between fields; terms of a query or a name are joined by 0x18.
    "user_behavior_data_sample.txt": """
        query|candidate_wid_list|candidate_label_list|history_qry_list|history_wid_list|history_time_list
        8+9|1_2|0.0_3.0|-1_8|3_4|0_60_30
        """,
    "product_meta_data_sample.txt": """
        wid|name|brand_id|cate_id_1|cate_id_2|cate_id_3|cate_id_4|shop_id
        2|5+6|b|1|2|3|4|s
        """,
}


def test_all_forms_of_a_log_are_the_same_log(tmp_path):
    content = tables()
    logs = [load(write(tmp_path / form / "shop", content, form), tmp_path) for form in ("csv", "csv.gz", "parquet")]
    lists = content | {"items": content["items"].assign(categories=content["items"]["categories"].str.split("|"))}
    lists["events"] = content["events"].assign(time=pd.to_datetime(content["events"]["time"], unit="ms"))
    logs.append(load(write(tmp_path / "typed" / "shop", lists, "parquet"), tmp_path))
    logs.append(
        load(
            write(tmp_path / "shuffled" / "shop", {k: v.sample(frac=1, random_state=1) for k, v in content.items()}),
            tmp_path,
        )
    )
    assert len({log.fingerprint for log in logs}) == 1
    log = logs[0]
    assert log.name == "log:shop" and log.mode == "natural" and log.tasks == ("rec", "search") and len(log.events) == 40
    one = log.items.id.tolist().index("i7")
    assert log.items.text[one] == "Thing 7, red" and log.words.id[log.items.words[one]].tolist() == [
        "thing",
        "7",
        "red",
    ]
    assert log.categories.id[log.items.categories[one]].tolist() == ["a", "b1"]
    assert log.items.features["size"][one] == 4 and log.users.features["age"][1:].tolist() == [2, 1, 2, 1, 2]
    assert log.queries.text[1] == f"red thing {log.queries.id[1][1:]}"


def test_events_alone_are_enough(tmp_path):
    plain = events()[["user", "item", "time"]]
    log = load(write(tmp_path / "a", {"events": plain}), tmp_path)
    assert log.tasks == ("rec",) and len(log.queries) == 0 and set(log.items.text) == {""}
    searched = events().assign(query=lambda t: np.where(t["query"] == "", "", "red " + t["query"])).drop(columns="task")
    log = load(write(tmp_path / "b", {"events": searched}), tmp_path)
    assert log.tasks == ("rec", "search") and log.queries.text[1].startswith("red q")
    assert log.words.id[log.queries.words[1]].tolist()[0] == "red"
    only = searched[searched["query"] != ""]
    assert load(write(tmp_path / "c", {"events": only}), tmp_path).tasks == ("search",)


def test_clicks_of_a_search_session_and_rows_of_an_event_are_one_act(tmp_path):
    rows = [
        ("u", "a", 1, "search", "red", "s1", ""),
        ("u", "b", 2, "search", "red", "s1", ""),
        ("u", "c", 3, "search", "blue", "s1", ""),  # another query of the session
        ("v", "a", 4, "search", "red", "s1", ""),  # another user's session of that name
        ("u", "d", 5, "rec", "", "s1", ""),
        ("u", "e", 6, "rec", "", "s1", ""),
        ("u", "f", 7, "rec", "", "", "order9"),
        ("u", "f", 8, "search", "red", "", "order9"),  # the same purchase, once as each
        ("v", "f", 9, "rec", "", "", "order9"),
    ]
    table = pd.DataFrame(rows, columns=["user", "item", "time", "task", "query", "session", "event"])
    log = load(write(tmp_path / "a", {"events": table.assign(time=T0 + table["time"])}), tmp_path)
    by_time = np.argsort(log.events.time)
    act = log.events.event_id[by_time]
    groups = [sorted(np.flatnonzero(act == one)) for one in dict.fromkeys(act)]
    assert groups == [[0, 1], [2], [3], [4], [5], [6, 7], [8]]
    session = log.events.session[by_time]
    assert len(set(session[[0, 1, 2, 4, 5]])) == 1 and session[3] != session[0] and len(set(session)) == 4


def test_exact_repeats_count_once_and_are_noted(tmp_path):
    table = events()
    folder = write(tmp_path / "a", {"events": pd.concat([table, table.iloc[:3]])})
    log = load(folder, tmp_path)
    assert log.manifest["steps"] == {"events": 43, "without exact duplicates": 40}
    assert any("6 events" in note or "3 events" in note for note in inspect(folder, NOW).notes)


def test_words_of_ones_own_stand_for_text(tmp_path):
    content = tables()
    content["queries"] = pd.DataFrame({"query": [f"q{q}" for q in range(4)], "words": ["w1 w2", "w2", "", "红 色"]})
    content["items"] = pd.DataFrame({"item": content["items"]["item"], "words": "w1 w9"})
    log = load(write(tmp_path / "a", content), tmp_path)
    words = {key: log.words.id[log.queries.words[row]].tolist() for row, key in enumerate(log.queries.id) if row}
    assert words == {"q0": ["w1", "w2"], "q1": ["w2"], "q2": ["q2"], "q3": ["红", "色"]}
    assert log.items.text[1] == "w1 w9"


def test_the_k_core_is_a_setting(tmp_path):
    content = {"events": events(n_users=20, length=12)}
    log = load(write(tmp_path / "a", content), tmp_path, core=5)
    items = np.bincount(log.events.item)[1:]
    assert items.min() >= 5 and log.manifest["steps"]["5-core"] == len(log.events)
    with pytest.raises(RunError, match="no event is left after the 99-core"):
        load(tmp_path / "a", tmp_path, core=99)


def test_the_example_of_the_documentation_works(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "own-logs.md").read_text()
    example = page.split("```csv\n")[1].split("```")[0]
    assert len(example.strip().split("\n")) == 10
    (tmp_path / "events.csv").write_text(example)
    assert problems(tmp_path) == []
    log = load(tmp_path, tmp_path / "root")
    assert log.tasks == ("rec", "search") and split(log).counts()["test/rec"] >= 1


@pytest.mark.parametrize("sample", ["qilin", "jdsearch"])
def test_published_samples_become_logs(tmp_path, sample):
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "convert_samples.py"))
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, text in SAMPLES.items():
        text = textwrap.dedent(text).strip() + "\n"
        (raw / name).write_text(text.replace("|", "\t").replace("+", "\x18") if name.endswith(".txt") else text)
    packed = raw / "product_meta_data_sample.txt"
    (raw / f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    script["main"](sample, str(raw), str(tmp_path / sample))
    assert problems(tmp_path / sample) == []
    log = load(tmp_path / sample, tmp_path)
    if sample == "qilin":
        assert log.events.time.tolist() == [1_732_475_484_000, 1_732_475_999_025] and log.queries.text[1] == "soup"
        assert log.items.text[log.items.id.tolist().index("11")] == "Soup good soup"
    else:
        assert log.items.id[log.events.item].tolist() == ["3", "4", "2"] and log.events.task.tolist() == [0, 1, 1]
        assert np.diff(log.events.time).tolist() == [60_000, 30_000] and log.queries.words.lengths.tolist() == [0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 1000, 86_400_000]), st.booleans())
def test_random_logs_keep_the_counters_at_zero(tmp_path_factory, seed, unit, repeats):
    """Sessions, shared events, ties and repeated items: the counters that must be zero are."""
    rng = np.random.default_rng(seed)
    n = 120
    search = rng.random(n) < 0.5
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 8, n),
            "item": rng.integers(0, 12 if repeats else 400, n),
            "time": (T0 + rng.integers(0, 10**9, n)) // unit * unit,
            "task": np.where(search, "search", "rec"),
            "query": np.where(search, [f"q{q}" for q in rng.integers(0, 4, n)], ""),
            "session": [f"s{s}" if s < 5 else "" for s in rng.integers(0, 9, n)],
            "event": [f"e{e}" if e < 5 else "" for e in rng.integers(0, 40, n)],
        }
    )
    folder = tmp_path_factory.mktemp("random")
    write(folder, {"events": table})
    log = load(folder, folder / "root")
    for name in ("leave-one-out", "global-time"):
        chosen = split(log, name)
        counters = leaks.split_counters(Batches(chosen))
        assert {key: value for key, value in counters.items() if key.startswith("zero:")} == {
            key: 0 for key in counters if key.startswith("zero:")
        }


def test_folders_are_found_under_the_data_root(tmp_path):
    write(tmp_path / "log" / "shop", tables())
    assert load(Path("shop"), tmp_path).name == "log:shop"
    with pytest.raises(UsageError, match="log:DIR"):
        sources.load("log:", root=tmp_path)
    with pytest.raises(RunError, match="no folder"):
        load(Path("none"), tmp_path)
