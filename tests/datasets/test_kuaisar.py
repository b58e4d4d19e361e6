"""KuaiSAR's reader: against a slow reader of the same files, on both spellings, as zip, and on bad input."""

import csv
import zipfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import sources
from bench.data.batch import Batches
from bench.data.build import build, dense
from bench.data.history import Window
from bench.data.log import Log
from bench.data.ragged import Ragged
from bench.data.split import split
from bench.datasets.kuaisar.csv import word_ids
from bench.datasets.kuaisar.interactions import groups
from bench.datasets.simulated.source import Parameters, write_raw
from bench.errors import RunError
from bench.evaluation.candidates import draw
from bench.evaluation.leaks import counters

SIZE = Parameters(users=120, items=900, events=9_000, topics=6, intents=3)
FILES = ("rec_inter.csv", "src_inter.csv", "item_features.csv", "user_features.csv")
DAY = 86_400_000
BEIJING = 8 * 3_600_000


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "KuaiSAR_v2"
    write_raw(folder, SIZE)
    return folder


@pytest.fixture
def place(release, tmp_path):
    """Data root with a copy of the release; a function that loads it."""
    folder = tmp_path / "kuaisar" / "KuaiSAR_v2"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes((release / name).read_bytes())

    def load(name: str = "kuaisar", **options) -> Log:
        return sources.load(name, options, tmp_path)

    load.folder, load.root = folder, tmp_path
    return load


@pytest.fixture(scope="session")
def plain(release, tmp_path_factory) -> Log:
    root = tmp_path_factory.mktemp("plain")
    (root / "kuaisar").mkdir()
    (root / "kuaisar" / "KuaiSAR_v2").symlink_to(release)
    return sources.load("kuaisar", {}, root)


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def numbers(text: str) -> tuple[str, ...]:
    return tuple(text.strip("[]").replace(",", " ").split())


def slow(folder: Path) -> Log:
    """The default rules once more, with dictionaries, through the generic builder."""
    rec: dict = {}
    for row in records(folder / "rec_inter.csv"):
        key = (row["user_id"], row["item_id"], int(row["timestamp"]))
        rec[key] = max(rec.get(key, 0), int(row["click"]))
    sessions: dict = defaultdict(dict)
    for row in records(folder / "src_inter.csv"):
        if row["item_type"] in ("VIDEO", "IMAGE_ATLAS"):
            key = (
                row["user_id"],
                row["search_session_id"],
                int(row["search_session_timestamp"]),
                row["keyword"],
                row["search_session_source"],
            )
            clicks = sessions[key]
            clicks[row["item_id"]] = max(clicks.get(row["item_id"], 0), int(row["click_cnt"]))
    assert max(sum(count > 0 for count in clicks.values()) for clicks in sessions.values()) <= 5, (
        "the cut has a test of its own"
    )
    rows = [(("r", *key), key[0], key[1], key[2], 0, "") for key, click in rec.items() if click]
    rows += [
        (("s", *key), key[0], item, key[2], 1, " ".join(numbers(key[3])))
        for key, clicks in sessions.items()
        for item, click in clicks.items()
        if click
    ]
    both = {row[1] for row in rows if row[4] == 0} & {row[1] for row in rows if row[4] == 1}
    rows = [row for row in rows if row[1] in both]
    while True:
        users, items = Counter(row[1] for row in rows), Counter(row[2] for row in rows)
        left = [row for row in rows if users[row[1]] >= 5 and items[row[2]] >= 5]
        if len(left) == len(rows):
            break
        rows = left
    events = pd.DataFrame(rows, columns=["act", "user", "item", "time", "task", "query"])
    kept = {row[2] for row in rows}
    facts = [row for row in records(folder / "item_features.csv") if row["item_id"] in kept]
    items = pd.DataFrame(
        {
            "id": [row["item_id"] for row in facts],
            "text": "",
            "provenance": "category names, caption (token ids)",
            "words": [list(numbers(row["caption"]))[:50] for row in facts],
            "categories": [
                [f"1:{row['first_level_category_id']}", f"2:{row['second_level_category_id']}"] for row in facts
            ],
        }
    )
    queries = pd.DataFrame({"id": sorted({row[5] for row in rows if row[4]})})
    queries["text"] = queries["id"]
    queries["words"] = [text.split() for text in queries["id"]]
    people = pd.DataFrame(records(folder / "user_features.csv"))
    features = people.rename(columns=lambda name: "id" if name == "user_id" else f"feature:{name}")
    return build("kuaisar", "natural", events, items, queries, features, seed=0)


