"""Amazon reviews: three raw forms, queries, which reviews lend words, what is said of bad files; and the real files."""

import csv
import gzip
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.split import split
from bench.datasets.amazon.files import read_lines
from bench.datasets.amazon.metadata import read_metadata, read_titles
from bench.datasets.amazon.queries import last_occurrences, path_queries
from bench.datasets.amazon.reviews import Reviews
from bench.datasets.amazon.words import aligned, count_words, path_words, s_stem, stemmer, text_words
from bench.errors import RunError, UsageError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw

DAY = 86_400
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
N_USERS, N_ITEMS, LENGTH = 20, 30, 9


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (REAL / name).is_dir(), reason=f"the real files ../shared/data/{name} are not here")


class Everything:
    def __contains__(self, _: object) -> bool:
        return True


def letters(*numbers: int) -> str:
    """A word of its own for some numbers (digits are no letters of a review)."""
    return "zq" + "x".join("abcdefghij"[int(digit)] for number in numbers for digit in f"{number:03d}")


def review_rows() -> list[dict]:
    """A small 5-core of our own with days as times. Every review holds a word five times that no other review holds."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(N_USERS):
        items = (np.arange(LENGTH) * 3 + user) % N_ITEMS
        for item in rng.permutation(items):
            rows.append(
                {
                    "reviewerID": f"U{user:03d}",
                    "asin": f"B{item:03d}",
                    "overall": 4.0,
                    "summary": "Good, good",
                    "reviewText": 'It\'s "thrilling", a\nrecipe &amp; more. kindle store book romance mystery '
                    + " ".join([letters(user, int(item))] * 5),
                    "unixReviewTime": int(1_300_000_000 // DAY * DAY + rng.integers(0, 6) * DAY),
                }
            )
    # Beside the core: a user and an item with one row, a repeated purchase later on.
    rows.append({**rows[0], "reviewerID": "U999"})
    rows.append({**rows[1], "asin": "B999"})
    rows.append({**rows[2], "unixReviewTime": rows[2]["unixReviewTime"] + 9 * DAY, "reviewText": "again"})
    return rows


GENRES = ("Mysteries", "Romance", "Cookbooks, Food & Wine", "Self-Help")


def paths_of(item: int) -> list[list[str]]:
    genre = GENRES[item % 4]
    return [["Books", genre], ["Kindle Store", "Kindle eBooks", genre, f"{GENRES[item % 3]} Stories"]]


def metadata_2014() -> list[str]:
    lines = []
    for item in range(N_ITEMS):
        record = {
            "asin": f"B{item:03d}",
            "price": 0.99,
            "categories": paths_of(item),
            "related": {"also_viewed": ["B000"]},
        }
        if item % 5 == 0:
            record["title"] = f"The cook's tale {item}"
        if item % 3 == 0:
            record["description"] = "Don't <b>miss</b> it &amp; enjoy"
        lines.append(repr(record))
    return lines


def metadata_2018() -> list[str]:
    lines = []
    for item in range(N_ITEMS):
        tail = [["</span></span></span>", "Soft"], ["No fees at all."], []][item % 3]
        record = {
            "category": paths_of(item)[1] + tail,
            "title": "Caf&eacute; <i>set</i>",
            "description": ["One", "two"],
            "asin": f"B{item:03d}",
        }
        lines.append(json.dumps(record))
    return [*lines, json.dumps({"category": ["Other", "Thing"], "title": "second record", "asin": "B000"})]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(
            stream, ["", "asin", "helpful", "overall", "reviewText", "reviewerID", "summary", "unixReviewTime"]
        )
        writer.writeheader()
        writer.writerows({"": number, "helpful": "[0, 0]", **row} for number, row in enumerate(rows))


def place(root: Path, form: str = "2014", name: str = "Tales", order: np.ndarray | None = None) -> Path:
    """Write a category in one of the three forms; `order` permutes the reviews."""
    folder, rows = root / "amazon" / name, review_rows()
    rows = rows if order is None else [rows[number] for number in order]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n"
    if form == "2014":
        write(folder / f"reviews_{name}_5.json.gz", lines)
    elif form == "2018":
        write(folder / f"{name}_5.json", lines)
    else:
        write_csv(folder / CSV, rows)
    metadata = metadata_2018() if form == "2018" else metadata_2014()
    if order is not None:
        metadata = metadata[::-1]
    write(folder / f"meta_{name}.json.gz", "\n".join(metadata) + "\n")
    return folder


def prepared(root: Path, name: str = "amazon:Tales", **options):
    source = sources.open_source(name, options, root)
    return source.prepare(source.raw_files())


def reviewed_words(log) -> set[str]:
    """The words that single reviews planted and that reached items, vocabulary or queries."""
    held = [
        log.words.id[1:],
        *(text.split() for text in log.items.text[1:]),
        *(text.split() for text in log.queries.text[1:]),
    ]
    return {word for words in held for word in words if word.startswith("zq")}


# Queries


def test_path_words_and_order_are_those_of_the_published_queries():
    assert last_occurrences(["camera", "photo", "digital", "camera", "lenses"]) == [
        "photo",
        "digital",
        "camera",
        "lenses",
    ]
    paths = [["Books", "Mystery, Thriller & Suspense", "Thrillers & Suspense", "Women Sleuths"]]
    made = path_queries([paths], s_stem, None, top_level=True, stop_words=False)
    # `books` is an exception of Krovetz's stemmer; everything else of this published query is the same.
    assert made.lists == [["book mystery thriller suspense women sleuth"]]
    assert path_words(["Self-Help", "Children's (3 & up)"]) == ["selfhelp", "childrens", "up"]


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (["Books", "Self-Help"], {"top_level": False}, ["selfhelp"]),
        (["Books", "Self-Help"], {"top_level": True}, ["book selfhelp"]),
        (["Books"], {"top_level": True}, []),
        (["Books", "Food of the Gods", "Gods"], {"top_level": False, "stop_words": True}, ["food god"]),
        (["Books", "Food & Gods"], {"top_level": False, "vocabulary": {"god"}}, ["god"]),
        (["Books", "Food & Gods"], {"top_level": False, "vocabulary": {"wine"}}, ["food god"]),
        (["Books", "1984"], {"top_level": False}, []),
    ],
)
def test_steps_of_the_query_recipe(path, options, expected):
    made = path_queries([[path]], s_stem, **({"vocabulary": None, "stop_words": False} | options))
    assert made.lists == [expected]


def test_a_vocabulary_never_decides_whether_an_item_can_be_searched():
    paths = [paths_of(item) for item in range(N_ITEMS)] + [[["Books"]], []]
    whole = path_queries(paths, s_stem, None, top_level=False, stop_words=False).lists
    cut = path_queries(paths, s_stem, {"romance"}, top_level=False, stop_words=False).lists
    assert [bool(entry) for entry in whole] == [bool(entry) for entry in cut] and whole != cut


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("batteries", "battery"),
        ("cases", "case"),
        ("phones", "phone"),
        ("glass", "glass"),
        ("gas", "gas"),
        ("plus", "plus"),
        ("shoes", "shoe"),
        ("brushes", "brush"),
        ("boxes", "box"),
    ],
)
def test_s_stemmer(word, stem):
    assert s_stem(word) == stem


def test_krovetz_is_used_or_asked_for():
    if importlib.util.find_spec("krovetzstemmer"):
        stem = stemmer("krovetz")
        assert [stem(word) for word in ("books", "ebooks", "childrens")] == ["books", "ebook", "children"]
    else:
        with pytest.raises(RunError, match=r"pip install krovetzstemmer.*stem=s"):
            stemmer("krovetz")


def test_words_meet_a_foreign_vocabulary():
    known = {"wire", "parts", "battery", "lens", "track"}
    assert aligned(["wired", "parts", "batteries", "lenses", "tracking", "cases"], known) == [
        "wire", "parts", "battery", "lens", "track", "case",
    ]  # fmt: skip


# Words of reviews


def test_counted_words_equal_a_slow_count():
    rng = np.random.default_rng(0)
    bank = ["Cat's", "cats", "self-help", "end.Then", "Ünder", "R2D2", "&quot;hi&quot;", "don’t", "the", "\n\t"]
    texts = [" ".join(rng.choice(bank, rng.integers(0, 9))) for _ in range(300)]
    item = rng.integers(0, 7, 300)
    pieces = [(item[low : low + 50].astype(np.int64), pa.array(texts[low : low + 50])) for low in range(0, 300, 50)]
    counts = count_words(iter(pieces), s_stem, frozenset({"the"}))
    slow = Counter()
    for number, text in zip(item, texts, strict=True):
        plain = re.sub(r"&#?\w+;", " ", text)
        slow.update((int(number), s_stem(word)) for word in text_words(plain) if word != "the")
    found = {(int(i), counts.words[w]): int(n) for i, w, n in zip(counts.item, counts.word, counts.count, strict=True)}
    assert found == dict(slow)
    total = Counter()
    for (_, word), number in slow.items():
        total[word] += number
    assert counts.vocabulary(40) == {word for word, number in total.items() if number >= 40}
    spread = Counter(word for _, word in slow)
    reviewed = len({number for number, _ in slow})
    for number, best in enumerate(counts.top(8, 3, 20)):
        scores = {
            word: amount * np.log(reviewed / spread[word])
            for (owner, word), amount in slow.items()
            if owner == number and total[word] >= 20 and spread[word] < reviewed
        }
        assert best == sorted(scores, key=lambda word: (-scores[word], word))[:3]


@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
@pytest.mark.parametrize("text_split", ["every", "leave-one-out", "global-time"])
def test_no_word_of_a_held_out_review_is_in_the_log(tmp_path, mode, text_split):
    place(tmp_path)
    log = prepared(tmp_path, mode=mode, text_split=text_split, review_words=500)
    names = ("leave-one-out", "last-day", "global-time") if text_split == "every" else (text_split,)
    pairs = None
    for name in names:
        rows = split(log, name).train
        found = {
            (int(log.users.id[u][1:]), int(log.items.id[i][1:]))
            for u, i in zip(log.events.user[rows], log.events.item[rows], strict=True)
        }
        pairs = found if pairs is None else pairs & found
    assert pairs and len(pairs) < N_USERS * LENGTH
    # Exactly the words of training reviews: nothing else leaks in, and nothing is lost.
    assert reviewed_words(log) == {letters(*pair) for pair in pairs}


def test_words_of_reviews_can_be_left_out(tmp_path):
    place(tmp_path)
    assert reviewed_words(prepared(tmp_path, text="title,description,category")) == set()


# Preparation


def test_counts_of_every_step(tmp_path):
    place(tmp_path)
    log = prepared(tmp_path, mode="mirror")
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    assert steps["review rows"] == N_USERS * LENGTH + 3
    assert steps["repeated user-item rows, the earliest is kept"] == 1
    assert steps["rows after the 5-core"] == N_USERS * LENGTH == counts["rec"] == counts["search"]
    assert (counts["users"], counts["items"]) == (N_USERS, N_ITEMS)
    assert steps["items with metadata"] == steps["items with a query"] == N_ITEMS
    coverage = log.manifest["coverage"]
    assert coverage["title"] == 6 / N_ITEMS and coverage["description"] == 10 / N_ITEMS and coverage["category"] == 1
    assert coverage["none"] == 0 and 0 < coverage["reviews"] <= 1
    assert (log.events.time % (DAY * 1000) == 0).all() and log.events.time.min() > 1e12
    item = log.items.id.tolist().index("B015")
    assert log.items.text[item].startswith("The cook's tale 15. Don't miss it & enjoy. Books, Self-Help")
    assert log.items.provenance[item] == "title + description + category + reviews"


def test_forms_of_the_same_reviews_agree(tmp_path):
    logs = []
    for form in ("2014", "csv"):
        place(tmp_path / form, form)
        logs.append(prepared(tmp_path / form, mode="mirror"))
    assert logs[0].fingerprint == logs[1].fingerprint
    place(tmp_path / "2018", "2018")
    log = prepared(tmp_path / "2018", mode="mirror")
    assert np.array_equal(log.events.time, logs[0].events.time) and np.array_equal(log.events.item, logs[0].events.item)
    assert log.items.text[1].startswith("Café set. One two. Kindle Store, Kindle eBooks, Mysteries, Mysteries Stories.")
    steps = log.manifest["steps"]
    assert steps["category lists cut at markup or a sentence"] == 20
    assert steps["repeated metadata records, the first is kept"] == 1


@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
def test_order_of_lines_does_not_matter(tmp_path, mode):
    prints = set()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(review_rows())) if seed else None
        place(tmp_path / str(seed), order=order)
        prints.add(prepared(tmp_path / str(seed), mode=mode).fingerprint)
    assert len(prints) == 1


def test_modes(tmp_path):
    place(tmp_path)
    mirror, disjoint = prepared(tmp_path, mode="mirror"), prepared(tmp_path, mode="disjoint")
    _, twins = np.unique(mirror.events.event_id, return_counts=True)
    assert (twins == 2).all()
    assert len(np.unique(disjoint.events.event_id)) == len(disjoint.events) == N_USERS * LENGTH
    assert 0.3 < (disjoint.events.task == 1).mean() < 0.7
    for log in (mirror, disjoint):
        events = log.events
        assert ((events.query > 0) == (events.task == 1)).all()
        for item, query in zip(events.item[events.task == 1], events.query[events.task == 1], strict=True):
            assert query in log.items.queries[item]
    # The query of a purchase and its task come from different hashes: both tasks see the first path and the last.
    drawn = {
        (int(u), int(i)): int(q)
        for u, i, q in zip(mirror.events.user, mirror.events.item, mirror.events.query, strict=True)
        if q
    }
    texts = {code: text for code, text in enumerate(mirror.queries.text)}
    seen = {
        (int(t), texts[drawn[int(u), int(i)]].startswith("kindle"))
        for u, i, t in zip(disjoint.events.user, disjoint.events.item, disjoint.events.task, strict=True)
    }
    assert len(seen) == 4


@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
def test_the_public_pipelines_leaks_do_not_occur(tmp_path, mode):
    place(tmp_path)
    log = prepared(tmp_path, mode=mode)
    parts = split(log)
    counters = leaks.counters(Batches(parts), draw(parts, negatives=9))
    zeros = {name: value for name, value in counters.items() if name.startswith("zero:")}
    assert len(zeros) == 4 and not any(zeros.values())
    assert len(parts.rows("test", "search")) and len(parts.rows("test", "rec"))


def test_load_caches_and_titles_fill_gaps(tmp_path):
    folder = place(tmp_path)
    log = sources.load("amazon:Tales", {"seed": 1}, tmp_path)
    assert sources.load("amazon:Tales", {"seed": 1}, tmp_path).fingerprint == log.fingerprint
    assert log.manifest["synthetic"] and log.manifest["config"]["core"] == 5
    write(folder / "titles.csv", 'asin,title\nB001,"A title, at last"\nB000,ignored\nB001,second\n')
    titled = sources.load("amazon:Tales", {"seed": 1}, tmp_path)
    assert titled.manifest["steps"]["titles taken from titles.csv"] == 1
    assert titled.items.text[titled.items.id.tolist().index("B001")].startswith("A title, at last. Books")


def test_kindle_preset_mirrors_and_keeps_the_top_level(tmp_path):
    folder = place(tmp_path)
    folder.rename(tmp_path / "amazon-kindle")
    log = prepared(tmp_path, "amazon-kindle")
    assert log.mode == "mirror" and log.name == "amazon-kindle"
    assert {text.split()[0] for text in log.queries.text[1:]} == {"book", "store"}
    reference = log.manifest["reference"]
    assert reference["ours"]["users"] == N_USERS and reference["paper"]["users"] == 68_223
    assert set(reference["differences"]) == set(reference["paper"]) and not reference["complete file"]
    assert all("982,619" in text for text in reference["differences"].values())


def test_published_queries(tmp_path):
    folder = place(tmp_path)
    (folder / "meta_Tales.json.gz").unlink()
    write(folder / "query_text.txt", "wire book\nparts\nstore kindle\n")
    # Two queries for an even item, none for item 1, one for the others; and a pair that nobody bought.
    pairs = {(row["reviewerID"], row["asin"]) for row in review_rows()}
    triples = [(u, q, i) for u, i in sorted(pairs) for q in ((0, 2) if int(i[1:]) % 2 == 0 else (1,)) if i != "B001"]
    lines = [f"{u}_{q} 0 {i} 1 " for u, q, i in triples] + ["U_with_marks_1 0 B777 1"]
    write(folder / "train.qrels.gz", "\n".join(lines[::2]) + "\n")
    write(folder / "test.qrels", "\n".join(lines[1::2]) + "\n")
    log = prepared(tmp_path, mode="mirror", queries="published")
    steps, events = log.manifest["steps"], log.events
    bought = sum(i != "B001" for u, i in pairs)
    assert steps["relevance triples"] == len(lines)
    assert steps["user-item pairs with a published query"] == bought + 1
    # U999 and B999 are outside the core, U_with_marks bought nothing.
    assert steps["published pairs that are no purchase here"] == 3
    assert steps["purchases with a query"] == log.manifest["counts"]["search"] == bought - 2
    search = events.task == 1
    for item, query in zip(log.items.id[events.item[search]], log.queries.text[events.query[search]], strict=True):
        assert query in (("wire book", "store kindle") if int(item[1:]) % 2 == 0 else ("parts",))
    assert set(log.queries.text[1:]) == {"wire book", "parts", "store kindle"}
    (folder / "train.qrels.gz").unlink()
    with pytest.raises(RunError, match=r"no train.qrels.gz.*github.com"):
        prepared(tmp_path, queries="published")


# Bad input


GOOD = json.dumps({"reviewerID": "U1", "asin": "B1", "unixReviewTime": 1_300_000_000, "reviewText": "a"})
JSON, CSV = "reviews_Tales_5.json", "kindle_reviews.csv"
HEADER = "asin,reviewerID,unixReviewTime,summary,reviewText\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (JSON, f"{GOOD}\n{GOOD[:30]}\n", "line 2: not JSON"),
        (JSON, f"{GOOD}\n[1]\n", "line 2: not a JSON object"),
        (JSON, f"{GOOD}\n\n{GOOD.replace('asin', 'isbn')}\n", "line 3, column asin: missing"),
        (JSON, f"{GOOD}\n{GOOD.replace('U1', '')}\n", "line 2, column reviewerID: missing"),
        (JSON, GOOD.replace("1300000000", '"May"'), "line 1, column unixReviewTime: 'May' is no whole"),
        (JSON, f"{GOOD}\n{GOOD.replace('1300000000', '1300000000000')}\n", "line 2, .*: .*milliseconds"),
        (JSON, f"{GOOD}\n{GOOD.replace('1300000000', '-5')}\n", "line 2, .*-5 is negative"),
        (JSON, f"{GOOD}\n{GOOD.replace('1300000000', '99000000000')}\n", "line 2, .*lies in the future"),
        (JSON, f"{GOOD}\n".encode() + GOOD.encode().replace(b"U1", b"\xff"), "line 2: not UTF-8"),
        (JSON, "", "empty"),
        (JSON + ".gz", gzip.compress((GOOD + "\n").encode() * 9, mtime=0)[:-12], "cannot be read to its end"),
        (JSON + ".gz", b"no gzip", "cannot be read to its end"),
        (CSV, HEADER + 'B1,U1,5,"a\nb",c\nB1,U1\n', "line 4: 2 fields, the header has 5"),
        (CSV, HEADER + 'B1,U1,5,"a\nb",c\nB1,U1,soon,,\n', "line 4, column unixReviewTime: 'soon'"),
        (CSV, HEADER + "B1,U1,5,a,b\nB1,,5,a,b\n", "line 3, column reviewerID: missing"),
        (CSV, HEADER.replace("asin", "isbn") + "B1,U1,5,a,b\n", "line 1: no column asin"),
        (CSV, (HEADER + "B1,U1,5,a,b\nB1,").encode() + b"\xe9t\xe9,5,a,b\n", "line 3: not UTF-8"),
        (CSV, HEADER, "no reviews"),
        (JSON, f"{GOOD}\n", "none is left in the 5-core.*core=1"),
    ],
)  # fmt: skip
def test_bad_reviews_are_one_clear_line(tmp_path, name, content, message):
    folder = place(tmp_path)
    (folder / "reviews_Tales_5.json.gz").unlink()
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=message) as caught:
        sources.load("amazon:Tales", {}, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'asin': 'B000', 'categories': [['a']]}\n{'asin': 'B001',\n", "line 2: neither JSON .* nor a Python literal"),
        ("{'asin': 'B000', 'categories': __import__('os').getcwd()}\n", "line 1: neither JSON .* nor a Python literal"),
        ("{'title': 'B000'}\n", "line 1: no asin"),
        ("{'asin': 'B000', 'categories': 'Books'}\n", "line 1: `categories` is no list"),
        ("{'asin': 'B000', 'title': '\xff'}\n".encode("latin-1"), "line 1: not UTF-8"),
        ("", "empty"),
    ],
)
def test_bad_metadata_is_one_clear_line(tmp_path, content, message):
    folder = place(tmp_path)
    (folder / "meta_Tales.json.gz").unlink()
    path = folder / "meta_Tales.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=message) as caught:
        sources.load("amazon:Tales", {}, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_doubtful_files(tmp_path):
    with pytest.raises(UsageError, match="needs a category"):
        sources.open_source("amazon:", {}, tmp_path).raw_files()
    with pytest.raises(RunError, match=r"reviews .*metadata .*jmcauley.*nijianmo.*Kaggle"):
        sources.open_source("amazon:Nothing", {}, tmp_path).raw_files()
    folder = place(tmp_path)
    write(folder / "meta_Tales.json", "{}")
    with pytest.raises(RunError, match="several files that could be meant"):
        sources.open_source("amazon:Tales", {}, tmp_path).raw_files()
    with pytest.raises(UsageError, match="unknown field 'titel'"):
        sources.open_source("amazon:Tales", {"text": "titel"}, tmp_path).raw_files()
    for content, message in (("asin,name\n", "no column title"), ("asin,title\nB1\n", "line 2: 1 fields")):
        with pytest.raises(RunError, match=message):
            read_titles(write(tmp_path / "titles.csv", content))
    with pytest.raises(RunError, match="line 2: not UTF-8"):
        read_lines(write(tmp_path / "lines.txt.gz", b"fine\n\xff\n"))


# Real files


@real("amazon-gift-cards-2018")
@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
def test_real_2018_pair(tmp_path, mode):
    (tmp_path / "amazon").mkdir()
    (tmp_path / "amazon" / "Gift_Cards").symlink_to(REAL / "amazon-gift-cards-2018")
    log = sources.load("amazon:Gift_Cards", {"mode": mode}, tmp_path)
    steps = log.manifest["steps"]
    assert (steps["review rows"], steps["users in the file"], steps["items in the file"]) == (2972, 458, 148)
    assert steps["repeated user-item rows, the earliest is kept"] == 7 and steps["metadata lines"] == 1547
    assert steps["items with metadata"] == log.manifest["counts"]["items"]
    # A slow 5-core of the distinct pairs.
    with gzip.open(REAL / "amazon-gift-cards-2018" / "Gift_Cards_5.json.gz") as stream:
        pairs = {(row["reviewerID"], row["asin"]) for row in map(json.loads, stream)}
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = {(u, i) for u, i in pairs if users[u] >= 5 and items[i] >= 5}
        if kept == pairs:
            break
        pairs = kept
    assert steps["rows after the 5-core"] == len(pairs)
    assert (log.manifest["counts"]["users"], log.manifest["counts"]["items"]) == (len(users), len(items))
    parts = split(log)
    counters = leaks.counters(Batches(parts), draw(parts, negatives=20))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))


@real("amazon-gift-cards-2018")
def test_real_2018_categories_hold_no_sentences():
    made = read_metadata(REAL / "amazon-gift-cards-2018" / "meta_Gift_Cards.json.gz", Everything())
    assert len(made.products) == made.counts["metadata lines"] == 1547
    # 510 lists with four feature sentences, five with markup, one with two long sentences.
    assert made.counts["category lists cut at markup or a sentence"] == 516
    assert sum(not product.paths for product in made.products.values()) == 5
    assert {tuple(path) for product in made.products.values() for path in product.paths} == {
        ("Gift Cards", "Gift Cards"), ("Gift Cards", "Gift Card Accessories"),
    }  # fmt: skip
    assert not any(re.search(r"<|&#|&amp;", product.title) for product in made.products.values())


@real("amazon-kindle-meta-head-2014")
def test_real_2014_metadata_head():
    made = read_metadata(REAL / "amazon-kindle-meta-head-2014" / "meta_Kindle_Store.head3.json", Everything())
    assert [bool(product.title) for product in made.products.values()] == [False, True, False]
    assert [len(product.paths) for product in made.products.values()] == [6, 1, 3]
    book = made.products["B000F83SZQ"]
    assert book.paths[-1] == ["Kindle Store", "Kindle eBooks", "Mystery, Thriller & Suspense", "Suspense"]
    queries = path_queries([book.paths], s_stem, None, top_level=True, stop_words=False).lists[0]
    assert queries == [
        "book literature fiction",
        "book mystery thriller suspense",
        "store kindle ebook mystery thriller suspense",
    ]


@real("amazon-kindle-reviews-sample-2014")
@real("amazon-kindle-meta-head-2014")
@real("amazon-kindle-titles")
def test_real_kindle_sample_with_titles(tmp_path):
    folder = tmp_path / "amazon-kindle"
    folder.mkdir()
    (folder / "kindle_reviews.csv.gz").symlink_to(REAL / "amazon-kindle-reviews-sample-2014" / "kindle_reviews.csv.gz")
    (folder / "meta_Kindle_Store.json").symlink_to(
        REAL / "amazon-kindle-meta-head-2014" / "meta_Kindle_Store.head3.json"
    )
    for name in ("ebooks_title_from_asindb.csv.gz", "ebooks_title_from_amazon_complete.csv.gz"):
        (folder / name).symlink_to(REAL / "amazon-kindle-titles" / name)
    rows = Reviews(folder / "kindle_reviews.csv.gz").purchases()
    assert (len(rows), rows["user"].nunique(), rows["item"].nunique()) == (4905, 4370, 4444)
    assert (rows["time"].min(), rows["time"].max()) == (1_156_032_000_000, 1_406_073_600_000)
    # A random sample of rows has no 5-core.
    with pytest.raises(RunError, match="none is left in the 5-core"):
        sources.load("amazon-kindle", {}, tmp_path)
    log = sources.load("amazon-kindle", {"core": 1}, tmp_path)
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    assert (counts["users"], counts["items"], counts["rec"]) == (4370, 4444, 4905)
    titles = sum(
        steps[f"titles taken from {name}"]
        for name in ("ebooks_title_from_asindb.csv.gz", "ebooks_title_from_amazon_complete.csv.gz")
    )
    assert titles > 100 and log.manifest["coverage"]["title"] == titles / 4444
    assert "982,619" in log.manifest["reference"]["differences"]["users"]


@real("amazon-kindle-catalogue-2018")
@real("amazon-kindle-titles")
def test_real_title_files():
    catalogue = REAL / "amazon-kindle-catalogue-2018"
    assert len(read_titles(catalogue / "data_kindle_preprocessed.a_heavy_users.csv.gz")) == 14_501
    assert len(read_titles(catalogue / "data_kindle_preprocessed.f_smallest.csv.gz")) == 3_308
    titles = [read_titles(path) for path in sorted((REAL / "amazon-kindle-titles").glob("*.csv.gz"))]
    assert sorted(map(len, titles)) == [512, 2741] and len({*titles[0], *titles[1]}) == 2_898
