"""The product-search benchmark: parts, histories, candidates, what items are known to carry; and the real files."""

import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.history import Histories, Window
from bench.data.split import split
from bench.errors import RunError, UsageError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_dir(), reason=f"the real files ../shared/data/{name} are not here")


QUERIES = ["wire headset", "phone case", "phone charger", "travel charger", "unused words"]
# Categories by product type; queries 2 and 3 are test queries.
KINDS = {
    "headset": (["Electronics", "Phones", "Wired Headsets"], [0]),
    "case": (["Electronics", "Phones", "Cases"], [1]),
    "charger": (["Electronics", "Phones", "Chargers", "Travel Chargers"], [0, 1]),
}
N_USERS, N_ITEMS = 25, 24


def kind_of(item: int) -> str:
    return list(KINDS)[item % 3]


def triples() -> tuple[list[str], list[str]]:
    """Train and test lines. Every user buys eight items; of the chargers among them one is tested, by two queries."""
    rng = np.random.default_rng(3)
    train, test = [], []
    for user in range(N_USERS):
        bought = rng.permutation(N_ITEMS)[:8]
        tested = next((item for item in bought if kind_of(item) == "charger"), None)
        for item in bought:
            name = f"U_{user:02d}"
            if item == tested:
                test += [f"{name}_{query} 0 B{item:02d} 1 " for query in (2, 3)]
            else:
                train += [f"{name}_{query} 0 B{item:02d} 1 " for query in KINDS[kind_of(item)][1]]
    return train, test


def place(folder: Path, train: list[str] | None = None, test: list[str] | None = None, catalogue: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    given = triples()
    files = {
        "query_text.txt": QUERIES,
        "train.qrels": given[0] if train is None else train,
        "test.qrels": given[1] if test is None else test,
    }
    if catalogue:
        names = sorted({name for levels, _ in KINDS.values() for name in levels})
        files |= {
            "product.txt": [f"B{item:02d}" for item in range(N_ITEMS)],
            "category.txt": names,
            "category_p_c.txt": [
                " ".join(str(names.index(name)) for name in KINDS[kind_of(item)][0][::-1]) for item in range(N_ITEMS)
            ],
            "brand.txt": ["Acme", ""],
            "brand_p_b.txt": [["0", "1", ""][item % 3] for item in range(N_ITEMS)],
        }
    for name, lines in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return folder


def prepared(root: Path, **options):
    return sources.load("hem:shop", options, root)


def test_parts_are_the_published_ones(tmp_path):
    place(tmp_path / "hem" / "shop")
    log = prepared(tmp_path, valid_share=0.2)
    assert log.tasks == ("search",) and log.name == "hem:shop"
    assert log.manifest["times"] == "order" and "not available" in log.manifest["time"]
    parts = split(log, "given")
    assert not any(parts.dropped.values())
    events = log.events
    names = {
        part: [
            f"{log.users.id[u]}_{log.queries.id[q]} 0 {log.items.id[i]} 1 "
            for u, q, i in zip(events.user[rows], events.query[rows], events.item[rows], strict=True)
        ]
        for part, rows in (("train", parts.train), ("valid", parts.valid), ("test", parts.test))
    }
    train, test = triples()
    assert sorted(names["train"] + names["valid"]) == sorted(train) and sorted(names["test"]) == sorted(test)
    assert 0.1 < len(names["valid"]) / len(train) < 0.3
    # A purchase is in one part with all of its queries, and every user trains.
    pairs = {
        part: {(line.split()[0].rpartition("_")[0], line.split()[2]) for line in lines} for part, lines in names.items()
    }
    assert not pairs["train"] & pairs["valid"] and not pairs["test"] & (pairs["train"] | pairs["valid"])
    assert len({user for user, _ in pairs["train"]}) == N_USERS


def test_validation_does_not_depend_on_the_order_of_lines(tmp_path):
    train, test = triples()
    found = []
    for number, lines in enumerate((train, train[::-1])):
        place(tmp_path / str(number) / "hem" / "shop", train=lines, test=test)
        log = prepared(tmp_path / str(number), valid_share=0.2)
        rows = split(log, "given").valid
        found.append(sorted(zip(log.events.user[rows].tolist(), log.events.item[rows].tolist(), strict=True)))
    assert found[0] == found[1] and found[0]


def test_history_of_a_test_row_is_all_other_training_purchases(tmp_path):
    place(tmp_path / "hem" / "shop")
    log = prepared(tmp_path, valid_share=0.2)
    parts, events = split(log, "given"), log.events
    past = Histories(log).gather(parts.test, Window(rec=None, search=None))
    earlier = np.concatenate([parts.train, parts.valid])
    for place_, row in enumerate(parts.test):
        own = earlier[events.user[earlier] == events.user[row]]
        assert set(past.search_items[place_][past.search_items[place_] > 0].tolist()) == set(events.item[own].tolist())
        # One unit a purchase, however many queries it has.
        assert past.search_len[place_] == len(set(events.item[own].tolist()))


@pytest.mark.parametrize("strategy", ["uniform", "same-query"])
def test_other_relevant_items_are_never_negatives(tmp_path, strategy):
    place(tmp_path / "hem" / "shop")
    log = prepared(tmp_path, valid_share=0.2)
    parts, events = split(log, "given"), log.events
    relevant = defaultdict(set)
    for user, query, item in zip(events.user, events.query, events.item, strict=True):
        relevant[int(user), int(query)].add(int(item))
    for part in ("valid", "test"):
        candidates = draw(parts, part, ("search",), strategy, negatives=5)
        for row, items in zip(candidates.rows, candidates.items, strict=True):
            assert set(items.tolist()) & relevant[int(events.user[row]), int(events.query[row])] == {
                int(events.item[row])
            }
    counters = leaks.counters(Batches(parts), candidates)
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))