def test_equals_a_slow_reading_of_the_same_files(plain, release):
    expected = slow(release)
    assert len(plain.events) > 2000 and len(plain.queries) > 20
    for name, column in expected.events.columns().items():
        assert np.array_equal(getattr(plain.events, name), column), name
    for table in ("items", "queries", "users", "words", "categories"):
        ours, theirs = getattr(plain, table).columns(), getattr(expected, table).columns()
        assert theirs.keys() - {"text"} <= ours.keys()
        for name, column in theirs.items():
            if table == "items" and name == "text":
                continue
            if hasattr(column, "offsets"):
                assert np.array_equal(ours[name].offsets, column.offsets) and np.array_equal(
                    ours[name].values, column.values
                ), (table, name)
            else:
                assert ours[name].tolist() == column.tolist(), (table, name)


def test_counts_and_steps_are_stated(plain, release):
    rec, search = records(release / "rec_inter.csv"), records(release / "src_inter.csv")
    raw = plain.manifest["statistics"]["raw"]
    assert raw["rec actions"] == len(rec) and raw["search actions"] == len(search) and raw["actions"] == SIZE.events
    assert raw["items"] == len({row["item_id"] for row in rec + search}) and raw["users"] == SIZE.users
    assert raw["queries"] == len({row["keyword"] for row in search})
    assert raw["item rows"] == SIZE.items
    reference = plain.manifest["reference"]
    assert reference["raw"]["items"] == 6_890_707 and reference["processed"]["items"] == 673_415
    steps = plain.manifest["steps"]
    assert steps[0]["rec"] == len(rec) and steps[0]["search"] == len(search)
    assert steps[-1]["rec"] + steps[-1]["search"] == len(plain.events)
    assert all(
        after["rec"] <= before["rec"] and after["search"] <= before["search"] for before, after in pairwise(steps)
    )
    text = plain.items.text[1]
    assert text.startswith("area ") and text.endswith(" ".join(plain.words.id[plain.items.words[1]]))


