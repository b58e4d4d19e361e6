"""RecBole's atomic files: the package's own ml-100k, other fields and types, and what is wrong by file and line."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.data import sources
from bench.data.split import split
from bench.errors import RunError, UsageError

needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")
HEADS = {
    "inter": "who:token\twhat:token\tstars:float\twhen:float",
    "item": "what:token\tname:token_seq\tgroup:token\tkinds:token_seq\tvector:float_seq",
    "user": "who:token\tplace:token\tage:float",
}
FIELDS = {"user": "who", "item": "what", "time": "when", "core": 1}


def write(folder: Path, lines: dict[str, list[str]], heads: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for kind, head in ((heads or {}) | {k: v for k, v in HEADS.items() if k not in (heads or {})}).items():
        if kind in lines:
            (folder / f"mine.{kind}").write_text("\n".join([head, *lines[kind]]) + "\n", encoding="utf-8")
    return folder


def rows(n_users: int = 6, length: int = 6) -> list[str]:
    return [f"u{u}\ti{(u + 2 * n) % 9}\t4.0\t{1e9 + 100 * n + u}" for u in range(n_users) for n in range(length)]


ITEMS = [f'i{i}\tthe "{i}" film é\tg{i % 2}\t{"Sci-Fi Drama" if i % 3 else ""}\t0.1 0.2' for i in range(9)]
USERS = [f"u{u}\t{'x' if u % 2 else ''}\t30.5" for u in range(5)]


def load(folder: Path, root: Path, **options):
    return sources.load(f"recbole:{folder}", FIELDS | options, root=root)


@needs_recbole
@pytest.mark.parametrize("mode", ["disjoint", "mirror"])
def test_recboles_own_ml_100k_has_the_counts_of_ml_100k(tmp_path, mode):
    folder = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    log = sources.load(f"recbole:{folder}", {"queries": "class", "mode": mode}, root=tmp_path)
    ours = sources.load("ml-100k", {"mode": mode}, root=tmp_path)
    assert (len(log.users), len(log.items)) == (len(ours.users), len(ours.items)) == (943, 1349)
    counts = log.manifest["counts"]
    assert log.name == "recbole:ml-100k" and counts["queries"] == 19 and log.manifest["steps"] == {
        "rows": 100_000, "5-core": 99_287, "rows without a query": 0,
    }  # fmt: skip
    assert counts["events"] == len(ours.events) and counts["search"] == pytest.approx(
        ours.manifest["counts"]["search"], rel=0.01
    )
    assert sorted(log.items.id) == sorted(ours.items.id) and sorted(log.events.time) == sorted(ours.events.time)
    drama = log.queries.id.tolist().index("Drama")
    assert "drama" in log.words.id[log.queries.words[drama]]
    # Which task a row serves says nothing of which of its item's queries is drawn.
    two = (log.events.task == 1) & (log.items.queries.lengths[log.events.item] == 2)
    first = log.items.queries.values[log.items.queries.offsets[log.events.item[two]]] == log.events.query[two]
    assert first.mean() == pytest.approx(0.5, abs=0.02) and two.sum() > 10_000
    # The query of a search is one of its item's.
    search = np.flatnonzero(log.events.task == 1)[:2000]
    assert all(log.events.query[row] in log.items.queries[log.events.item[row]] for row in search)


def test_without_a_query_field_it_is_recommendation_only(tmp_path):
    log = load(write(tmp_path / "d", {"inter": rows(), "item": ITEMS, "user": USERS}), tmp_path)
    assert log.tasks == ("rec",) and log.mode == "natural" and len(log.queries) == 0
    assert log.items.text[1] == 'the "0" film é' and log.items.text[2] == 'the "1" film é Sci-Fi Drama'
    assert log.items.provenance[1] == "name" and log.items.provenance[2] == "name, kinds"
    assert set(log.items.features) == {"group"} and set(log.users.features) == {"place"}
    assert log.users.features["place"].tolist() == [0, 1, 2, 1, 2, 1, 1]  # no line: as no value
    assert log.manifest["fields"]["mine.item"]["vector"] == "float_seq, not used"
    assert log.manifest["fields"]["mine.inter"]["stars"] == "float, not used"
    assert log.events.time.min() == 1_000_000_000_000
    assert split(log).counts()["test/rec"] == 6 and split(log).counts()["test/search"] == 0


def test_items_without_a_value_are_never_searched(tmp_path):
    folder = write(tmp_path / "d", {"inter": rows(), "item": ITEMS, "user": USERS})
    mirror = load(folder, tmp_path, queries="kinds", mode="mirror")
    mute = np.isin(mirror.items.id[mirror.events.item], ["i0", "i3", "i6"])
    assert (mirror.events.task[mute] == 0).all() and mirror.manifest["steps"]["rows without a query"] == mute.sum() > 0
    assert mirror.manifest["counts"]["search"] == mirror.manifest["counts"]["rec"] - mute.sum()
    assert {"Sci-Fi", "Drama"} == set(mirror.queries.id[1:]) and set(mirror.categories.id[1:]) == {"Sci-Fi", "Drama"}
    assert load(folder, tmp_path, queries="group", mode="mirror").queries.id[1:].tolist() == ["g0", "g1"]
    disjoint = load(folder, tmp_path, queries="kinds")
    assert len(disjoint.events) == 36 and 0 < disjoint.manifest["counts"]["search"] < 36


def test_the_order_of_lines_does_not_matter(tmp_path):
    lines = {"inter": rows(), "item": ITEMS, "user": USERS}
    first = load(write(tmp_path / "d", lines), tmp_path, queries="kinds")
    again = load(write(tmp_path / "d", {k: v[::-1] for k, v in lines.items()}), tmp_path, queries="kinds")
    assert first.fingerprint == again.fingerprint


def test_times_in_milliseconds_are_a_setting(tmp_path):
    lines = [line.rsplit("\t", 1)[0] + f"\t{float(line.rsplit(chr(9), 1)[1]) * 1000}" for line in rows()]
    folder = write(tmp_path / "d", {"inter": lines})
    assert load(folder, tmp_path, time_unit="ms").events.time.min() == 1_000_000_000_000
    with pytest.raises(RunError, match=r"mine\.inter, line 2, field when: no time in seconds .*time_unit=ms"):
        load(folder, tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [
        (
            "inter",
            lambda lines: [*lines[:3], "u1\ti1\t4.0\tyesterday", *lines[3:]],
            r"line 5, field when: no number: 'yesterday'",
        ),
        ("inter", lambda lines: [*lines[:3], "u1\ti1\t4.0\t-5", *lines[3:]], "line 5, field when: negative time"),
        ("inter", lambda lines: [*lines[:3], "u1\ti1", *lines[3:]], "line 5: 2 fields, expected 4"),
        ("inter", lambda lines: [*lines[:3], "u1\ti1\t1\t1\t1", *lines[3:]], "line 5: 5 fields, expected 4"),
        ("inter", lambda lines: [*lines[:3], "\ti1\t4.0\t7", "", *lines[3:]], "line 5, field who: empty"),
        ("inter", lambda lines: [], "has no rows"),
        ("item", lambda lines: [*lines, lines[0]], "line 11, field what: duplicate id: 'i0'"),
        ("user", lambda lines: [*lines, "u9"], "line 7: 1 fields, expected 3"),
    ],
)
def test_bad_lines_are_named(tmp_path, kind, change, what):
    lines = {"inter": rows(), "item": ITEMS, "user": USERS}
    folder = write(tmp_path / "d", lines | {kind: change(lines[kind])})
    with pytest.raises(RunError, match=rf"mine\.{kind}.*{what}"):
        load(folder, tmp_path)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("head", "options", "what"),
    [
        ("who:token\twhat:token\tstars:float\twhen:number", {}, "'when:number' is not FIELD:TYPE"),
        ("who:token\twhat:token\tstars\twhen:float", {}, "'stars' is not FIELD:TYPE"),
        ("who:token\twhat:token\twhen:float\twhen:float", {}, "'when' is there twice"),
        ("who:token\twhat:token\tstars:float\twhen:token", {}, "field 'when' is token, needed is float"),
        (HEADS["inter"], {"user": "user_id"}, "no field 'user_id'; its fields are who, what"),
        (HEADS["inter"], {"time": "timestamp"}, "no time field 'timestamp'.*read as sequences"),
        (HEADS["inter"], {"core": 50}, "nothing is left of 36 rows after the 50-core"),
        (HEADS["inter"], {"queries": "vector"}, "field 'vector' is float_seq, needed is token or token_seq"),
        (HEADS["inter"], {"text": "plot"}, "no field 'plot'"),
    ],
)
def test_wrong_fields_are_named(tmp_path, head, options, what):
    folder = write(tmp_path / "d", {"inter": rows(), "item": ITEMS}, {"inter": head})
    with pytest.raises(RunError, match=what):
        load(folder, tmp_path, **options)


def test_wrong_folders_and_bytes_are_named(tmp_path):
    with pytest.raises(UsageError, match="recbole:DIR"):
        sources.load("recbole:", root=tmp_path)
    with pytest.raises(RunError, match="no folder"):
        load(tmp_path / "nowhere", tmp_path)
    folder = write(tmp_path / "d", {"inter": rows()})
    with pytest.raises(RunError, match=r"no \.item file"):
        load(folder, tmp_path, queries="kinds")
    (folder / "mine.inter").write_bytes((folder / "mine.inter").read_bytes().replace(b"u3\ti3\t", b"u3\t\xff\t"))
    with pytest.raises(RunError, match="line 20: the text is not UTF-8"):
        load(folder, tmp_path)
    (folder / "mine.inter").write_bytes(b"")
    with pytest.raises(RunError, match="empty"):
        load(folder, tmp_path)
    (folder / "other.inter").write_bytes(b"x")
    with pytest.raises(RunError, match=r"must hold one \.inter file"):
        load(folder, tmp_path)
    assert load(write(tmp_path / "recbole", {"inter": rows()}).rename(tmp_path / "recbole2"), tmp_path).tasks == (
        "rec",
    )


def test_a_folder_under_the_data_root_needs_its_name_only(tmp_path):
    (tmp_path / "recbole").mkdir()
    write(tmp_path / "recbole" / "toy", {"inter": rows()})
    assert load(Path("toy"), tmp_path).name == "recbole:mine"
