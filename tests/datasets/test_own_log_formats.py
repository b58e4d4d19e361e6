"""Files of an own log in another format: what they are and what to do."""

import gzip
import io

import pandas as pd
import pytest

from bench.errors import RunError

from .own_log_files import load, notes, problems


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("events.csv", b"", "the file is empty (0 bytes)"),
        ("events.csv", b"\n \n", "the file is empty"),
        ("events.csv", b"user,item,time\n", "the file has no rows"),
        ("events.csv", b"user,item,time", "the file has no rows"),
        ("events.csv", b"user,item,time,item\nu,i,1732668760025,j\n", "column item: the column is there twice"),
        ("events.csv.gz", b"user,item,time\n", "its content is text; rename it to events.csv"),
        ("events.parquet", b"PAR1" + b"\0" * 40, "Parquet"),
        ("event.csv", b"user,item,time\n", "is it event.csv? rename it"),
    ],
)
def test_files_that_cannot_be_used_at_all(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    assert any(what in problem for problem in problems(tmp_path)), problems(tmp_path)
    with pytest.raises(RunError):
        load(tmp_path, tmp_path / "root")


ROW = "u,i,1732668760025\n"
COMMAS = "user,item,time\n" + ROW


def parquet_bytes() -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"user": ["u"], "item": ["i"], "time": [1732668760025]}).to_parquet(stream)
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SEMICOLONS = COMMAS.replace(",", ";").encode()
TABS = COMMAS.replace(",", "\t").encode()
JSON_LINES = b'{"user": "u", "item": "i", "time": 1732668760025}\n'


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "events.csv",
            SEMICOLONS,
            "the columns are separated by semicolons; needed are commas, for example with pandas.",
        ),
        ("events.csv", b'"user";"item";"time"\n', "the columns are separated by semicolons"),
        ("events.csv", TABS, "the columns are separated by tabs"),
        ("events.csv", COMMAS.replace(",", "|").encode(), "the columns are separated by bars"),
        (
            "events.tsv",
            TABS,
            "separated by tabs; needed are commas, for example with pandas.read_csv('events.tsv', sep='\\t'",
        ),
        ("events.xlsx", b"PK\x03\x04", "a spreadsheet; export the sheet as CSV"),
        ("events.jsonl", JSON_LINES, "JSON lines, for example with pandas.read_json('events.jsonl', lines=True"),
        ("Events.CSV", COMMAS.encode(), "names are in lower case; rename it to events.csv"),
        ("events.csv.zip", b"PK\x03\x04", "packed; unpack it"),
        (
            "events.csv",
            gzip.compress(COMMAS.encode(), mtime=0),
            "its content is packed with gzip; rename it to events.csv.gz",
        ),
        ("events.csv", parquet_bytes(), "its content is Parquet; rename it to events.parquet"),
        ("events.csv", LFS, "a pointer of Git LFS in place of the file; fetch the file with git lfs pull"),
        ("events.parquet", LFS, "a pointer of Git LFS in place of the file; fetch the file with git lfs pull"),
        ("events.csv.gz", LFS, "a pointer of Git LFS in place of the file; fetch the file with git lfs pull"),
        ("events.csv.gz", parquet_bytes(), "its content is Parquet; rename it to events.parquet"),
        ("events.csv.gz", gzip.compress(parquet_bytes(), mtime=0), "unpacked, its content is Parquet"),
        ("events.parquet", COMMAS.encode(), "its content is text; rename it to events.csv"),
        ("events.csv", b"PK\x03\x04" + b"xl/worksheets", "its content is a spreadsheet"),
        ("events.csv", JSON_LINES, "its content is JSON lines"),
        ("events.csv", COMMAS.encode("utf-16"), "the text is UTF-16; save it as UTF-8"),
        ("events.csv", b"<!DOCTYPE html>", "its content is a web page or XML"),
        ("events.csv", bytes(range(256)) * 4, "its content is"),
    ],
)
def test_files_in_another_format_get_the_advice_that_helps(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    found = problems(tmp_path)
    assert len(found) == 1 and found[0].startswith(f"{name}: {what}"), found
    assert found[0].isprintable()
    with pytest.raises(RunError):
        load(tmp_path, tmp_path / "root")


def test_a_table_of_items_in_another_format_is_not_passed_over(tmp_path):
    (tmp_path / "events.csv").write_text(COMMAS)
    (tmp_path / "items.tsv").write_text("item\ttext\ni\tcup\n")
    assert problems(tmp_path)[0].startswith("items.tsv: separated by tabs")
    (tmp_path / "items.csv").write_text("item,text\ni,cup\n")
    assert "not read: items.tsv" in notes(tmp_path)


def test_a_folder_of_parquet_parts_is_named(tmp_path):
    (tmp_path / "events.parquet").mkdir()
    assert problems(tmp_path)[0].startswith("events.parquet: a folder; needed is one file")