@pytest.mark.parametrize("form", ["documented", "zip", "permuted", "decimals", "clrf", "date only"])
def test_form_of_the_files_does_not_matter(plain, place, form):
    if form == "documented":
        write_raw(place.folder, SIZE, "documented")
        (place.folder / "simulated.json").unlink()
        assert "search_source" in (place.folder / "src_inter.csv").read_text().splitlines()[0]
    elif form == "zip":
        with zipfile.ZipFile(place.root / "kuaisar" / "KuaiSAR_v2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in FILES:
                archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
                (place.folder / name).unlink()
        place.folder.rmdir()
    for name in FILES if form in ("permuted", "decimals", "clrf", "date only") else ():
        path = place.folder / name
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if form == "permuted":
            table = table.sample(frac=1, random_state=1)
        elif form == "decimals":
            for column in table.columns.intersection(["user_id", "item_id", "timestamp", "search_session_timestamp"]):
                table[column] += ".0"
        elif form == "date only" and "time" in table:
            table["time"] = table["time"].str[:10]
        table.to_csv(path, index=False, lineterminator="\r\n" if form == "clrf" else "\n")
    log = place()
    assert log.fingerprint == plain.fingerprint
    assert sorted(log.manifest["sources"]) == (["KuaiSAR_v2.zip"] if form == "zip" else sorted(FILES))


@pytest.mark.parametrize("form", ["folder", "zip", "real"])
def test_generated_files_are_never_taken_for_real_ones(release, tmp_path, form):
    folder = tmp_path / "kuaisar"
    folder.mkdir()
    if form == "folder":
        (folder / "KuaiSAR_v2").symlink_to(release)
    else:
        with zipfile.ZipFile(folder / "KuaiSAR_v2.zip", "w") as archive:
            for path in release.iterdir():
                if form == "zip" or path.name != "simulated.json":
                    archive.write(path, f"KuaiSAR_v2/{path.name}")
    log = sources.load("kuaisar", {}, tmp_path)
    assert log.manifest["synthetic"] == ("" if form == "real" else "everything (simulated)")
    assert sources.load("kuaisar", {}, tmp_path).manifest["synthetic"] == log.manifest["synthetic"]


def test_small_release(release, plain, tmp_path):
    folder = tmp_path / "kuaisar-small"
    folder.mkdir()
    with zipfile.ZipFile(folder / "KuaiSAR.zip", "w") as archive:
        for name in FILES:
            archive.write(release / name, f"KuaiSAR_final/{name}")
    log = sources.load("kuaisar-small", {}, tmp_path)
    assert log.name == "kuaisar-small" and np.array_equal(log.events.item, plain.events.item)
    assert log.manifest["reference"]["raw"]["items"] == 4_195_529


def displayed(folder: Path, log: Log) -> Counter:
    """(user, time, words of the query, item) that a session of the log displayed and nobody clicked, row by row."""
    sessions: dict = defaultdict(dict)
    for row in records(folder / "src_inter.csv"):
        if row["item_type"] in ("VIDEO", "IMAGE_ATLAS"):
            who = (row["user_id"], row["search_session_timestamp"], row["keyword"])
            clicks = sessions[*who, row["search_session_id"], row["search_session_source"]]
            clicks[row["item_id"]] = max(clicks.get(row["item_id"], 0), int(row["click_cnt"]))
    items = set(log.items.id.tolist())
    events = log.events
    search = events.task == 1
    text = [" ".join(numbers(key)) for key in log.queries.text]
    left = {
        (log.users.id[user], str(time), text[query])
        for user, time, query in zip(events.user[search], events.time[search], events.query[search], strict=True)
    }
    return Counter(
        (user, time, " ".join(numbers(keyword)), item)
        for (user, time, keyword, *_), clicks in sessions.items()
        if (user, time, " ".join(numbers(keyword))) in left and any(clicks[item] and item in items for item in clicks)
        for item, count in clicks.items()
        if not count and item in items
    )


def test_what_sessions_displayed_is_kept_and_becomes_hard_negatives(plain, release, place):
    events, shown = plain.events, plain.shown
    first = {session: row for row, session in reversed(list(enumerate(events.session.tolist())))}
    ours = Counter(
        (
            plain.users.id[events.user[first[session]]],
            str(events.time[first[session]]),
            plain.queries.text[events.query[first[session]]],
            plain.items.id[item],
        )
        for session in range(1, len(shown))
        for item in shown[session].tolist()
    )
    assert sum(ours.values()) > 300 and ours == displayed(release, plain)
    assert sum(ours.values()) == plain.manifest["shown in the sessions and not clicked"]
    again = place()
    assert np.array_equal(again.shown.values, shown.values) and np.array_equal(again.shown.offsets, shown.offsets)

    parts = split(plain, "last-day")
    chosen = draw(parts, strategy="shown", negatives=19)
    assert draw(parts, strategy="shown", negatives=19, chunk=7, workers=2).fingerprint == chosen.fingerprint
    assert (events.task[chosen.rows] == 1).all() and chosen.label == "shown-19"
    met = 0
    for row, items in zip(chosen.rows, chosen.items, strict=True):
        mine = set(events.item[events.user == events.user[row]].tolist())
        free = set(shown[events.session[row]].tolist()) - mine
        negatives = set(items.tolist()) - {int(events.item[row])}
        assert len(negatives & free) == min(19, len(free)) and not negatives & mine
        met += len(free)
    assert met
    found = counters(Batches(parts), chosen)
    assert found["negatives that the session displayed (mean)"] == pytest.approx(met / len(chosen))


def test_a_click_that_is_cut_is_not_among_what_was_displayed(place):
    cut = place(clicks=1)
    events, shown = cut.events, cut.shown
    whole = displayed(place.folder, cut)
    assert whole and len(shown.values) <= sum(whole.values())
    for session in np.unique(events.session[events.task == 1])[:200]:
        assert not set(shown[session].tolist()) & set(events.item[events.session == session].tolist())


def test_loaded_events_are_mapped(place):
    first = place()
    again = place()
    for log in (first, again):
        for name, column in log.events.columns().items():
            assert not column.flags.owndata and not column.flags.writeable, name
    assert again.with_fingerprint().fingerprint == first.fingerprint


def test_no_leak_and_no_batch_in_its_own_history(plain):
    parts = split(plain, "last-day")
    batches = Batches(parts)
    found = counters(batches, draw(parts))
    assert all(value == 0 for name, value in found.items() if name.startswith("zero:")), found
    assert found["share of test rows with a time tie before them"] > 0.1
    rows = np.concatenate([parts.train, parts.test])
    past = batches.histories.gather(rows, Window(50, 50))
    time = plain.events.time[rows][:, None]
    assert past.rec_len.sum() > 1000 and past.search_len.sum() > 1000
    assert (past.rec_times < time)[np.arange(50) < past.rec_len[:, None]].all()
    assert (past.search_times < time)[np.arange(50) < past.search_len[:, None]].all()
    # Without the guard ties are there: the test can fail.
    from bench.data.history import Guards, Histories

    loose = Histories(plain, Guards(strict_time=False)).gather(rows, Window(50, 50))
    assert not (loose.rec_times < time)[np.arange(50) < loose.rec_len[:, None]].all()


@pytest.mark.parametrize("variant", ["full", "partial", "24h"])
def test_last_day(place, variant):
    log = place(last_day=variant)
    parts, time = split(log, "last-day"), log.events.time
    day = (time + BEIJING) // DAY
    if variant == "24h":
        assert (time[parts.test] > time.max() - DAY).all() and (time[parts.valid] > time.max() - 2 * DAY).all()
        assert (time[parts.valid] <= time.max() - DAY).all() and (time[parts.train] <= time.max() - 2 * DAY).all()
    else:
        assert set(day[parts.test]) == {day.max() - (variant == "full")}
        assert set(day[parts.valid]) == {day.max() - (variant == "full") - 1}
    assert len(parts.test) and log.manifest["config"]["last_day"] == variant


def write(path: Path, header: str, rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


T0 = 1_684_737_000_000


def by_hand(folder: Path, search: list[tuple], rec: list[tuple]) -> None:
    """A release of one's own: rec rows (user, item, time, click), search rows without the readable time."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "rec_inter.csv", "user_id,item_id,timestamp,click", rec)
    write(
        folder / "src_inter.csv",
        "user_id,search_session_id,search_session_timestamp,search_source,keyword,item_id,click_cnt,item_type",
        search,
    )
    ids = sorted({row[1] for row in rec} | {row[5] for row in search})
    levels = ",".join(f"{level}_level_category_id,{level}_level_category_name_en" for level in ("first", "second"))
    write(
        folder / "item_features.csv",
        f"item_id,caption,author_id,{levels}",
        [(item, f"[{item}, 5]", 7, 0, "empty", 3, "Funny") for item in ids],
    )
    users = sorted({row[0] for row in rec} | {row[0] for row in search})
    write(
        folder / "user_features.csv",
        "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2",
        [(user, 1, 1, 1, 1) for user in users],
    )


def sessions_of(log: Log) -> list[tuple[int, str, list[int]]]:
    """(seconds after T0, query, original ids of the clicked items) of every search."""
    events = log.events
    found = []
    for act in np.unique(events.event_id[events.task == 1]):
        rows = np.flatnonzero(events.event_id == act)
        assert len(set(events.time[rows])) == 1 and len(set(events.query[rows])) == 1
        items = sorted(int(log.items.id[item]) for item in events.item[rows])
        found.append((int(events.time[rows[0]] - T0) // 1000, str(log.queries.text[events.query[rows[0]]]), items))
    return sorted(found)


def test_sessions(tmp_path):
    a, b = ("[1, 2]", "USER_INPUT"), ("[1,2, 3]", "USER_INPUT")
    search = [
        (1, 9, T0, a[1], a[0], 11, 0, "VIDEO"),
        (1, 9, T0 + 5000, a[1], a[0], 12, 1, "VIDEO"),  # the same id again, later: another session
        (1, 9, T0, a[1], a[0], 13, 2, "IMAGE_ATLAS"),  # rows of a session are not contiguous
        (1, 9, T0, a[1], a[0], 11, 1, "VIDEO"),  # repeated with a click: it counts once, as a click
        (1, 9, T0, b[1], b[0], 14, 1, "VIDEO"),  # another keyword: another session
        (1, 9, T0, "HOT_LIST", a[0], 15, 1, "VIDEO"),  # another source, too
        (1, 9, T0, a[1], a[0], 16, 1, "USER"),  # no video
        (1, 9, T0 + 9000, a[1], "[]", 17, 1, "VIDEO"),  # no keyword
        (1, 9, T0 + 9500, a[1], a[0], 18, 0, "VIDEO"),  # no click: the first item played by itself
        (1, 9, T0 + 9500, a[1], a[0], 19, 0, "VIDEO"),
        (2, 9, T0, a[1], a[0], 11, 1, "VIDEO"),  # no recommendation click: not a user of both
    ]
    rec = [(1, 21, T0, 1), (1, 21, T0, 0), (1, 22, T0, 0), (2, 23, T0, 0)]
    by_hand(tmp_path / "kuaisar" / "KuaiSAR_v2", search, rec)
    log = sources.load("kuaisar", {"core": 0}, tmp_path)
    expected = [(0, "1 2", [11, 13]), (0, "1 2", [15]), (0, "1 2 3", [14]), (5, "1 2", [12])]
    assert sessions_of(log) == expected
    assert log.users.id.tolist() == ["", "1"]
    assert (log.events.task == 0).sum() == 1
    assert log.categories.id.tolist() == ["", "2:3"] and log.items.text[1] == "Funny 11 5"
    log = sources.load("kuaisar", {"core": 0, "unclicked_sessions": "first-item"}, tmp_path)
    assert sessions_of(log) == [*expected, (9, "1 2", [18])]
    log = sources.load("kuaisar", {"core": 0, "item_types": "VIDEO,IMAGE_ATLAS,USER"}, tmp_path)
    assert (0, "1 2", [11, 13, 16]) in sessions_of(log)


@pytest.mark.parametrize("limit", [5, 2, 0])
def test_most_clicked_items_of_a_session_are_kept(tmp_path, limit):
    search = [(1, 1, T0, "USER_INPUT", "[1]", 10 + count, count, "VIDEO") for count in range(1, 9)]
    by_hand(tmp_path / "kuaisar" / "KuaiSAR_v2", search, [(1, 99, T0, 1)])
    log = sources.load("kuaisar", {"core": 0, "clicks": limit}, tmp_path)
    kept = limit or 8
    assert sessions_of(log) == [(0, "1", [10 + count for count in range(9 - kept, 9)])]


def test_variants_of_the_core(place):
    counts = {}
    for options in (
        {},
        {"core_rounds": "once"},
        {"core_rows": "exposures"},
        {"core_scope": "each-task"},
        {"core": 0},
        {"core": 8},
    ):
        log = place(**options)
        counts[tuple(options.items())] = len(log.events)
        users, items = np.bincount(log.events.user)[1:], np.bincount(log.events.item)[1:]
        if options in ({}, {"core": 8}):
            assert min(users.min(), items.min()) >= options.get("core", 5)
        assert log.manifest["config"] | options == log.manifest["config"]
    assert len(set(counts.values())) == len(counts), counts
    assert counts[(("core", 0),)] == max(counts.values())
    with pytest.raises(RunError, match="no click is left by the 500-core; before it there were"):
        place(core=500)


def change(path: Path, line: int, column: str, value: str) -> None:
    """Replace a cell; `line` counts physical lines as an editor does, and no earlier record may hold a line break."""
    lines = path.read_bytes().split(b"\n")
    header = lines[0].decode().split(",")
    cells = next(csv.reader([lines[line - 1].decode()]))
    cells[header.index(column)] = value
    lines[line - 1] = ",".join(f'"{cell}"' for cell in cells).encode("utf-8", "surrogateescape")
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("rec_inter.csv", "click", "yes", "'yes' is not an integer"),
        ("rec_inter.csv", "click", "-1", "-1 is negative"),
        ("rec_inter.csv", "item_id", "", "is empty"),
        ("rec_inter.csv", "item_id", "1.03656e+11", "written with an exponent"),
        ("rec_inter.csv", "timestamp", "1.684742e+12", "written with an exponent"),
        ("rec_inter.csv", "timestamp", "1684742000", "looks like seconds"),
        ("rec_inter.csv", "timestamp", "1684742000000000", "looks like microseconds"),
        ("rec_inter.csv", "timestamp", "-5", "is a negative time"),
        ("rec_inter.csv", "timestamp", "9684742000000", "lies in the future"),
        ("rec_inter.csv", "timestamp", "1684742000001", "2023-05-22 15:53:20.001 in Beijing, but the row says"),
        ("rec_inter.csv", "time", "yesterday", "'yesterday' is not a time"),
        ("src_inter.csv", "keyword", "[1, two]", "is not a list of token ids"),
        ("src_inter.csv", "click_cnt", "-2", "-2 is negative"),
        ("src_inter.csv", "search_session_id", "x", "'x' is not an integer"),
        ("src_inter.csv", "item_type", "\udcff\udcfe", "is not UTF-8 text"),
        ("user_features.csv", "onehot_feat1", "a", "'a' is not an integer"),
    ],
)
def test_bad_cell_names_file_line_and_column(place, name, column, value, message):
    change(place.folder / name, 50, column, value)
    with pytest.raises(RunError) as caught:
        place()
    text = str(caught.value)
    assert f"{place.folder / name}, line 50, column {column}: " in text and message in text and "\n" not in text
    assert not list((place.root / "prepared").glob("*"))


@pytest.mark.parametrize("first", [True, False])
def test_bad_cell_in_the_first_row(place, first):
    change(place.folder / "rec_inter.csv", 2 if first else 3, "item_id", "1.03656e+11")
    with pytest.raises(RunError, match=f"line {2 if first else 3}, column item_id: '1.03656e"):
        place()


def test_lines_are_counted_with_the_breaks_inside_fields(place):
    path = place.folder / "item_features.csv"
    table = records(path)
    kept = place().items.id[1:].tolist()
    table[2]["caption"] = "[1,\n2,\n3]"
    row = next(number for number, record in enumerate(table) if number > 2 and record["item_id"] in kept)
    table[row]["caption"] = "[1, oops]"
    for record in table[3:row]:
        record["caption"] = record["caption"].replace("\n", " ")
    pd.DataFrame(table).to_csv(path, index=False)
    with pytest.raises(
        RunError, match=rf"item_features.csv, line {row + 2 + 2}, column caption: '\[1, oops\]' is not a list"
    ):
        place()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no column", "rec_inter.csv, line 1: no column timestamp; it has user_id"),
        ("no spelling", "src_inter.csv, line 1: no column search_session_source or search_source"),
        ("empty", "rec_inter.csv is empty"),
        ("header", "rec_inter.csv has a header and no rows"),
        ("cut line", "rec_inter.csv, line 50: 3 fields, the header has 12"),
        ("open quote", "src_inter.csv, line"),
        ("no file", "lacks user_features.csv"),
        ("item twice", "column item_id: the item has an earlier row with other facts"),
        ("user twice", "user_features.csv, line 122, column user_id: user 1 has a second row"),
    ],
)
def test_bad_file(place, damage, message):
    rec, src = place.folder / "rec_inter.csv", place.folder / "src_inter.csv"
    if damage == "no column":
        rec.write_text(rec.read_text().replace("timestamp", "when", 1))
    elif damage == "no spelling":
        src.write_text(src.read_text().replace("search_session_source", "origin", 1))
    elif damage == "empty":
        rec.write_text("")
    elif damage == "header":
        rec.write_text(rec.read_text().splitlines()[0] + "\n")
    elif damage == "cut line":
        lines = rec.read_text().split("\n")
        lines[49] = ",".join(lines[49].split(",")[:3])
        rec.write_text("\n".join(lines))
    elif damage == "open quote":
        src.write_text(src.read_text().rstrip("\n") + '\n1,2,"3')
    elif damage == "no file":
        (place.folder / "user_features.csv").unlink()
    elif damage == "item twice":
        items = place.folder / "item_features.csv"
        table = pd.read_csv(items, dtype=str, keep_default_na=False)
        table = pd.concat([table, table.assign(author_id="123456")])
        table.to_csv(items, index=False)
    else:
        users = place.folder / "user_features.csv"
        users.write_text(users.read_text() + "1,0,0,0,0\n")
    with pytest.raises(RunError) as caught:
        place()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_repeated_equal_item_rows_are_one(place, plain):
    path = place.folder / "item_features.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([table, table]).to_csv(path, index=False)
    assert place().fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "outside", ["../rec_inter.csv", "KuaiSAR_v2/../../evil.csv", "/etc/evil.csv", "C:\\\\evil.csv"]
)
def test_a_zip_with_a_path_outside_of_it_is_refused(place, outside):
    path = place.root / "kuaisar" / "KuaiSAR_v2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
            (place.folder / name).unlink()
        archive.writestr(outside, "user_id\n1\n")
    before = sorted(place.root.parent.rglob("*.csv"))
    with pytest.raises(RunError) as caught:
        place()
    assert str(path) in str(caught.value) and "a path outside of it" in str(caught.value)
    assert sorted(place.root.parent.rglob("*.csv")) == before and not (place.root / "prepared").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "member", "not a zip"])
def test_bad_zip(place, damage):
    path = place.root / "kuaisar" / "KuaiSAR_v2.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES[: 3 if damage == "member" else 4]:
            archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
        middle = archive.getinfo("KuaiSAR_v2/rec_inter.csv").compress_size // 2
    for name in FILES:
        (place.folder / name).unlink()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "not a zip":
        path.write_text("<html>404</html>")
    with pytest.raises(RunError) as caught:
        place()
    assert "KuaiSAR_v2.zip" in str(caught.value) and "download it again" in str(caught.value)


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(RunError, match=r"no KuaiSAR_v2/ and no KuaiSAR_v2.zip in .*kuaisar; download .*8181109"):
        sources.load("kuaisar", {}, tmp_path)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-(2**40), 2**40), st.sampled_from([0, 10**17, -(10**17)])), max_size=30
    )
)
def test_groups_are_tuples_by_first_occurrence(rows):
    columns = [np.asarray(column, dtype=np.int64) for column in zip(*rows, strict=True)] or [
        np.zeros(0, dtype=np.int64)
    ] * 3
    number: dict = {}
    assert groups(*columns).tolist() == [number.setdefault(row, len(number)) for row in rows]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 10**9), max_size=5), st.sampled_from([", ", ",", " ", ",\n", "\n "])),
        max_size=8,
    )
)
def test_token_lists(entries):
    texts = pa.array([f"[{separator.join(map(str, ids))}]" for ids, separator in entries], pa.string())
    lists, bad = word_ids(texts)
    assert lists.to_pylist() == [ids for ids, _ in entries] and not bad.any()
    broken = pa.array(["[1, x]", "1.5", "[1;2]", "", "3"], pa.string())
    lists, bad = word_ids(broken)
    assert bad.tolist() == [True, True, True, False, False] and lists.to_pylist() == [[], [], [], [], [3]]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8), st.data())
def test_ragged_take_and_cut(lists, data):
    ragged = Ragged.from_lists(lists)
    rows = np.asarray(data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10)), dtype=np.int64)
    taken = ragged.take(rows)
    assert [taken[row].tolist() for row in range(len(taken))] == [lists[row] for row in rows]
    width = data.draw(st.integers(0, 6))
    cut = ragged.cut(width)
    assert [cut[row].tolist() for row in range(len(cut))] == [entry[:width] for entry in lists]


def test_dense():
    ids, code = dense(np.asarray([7, 103_656_000_000, 7, 2]))
    assert ids.tolist() == [2, 7, 103_656_000_000] and code.tolist() == [2, 3, 2, 1]