def test_what_items_are_known_to_carry(tmp_path):
    place(tmp_path / "hem" / "shop")
    log = prepared(tmp_path)
    carried = {
        log.items.id[item]: {log.queries.text[query] for query in log.items.queries[item]}
        for item in range(1, len(log.items) + 1)
    }
    for name, queries in carried.items():
        kind = kind_of(int(name[1:]))
        # Test queries come from the category names alone: `chargers` is `charger` in the queries' words.
        known = {"phone charger", "travel charger"} if kind == "charger" else set()
        assert queries - {QUERIES[number] for number in KINDS[kind][1]} == known
    assert (
        log.manifest["steps"]["test item-query pairs that are known to be carried"]
        == log.manifest["steps"]["test item-query pairs"]
    )
    headset = log.items.id.tolist().index("B00")
    assert set(log.words.id[log.items.words[headset]]) == {"electronic", "phone", "wire", "headset", "acme"}
    assert (
        log.items.text[headset].endswith("Wired Headsets. Acme") and log.items.provenance[headset] == "category + brand"
    )
    # Without category files the relevance of the test part says nothing about items.
    place(tmp_path / "hem" / "plain", catalogue=False)
    plain = sources.load("hem:plain", {}, tmp_path)
    tested = {code for code, text in enumerate(plain.queries.text) if text in QUERIES[2:4]}
    assert tested and not tested & set(plain.items.queries.values.tolist())
    assert plain.manifest["coverage"]["none"] == 1
    told = sources.load("hem:plain", {"carried": "relevance"}, tmp_path)
    assert tested <= set(told.items.queries.values.tolist())


