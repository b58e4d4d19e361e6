"""Reviews and metadata as a Log: which reviews lend words, counts, forms, modes, published queries."""

import numpy as np
import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.split import split
from bench.errors import RunError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw

from .amazon_files import DAY, LENGTH, N_ITEMS, N_USERS, letters, place, prepared, review_rows, reviewed_words, write


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
