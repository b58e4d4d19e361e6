"""Runs that reached a limit or failed are rows without numbers, in every form, and change no number."""

import csv
import io
import json
import math

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.errors import UsageError
from bench.report import findings
from bench.report.html.page import Report
from bench.report.table import table

from .results_by_hand import FIRST, OTHER, draws, one

LIMIT = "did not finish: more than 60 s (--time-limit)"
REASON = "more than 60 s (--time-limit)"


@pytest.fixture
def unfinished(folder):
    """Two models with numbers; GenSR over its limit; DIN, of recommendation only, failed on both seeds."""
    finished = [folder.run("a", draws(1)), folder.run("b", draws(2), group="unified")]
    failed = {"gensr-s0-0f": LIMIT, "din-s0-1a": "the loss is nan", "din-s1-1b": "the loss is nan"}
    folder.command(
        *finished, models=["a", "b", "gensr", "din"], failed={f"ml-100k/{run}": line for run, line in failed.items()}
    )
    return table(folder.store)


def test_texts_have_the_row_in_its_group_and_the_reason(unfinished):
    for width in (60, 100):
        text = unfinished.text(width)
        assert "GenSR: did not finish" in text and "DIN: did not finish" in text
        told = " ".join(text.split())
        assert f"did not finish: GenSR, seed 0: {REASON}" in told
        assert "did not finish: DIN, seeds 0,1: the loss is nan" in told
    lines = [line.split("  ")[0] for line in unfinished.text(200).splitlines()]
    order = [
        lines.index(name) for name in ("-- rec", "A", "DIN: did not finish", "-- unified", "B", "GenSR: did not finish")
    ]
    assert order == sorted(order)


def test_markup_has_the_row_with_as_many_cells_as_the_others(unfinished):
    rows = [line for line in unfinished.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    (row,) = [line for line in rows if "GenSR: did not finish" in line]
    assert not row.split("|", 2)[2].replace("|", "").strip()
    body = unfinished.latex().partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    cells = {line.count("&") for line in body.splitlines() if "&" in line}
    assert len(cells) == 1 and "GenSR: did not finish &" in body
    for form in (
        unfinished.html(),
        unfinished.layout("narrow", paper=False).latex(),
        unfinished.layout("narrow").markdown(),
    ):
        assert "GenSR: did not finish" in form and "more than 60 s" in form


def test_where_models_are_columns_the_cells_say_so(unfinished):
    text = unfinished.layout("paper").text(200)
    rec, _, search = text.partition("\nSearch")
    for name, part, there in (
        ("GenSR", rec, True),
        ("GenSR", search, True),
        ("DIN", rec, True),
        ("DIN", search, False),
    ):
        assert (name in part.partition("\n\n")[2].partition("did not finish")[0]) == there, (name, there)
    assert "dnf" in rec and "dnf did not finish" in rec and "seed 0: more than 60 s" in " ".join(search.split())


def test_records_have_no_numbers_and_the_reason(unfinished):
    records = json.loads(unfinished.json())
    own = [record for record in records if record["model"] == "gensr"]
    assert {record["did_not_finish"] for record in own} == {f"seed 0: {REASON}"}
    assert {(record["task"], record["metric"]) for record in own} == {
        (record["task"], record["metric"]) for record in records if record["model"] == "a"
    }
    assert {record["mean"] for record in own} == {None} and {record["rank"] for record in own} == {None}
    assert {record["task"] for record in records if record["model"] == "din"} == {"rec"}
    assert {record["did_not_finish"] for record in records if record["model"] in "ab"} == {""}
    assert len({tuple(record) for record in records}) == 1
    read = list(csv.DictReader(io.StringIO(unfinished.csv())))
    assert {line["did_not_finish"] for line in read if line["model"] == "din"} == {"seeds 0,1: the loss is nan"}
    frame = unfinished.frame()
    assert frame[frame.model == "gensr"]["mean"].isna().all() and math.isfinite(frame["mean"].mean())


def test_no_number_mark_or_test_changes(folder, unfinished):
    folder.command(*[f"ml-100k/{run.record.id}" for row in unfinished.blocks[0].group.rows for run in row.runs])
    clean = table(folder.store)
    assert not clean.blocks[0].group.unfinished
    assert clean.records() == [record for record in unfinished.records() if record["model"] in "ab"]


def test_the_report_and_the_audit_name_it(unfinished, tmp_path):
    found = [each for each in findings.of_table(unfinished.blocks) if each.check == "failed"]
    assert {(each.subject, each.evidence) for each in found} == {
        ("GenSR", f"seed 0: {REASON}"),
        ("DIN", "seeds 0,1: the loss is nan"),
    }
    page = Report(unfinished, tmp_path).html()
    assert "GenSR: did not finish" in page and REASON in page


def test_a_missing_seed_stands_below_its_row(folder):
    folder.command(
        folder.run("a", draws(1)), folder.run("a", draws(3), seed=1), failed={"ml-100k/a-s2-0f": "killed"}, models=["a"]
    )
    unfinished = table(folder.store)
    assert "A: did not finish" not in unfinished.text() and "did not finish: A, seed 2: killed" in unfinished.text(200)
    assert one(unfinished, model="a", task="rec", metric="N@10")["did_not_finish"] == "seed 2: killed"


def test_only_what_the_newest_command_asked_for_is_a_row(folder):
    lost = {"ml-100k/gensr-s0-0f": LIMIT}
    folder.command(folder.run("a", 1), failed=lost, models=["a", "gensr"])
    folder.command(folder.run("a", 1, budget="full"), budget="full", failed=lost, models=["a", "gensr"])
    folder.command(folder.run("b", 2), models=["b"])
    assert "GenSR" not in table(folder.store).text()
    # What a later command asked for counts even where none of its runs finished, on its candidates and budget.
    for words in ({"budget": "full"}, {"candidates": (OTHER,)}):
        folder.command(failed=lost, models=["gensr"], **words)
        assert "GenSR" not in table(folder.store, budget="quick", candidates=FIRST[:12]).text()
    folder.command(failed=lost, models=["gensr"])
    assert "GenSR: did not finish" in table(folder.store).text()
    assert "GenSR" not in table(folder.store, seeds=[0], models=["a"]).text()
    folder.command(folder.run("gensr", 3), failed={}, models=["gensr"])
    assert "did not finish" not in table(folder.store).text()


def test_rows_without_numbers_can_be_named_and_not_compared(folder, unfinished):
    chosen = table(folder.store, models=["gensr", "a"])
    assert "GenSR: did not finish" in chosen.text() and "DIN" not in " ".join(chosen.text().split("not shown")[0])
    for asked in (lambda: table(folder.store, models=["gensr"]), lambda: unfinished.against("gensr")):
        with pytest.raises(UsageError, match="did not finish: GenSR, seed 0: more than 60 s"):
            asked()
    done = CliRunner().invoke(main, ["table", "--out", str(folder.store.root), "--compare", "a,gensr"])
    assert done.exit_code == 2 and "did not finish: GenSR" in done.output
