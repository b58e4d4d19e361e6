"""Files that cannot be read are one clear line."""

import gzip
import json

import pytest

from bench.data import sources
from bench.datasets.amazon.files import read_lines
from bench.datasets.amazon.metadata import read_titles
from bench.errors import RunError, UsageError

from .amazon_files import CSV, JSON, place, write

GOOD = json.dumps({"reviewerID": "U1", "asin": "B1", "unixReviewTime": 1_300_000_000, "reviewText": "a"})
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
