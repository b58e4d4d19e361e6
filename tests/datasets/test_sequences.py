"""Sequences without times: order, category queries, what is said of bad files; and the real Beauty files."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.split import split
from bench.errors import RunError, UsageError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon-beauty-2014"
needs_beauty = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real files ../shared/data/amazon-beauty-2014 are not here"
)
N_USERS, N_ITEMS = 15, 40
# General to special is Beauty, Hair Care, Shampoos: the more general a category, the more items it has.
SETS = [
    ["Shampoos", "Beauty", "Hair Care"],
    ["Hair Care", "Beauty", "Women's Brushes"],
    ["Beauty"],
    ["Nails", "Beauty"],
]


def lines() -> list[str]:
    rng = np.random.default_rng(1)
    return [
        f"user{user:02d} {' '.join(f'B{item:02d}' for item in rng.permutation(N_ITEMS)[: 6 + user % 5])}"
        for user in range(N_USERS)
    ]


def place(root: Path, catalogue: bool = True, texts: bool = True, sequences: list[str] | None = None) -> Path:
    folder = root / "sequences" / "shop"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"user_sequence.txt": lines() if sequences is None else sequences}
    if catalogue:
        names = sorted({name for entry in SETS for name in entry})
        files |= {
            "product.txt": [f"B{item:02d}" for item in range(N_ITEMS)],
            "category.txt": names,
            "category_p_c.txt": [
                " ".join(str(names.index(name)) for name in SETS[item % len(SETS)]) for item in range(N_ITEMS)
            ],
        }
    if texts:
        files["item_text.txt"] = [f"B{item:02d} silky thing no {item}" for item in range(0, N_ITEMS, 2)]
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(("\n".join(content) + "\n").encode()))
    return folder


def prepared(root: Path, **options):
    return sources.load("sequences:shop", options, root)


@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
def test_the_order_of_the_line_is_the_order_of_events(tmp_path, mode):
    place(tmp_path)
    log = prepared(tmp_path, mode=mode)
    assert log.mode == mode and log.manifest["times"] == "order" and "not available" in log.manifest["time"]
    events = log.events
    for line in lines():
        user, *items = line.split()
        rows = np.flatnonzero(
            (events.user == log.users.id.tolist().index(user)) & ((events.task == 0) | (mode == "disjoint"))
        )
        assert log.items.id[events.item[rows]].tolist() == items
    parts = split(log)
    if mode == "mirror":
        tested = {log.users.id[events.user[row]]: log.items.id[events.item[row]] for row in parts.rows("test", "rec")}
        assert tested == {line.split()[0]: line.split()[-1] for line in lines()}
    counters = leaks.counters(Batches(parts), draw(parts, negatives=9))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))


def test_queries_run_from_general_to_special(tmp_path):
    place(tmp_path)
    path = prepared(tmp_path, mode="mirror")
    carried = [path.queries.text[path.items.queries[item]].tolist() for item in range(1, 5)]
    assert carried == [["hair care shampoo"], ["hair care women brush"], [], ["nail"]]
    # An item without a category below the top one cannot be searched.
    bought = {item for line in lines() for item in line.split()[1:]}
    assert path.manifest["steps"]["items with a query"] == sum(int(item[1:]) % 4 != 2 for item in bought)
    assert path.manifest["counts"]["search"] == sum(
        int(item[1:]) % 4 != 2 for line in lines() for item in line.split()[1:]
    )
    single = prepared(tmp_path, mode="mirror", queries="single")
    carried = [single.queries.text[single.items.queries[item]].tolist() for item in range(1, 5)]
    assert carried == [["hair care", "shampoo"], ["hair care", "women brush"], [], ["nail"]]
    top = prepared(tmp_path, mode="mirror", queries="single", top_level=True)
    assert top.queries.text[top.items.queries[3]].tolist() == ["beauty"]


def test_without_category_files_there_is_recommendation_only(tmp_path):
    place(tmp_path, catalogue=False)
    log = prepared(tmp_path)
    assert log.tasks == ("rec",) and log.mode == "natural" and log.items.queries is None
    assert log.manifest["queries"] == "none: recommendation only"
    parts = split(log)
    counters = leaks.counters(Batches(parts), draw(parts, "test", ("rec",), negatives=9))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))
    place(tmp_path)
    assert prepared(tmp_path, queries="none").tasks == ("rec",)


def test_text_and_core(tmp_path):
    place(tmp_path)
    log = prepared(tmp_path)
    first = log.items.id.tolist().index("B00")
    assert log.items.text[first] == "silky thing no 0. Beauty, Hair Care, Shampoos"
    assert log.items.provenance[first] == "text + category"
    assert log.manifest["coverage"] == {"text": 0.5, "category": 1.0, "brand": 0.0, "none": 0.0}
    cored = prepared(tmp_path, core=3)
    assert cored.manifest["steps"]["interactions in the 3-core"] < log.manifest["steps"]["interactions in the 1-core"]
    _, counts = np.unique(cored.events.item, return_counts=True)
    assert counts.min() >= 3
    with pytest.raises(RunError, match=r"nothing is left in the 50-core.*sequences\.core=1"):
        prepared(tmp_path, core=50)


def test_repeats_are_kept_and_counted(tmp_path):
    place(tmp_path, sequences=[*lines(), "again B00 B01 B00 B02 B03 B00"])
    log = prepared(tmp_path, mode="mirror")
    assert log.manifest["steps"]["repeated user-item rows"] == 2
    parts = split(log)
    assert parts.dropped["held-out rows whose user and item are a training pair"] == 2
    counters = leaks.split_counters(Batches(parts))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("user_sequence.txt", b"a B00 B01\nb\n", "line 2: expected `<user> <item> <item> ...`, found 'b'"),
        ("user_sequence.txt", b"a B00 B01\n\nb B00\n", "line 2: expected"),
        ("user_sequence.txt", b"a B00\nb B00\na B01\n", "line 3: the user a has a sequence already, in line 1"),
        ("user_sequence.txt", b"a B00\nb \xff\n", "line 2: not UTF-8"),
        ("user_sequence.txt", b"\n", "empty"),
        ("item_text.txt", b"B00 one\nB01 two\nB00 three\n", "line 3: the item B00 has a text already"),
        ("product.txt", b"B00\n\nB02\n", "line 2: empty, an id is expected"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, content, message):
    folder = place(tmp_path)
    (folder / f"{name}.gz").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        prepared(tmp_path)
    assert str(folder / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/*"))


def test_missing_files_and_arguments(tmp_path, monkeypatch):
    folder = place(tmp_path)
    path = folder / "user_sequence.txt.gz"
    path.write_bytes(path.read_bytes()[:-15])
    with pytest.raises(RunError, match=r"user_sequence\.txt\.gz cannot be read to its end"):
        prepared(tmp_path)
    path.unlink()
    with pytest.raises(RunError, match=r"has no user_sequence\.txt; put one there"):
        prepared(tmp_path)
    with pytest.raises(UsageError, match="needs a folder"):
        sources.load("sequences:", {}, tmp_path)
    # A path as typed serves as well, and the Log is the same one wherever the folder lies.
    place(tmp_path / "a")
    place(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b" / "sequences")
    assert sources.load("sequences:shop", {}, tmp_path / "b").fingerprint == sources.load(
        f"sequences:{tmp_path / 'a' / 'sequences' / 'shop'}", {}, tmp_path / "c"
    ).fingerprint == sources.load("sequences:shop", {}, tmp_path / "d").fingerprint  # fmt: skip


@needs_beauty
def test_real_beauty(tmp_path):
    log = sources.load(f"sequences:{REAL}", {"mode": "mirror"}, tmp_path)
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    assert (counts["users"], counts["items"], counts["rec"], counts["search"]) == (22_363, 12_101, 198_502, 198_502)
    assert steps["items in the category files"] == steps["items with a query"] == 12_101
    lengths = np.bincount(log.events.user[log.events.task == 0])[1:]
    assert (lengths.min(), lengths.max()) == (5, 204)
    assert log.manifest["item text"] == "text that a model generated (IDGenRec)"
    assert log.manifest["coverage"]["text"] > 0.999 and round(log.manifest["coverage"]["brand"] * 12_101) == 10_003
    # It is a 5-core already.
    assert sources.load(f"sequences:{REAL}", {"mode": "mirror", "core": 5}, tmp_path).fingerprint == log.fingerprint
    parts = split(log)
    assert len(parts.rows("test", "rec")) == len(parts.rows("test", "search")) == 22_363
    counters = leaks.counters(Batches(parts), draw(parts))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))
