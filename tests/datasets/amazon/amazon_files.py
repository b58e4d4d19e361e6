"""Small files in the three raw forms of Amazon reviews."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bench.data import sources

DAY = 86_400
REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
N_USERS, N_ITEMS, LENGTH = 20, 30, 9
JSON, CSV = "reviews_Tales_5.json", "kindle_reviews.csv"


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