def test_only_the_test_relevance(tmp_path):
    train, _ = triples()
    folder = place(tmp_path / "hem" / "shop", test=train)
    (folder / "train.qrels.gz").unlink()
    with pytest.raises(RunError, match=r"no train\.qrels\.gz; get it from https://github\.com.*relevance=test-only"):
        prepared(tmp_path)
    log = prepared(tmp_path, relevance="test-only")
    parts, events = split(log, "given"), log.events
    assert "NOT the published" in log.manifest["given split"]
    pairs = {
        part: set(zip(events.user[rows].tolist(), events.item[rows].tolist(), strict=True))
        for part, rows in (("train", parts.train), ("valid", parts.valid), ("test", parts.test))
    }
    assert len(pairs["test"]) == len(pairs["valid"]) == N_USERS and not any(parts.dropped.values())
    assert len(pairs["train"] | pairs["valid"] | pairs["test"]) == len(
        {(line.split()[0].rpartition("_")[0], line.split()[2]) for line in train}
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.qrels", b"U_1_0 0 B01 1\nU_1 B01 1\n", "line 2: expected `<reviewerID>_<query line> 0 <asin> 1`"),
        ("train.qrels", b"U_1_0 0 B01 1\nU_1_0 0 B02 0\n", "line 2: expected"),
        ("test.qrels", b"U_1_77 0 B01 1\n", "line 1: query 77 does not exist, query_text.txt has 5 lines"),
        ("train.qrels", b"U_1_0 0 B01 1\nU_2_0 0 B01 1\nU_1_0 0 B01 1\n", "line 3: the same user, query and item"),
        ("train.qrels", b"U_1_0 0 B01 1\n\xff_1 0 B01 1\n", "line 2: not UTF-8"),
        ("train.qrels", b"", "empty"),
        ("query_text.txt", b"one\n\nthree\n", "line 2: empty, a query is expected"),
        ("product.txt", b"B01\nB02\nB01\n", "line 3: the id B01 stands already in line 1"),
        ("category_p_c.txt", b"0\n", "has 1 lines, product.txt.gz has 24"),
        ("category_p_c.txt", b"0\n" * 23 + b"99\n", "line 24: '99' is no list of line numbers of category.txt"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, content, message):
    folder = place(tmp_path / "hem" / "shop")
    (folder / f"{name}.gz").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        prepared(tmp_path)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/*"))


def test_truncated_and_missing_files(tmp_path):
    folder = place(tmp_path / "hem" / "shop")
    path = folder / "train.qrels.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"train\.qrels\.gz cannot be read to its end"):
        prepared(tmp_path)
    (folder / "category.txt.gz").unlink()
    with pytest.raises(RunError, match=r"but no category\.txt"):
        prepared(tmp_path)
    with pytest.raises(RunError, match="there is no folder"):
        sources.load("hem:nowhere", {}, tmp_path)
    with pytest.raises(UsageError, match="needs a folder"):
        sources.load("hem:", {}, tmp_path)


@real("hem-cellphones-2014")
def test_real_cell_phones_end_to_end(tmp_path):
    log = sources.load(f"hem:{REAL / 'hem-cellphones-2014'}", {}, tmp_path)
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    for name, expected in {
        "query lines": 165,
        "train.qrels triples": 174_087,
        "train.qrels users": 27_879,
        "train.qrels items": 10_428,
        "train.qrels queries": 134,
        "train.qrels user-item pairs": 150_048,
        "test.qrels triples": 667,
        "test.qrels users": 601,
        "test.qrels items": 84,
        "test.qrels queries": 30,
        "test.qrels user-item pairs": 615,
        "products in the catalogue": 10_429,
    }.items():
        assert steps[name] == expected, name
    assert (counts["users"], counts["items"], counts["search"], counts["rec"]) == (27_879, 10_428, 174_754, 0)
    # The published queries are made of the category names, and all of them are found again.
    assert steps["test item-query pairs"] == steps["test item-query pairs that are known to be carried"]
    parts = split(log, "given")
    assert len(parts.test) == 667 and not any(parts.dropped.values())
    assert len(parts.train) + len(parts.valid) == 174_087
    counters = leaks.counters(Batches(parts), draw(parts, "test", ("search",)))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))
    assert counters["test rows of users without training"] == 0 and counters["items with text"] == 1


@real("hem-kindle-2014")
def test_real_kindle_queries_and_test_relevance(tmp_path):
    with pytest.raises(RunError, match=r"no train\.qrels\.gz"):
        sources.load(f"hem:{REAL / 'hem-kindle-2014'}", {}, tmp_path)
    source = sources.open_source(f"hem:{REAL / 'hem-kindle-2014'}", {"relevance": "test-only"}, tmp_path)
    log = source.prepare(source.raw_files())
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    assert steps["query lines"] == 4_603
    assert (counts["users"], counts["items"], counts["queries"], counts["events"]) == (62_028, 45_235, 1_259, 345_315)
    assert steps["test.qrels user-item pairs"] == 214_657
    # Users with three or more purchases hold one out for test.
    assert steps["test purchases"] == steps["validation purchases"] == 21_380
