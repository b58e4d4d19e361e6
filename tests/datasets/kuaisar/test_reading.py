"""KuaiSAR's reader: against a slow reader of the same files, in every form, and as a Log without leaks."""

import zipfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.build import build
from bench.data.history import Window
from bench.data.log import Log
from bench.data.split import split
from bench.datasets.simulated.source import write_raw
from bench.evaluation.candidates import draw
from bench.evaluation.leaks import counters

from .release_files import BEIJING, DAY, FILES, SIZE, numbers, records


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


@pytest.mark.parametrize("level", ["first", "second"])
def test_both_levels_of_category_are_features_of_an_item(plain, release, level):
    """The official UniSAR describes an item by its id, the words of its caption and two levels of category."""
    column = f"{level}_level_category_id"
    number = {row["item_id"]: int(row[column]) for row in records(release / "item_features.csv")}
    codes = plain.items.features[f"{level}_level_category"]
    assert codes[0] == 0 and len(codes) == len(plain.items) + 1
    known = sorted({n for item in plain.items.id[1:] if (n := number[item]) > 0})
    expected = [known.index(number[item]) + 1 if number[item] > 0 else 0 for item in plain.items.id[1:]]
    assert codes[1:].tolist() == expected and len(known) > 1


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
