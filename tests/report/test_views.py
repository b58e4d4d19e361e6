"""The views of a table: rows by choice, one model against all others, a pair in full, the papers' layout, HTML."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.cells import cell_len
from scipy import stats

from bench.cli.main import main
from bench.errors import UsageError
from bench.evaluation.metrics import PRIMARY
from bench.report.number_audit import audit_numbers
from bench.report.published import _VALUES, published
from bench.report.table import table

from .results_by_hand import draws, three
from .test_forms import HOSTILE

KINDLE = "amazon-kindle"


def rows_of(markdown):
    """Cells of every line of a Markdown table, without marks."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[re.sub(r"\*|</?u>|\\", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines]


def paper(folder):
    """Four models of the paper on one of its data sets, and two of them on another data set."""
    runs = [
        folder.run("gensr", draws(1, 20), group="unified", dataset=KINDLE, title="GenSR"),
        folder.run("unisar", draws(2, 30), group="unified", dataset=KINDLE, title="UniSAR"),
        folder.run("sasrec", draws(3, 40), tasks=("rec",), group="rec", dataset=KINDLE, title="SASRec"),
        folder.run("tem", draws(4, 40), tasks=("search",), group="search", dataset=KINDLE, title="TEM"),
        folder.run("gensr", draws(5, 20), group="unified", title="GenSR"),
        folder.run("sasrec", draws(6, 40), tasks=("rec",), group="rec", title="SASRec"),
    ]
    folder.command(*runs)


def test_rows_are_chosen_and_ordered_by_model_title_or_group(folder):
    three(folder)
    chosen = table(folder.store, models=["most", "C", "unified"])
    assert [row.model for row in chosen.blocks[0].group.rows] == ["most", "c", "a", "b"]
    two = table(folder.store, models=["c", "b"])
    assert list(dict.fromkeys(record["model"] for record in two.records())) == ["c", "b"]
    assert "rows chosen by name; not shown and not tested: A, MOST" in two.text(300)
    assert "rows chosen" not in chosen.text(300)
    with pytest.raises(UsageError, match=r"unknown model 'mos'; did you mean most\? \(among these runs\)"):
        table(folder.store, models=["mos"])


def test_a_baseline_meets_every_other_model_with_holm_over_them(folder):
    view = three(folder).against("b")
    records = [record for record in view.records() if record["task"] == "rec"]
    assert [record["b"] for record in records] == ["c", "a", "most"] and {each["a"] for each in records} == {"b"}
    by_model = {record["b"]: record for record in records}
    # Holm by hand: the smallest of three p-values is tripled, equal models stay at 1.
    ordered = sorted(record["p"] for record in records)
    assert by_model["a"]["p_holm"] == pytest.approx(min(1, 3 * ordered[0]))
    assert by_model["a"]["difference"] < 0 and by_model["a"]["significant"]
    assert by_model["c"]["p_holm"] == 1 and not by_model["c"]["significant"] and by_model["c"]["ties"] == 120
    assert all(record["wins"] + record["ties"] + record["losses"] == record["users"] for record in view.records())
    # The trivial row serves one task: the other has two comparisons.
    assert len([record for record in view.records() if record["task"] == "search"]) == 2
    text = view.text(100)
    assert "rec N@10: B" in text and "these trained models" in text and max(map(len, text.splitlines())) <= 100


def test_a_baseline_on_a_further_metric_carries_no_star(folder):
    three(folder)
    view = table(folder.store, metrics=["MRR", "N@10"]).against("b")
    starred = {record["metric"] for record in view.records() if record["significant"]}
    assert {record["metric"] for record in view.records()} == {"MRR", "N@10"} and starred == {"N@10"}


def test_a_pair_in_full_agrees_with_scipy(folder):
    result = three(folder)
    view = result.compare("a", "b", margin=0.9)
    records = {(record["task"], record["metric"]): record for record in view.records()}
    assert len(records) == 8
    ranks = result.blocks[0].ranks["rec"]
    first, second = (ranks[number][0].per_user(PRIMARY)[1] for number in sorted(ranks, key=lambda n: n)[1:3])
    expected = stats.ttest_rel(first, second)
    found = records["rec", "N@10"]
    assert found["p_t"] == pytest.approx(expected.pvalue) and found["difference"] == pytest.approx(
        (first - second).mean()
    )
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert found["effect"] == pytest.approx((first - second).mean() / (first - second).std(ddof=1))
    assert (found["wins"], found["losses"]) == (int((first > second).sum()), int((first < second).sum()))
    assert found["equivalent"] and not result.compare("a", "b").records()[0]["equivalent"]
    cells = {row[0]: row[1:] for row in rows_of(view.markdown())}
    assert cells["users: A better (win)"][3] == str(found["wins"])
    assert cells["equivalent within 0.9"][3] == "yes"
    assert [each for each in cells["differ (level .025)"] if each] == ["yes", "yes"]


def test_a_pair_serves_what_both_serve_and_bad_names_are_refused(folder):
    result = three(folder)
    assert {record["task"] for record in result.compare("most", "a").records()} == {"rec"}
    for pair, words in ((("a", "a"), "same row"), (("a", "x"), "unknown model 'x'")):
        with pytest.raises(UsageError, match=words):
            result.compare(*pair)
    alone = table(folder.store, models=["a"])
    with pytest.raises(UsageError, match="no other model"):
        alone.against("a")


def test_the_layout_of_papers_turns_the_table(folder):
    paper(folder)
    result = table(folder.store, dataset=f"{KINDLE},ml-100k")
    view = result.layout("paper")
    rec, search = view.sheets
    assert rec.header == ("data set", "metric", "SASRec", "GenSR", "UniSAR")
    assert rec.groups[2:] == ("Recommendation", *["Joint search and recommendation"] * 2)
    assert search.header[2:] == ("TEM", "GenSR", "UniSAR")
    # Every number of the narrow layout stands in the turned one.
    for sheet, task in ((rec, "rec"), (search, "search")):
        found, name = {}, ""
        for row in sheet.rows():
            name = row[0].text or name
            for title, each in zip(sheet.header[2:], row[2:], strict=True):
                found[name, row[1].text, title] = each.text
        for record in result.records():
            if record["task"] == task and record["metric"] in ("R@5", "R@10", "N@5", "N@10"):
                shown = found[f"{record['dataset']} (5-core)", record["metric"], record["title"]]
                assert shown == f"{record['mean']:.3f}".replace("0.", ".", 1)
        assert found["ml-100k (5-core)", "N@10", "UniSAR"] == "-"
    assert json.loads(view.json()) == result.records()
    for width in (60, 100, 200):
        assert max(map(len, view.text(width).splitlines())) <= width


def test_latex_of_a_layout_is_balanced(folder):
    paper(folder)
    latex = table(folder.store, dataset=KINDLE).layout("paper", paper=True).latex()
    opened, closed = (re.findall(rf"\\{word}{{(\w+\*?)}}", latex) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed) and opened.count("table*") == 2
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", latex, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1 and len(rows) == 9
    assert r"\multicolumn{2}{c}{Joint search and recommendation}" in latex
    assert latex.count("{") == latex.count("}")


def test_published_values_stand_below_ours_and_impossible_ones_are_marked(folder):
    paper(folder)
    result = table(folder.store, dataset=KINDLE)
    rec, search = result.layout("paper", paper=True).sheets
    lines = {row[1].text: row for row in search.rows()}
    assert [cell.text for cell in lines["R@5 published"][2:]] == [".819", ".978?", ".819"]
    assert [cell.text for cell in next(row for row in rec.rows() if row[1].text == "N@10 published")[2:]] == [
        ".422",
        ".528",
        ".488",
    ]
    notes = " ".join(rec.notes)
    assert "published for amazon-kindle rec and not in this table: DIN" not in notes  # our names
    assert re.search("not in this table: din, .*bsr, IDGenRec", notes)
    records = {(r["task"], r["model"], r["metric"]): r for r in result.layout("narrow", paper=True).records()}
    assert records["search", "gensr", "N@5"]["published"] == 0.9853 and records["search", "gensr", "N@5"]["impossible"]
    assert records["rec", "gensr", "R@5"]["impossible"] is False and records["rec", "gensr", "MRR"]["published"] is None
    narrow = rows_of(result.layout("narrow", paper=True).markdown())
    assert next(row for row in narrow if row[0] == "SASRec, published")[1:5] == [".529", ".677", ".375", ".422"]


def test_published_values_are_those_of_the_paper_and_of_registered_models():
    from bench.ranker import registry

    known = published()
    count, findings = audit_numbers(_VALUES)
    assert (count, len(findings)) == (55, 4)
    assert {model for _, _, model in known.values} <= set(registry.entries())
    assert known.datasets == (KINDLE, "kuaisar") and known.elsewhere == {(KINDLE, "rec"): ("IDGenRec",)}
    assert {key for key, _ in known.impossible} == {
        (KINDLE, "search", "gensr"),
        ("kuaisar", "rec", "gru4rec"),
        ("kuaisar", "rec", "collm"),
        ("kuaisar", "search", "gensr"),
    }


def test_published_values_of_another_data_set_are_refused(folder):
    with pytest.raises(UsageError, match="no values for ml-100k; there are values for amazon-kindle, kuaisar"):
        three(folder).layout("narrow", paper=True)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_html_is_one_page_that_shows_names_as_typed(folder):
    name = "<img src=x onerror=alert(1)> & <b>co</b>"
    folder.command(folder.run("a", draws(1, 8), title=name), folder.run("b", draws(2)))
    text = table(folder.store).html(details=True)
    page = Page()
    page.feed(text)
    assert not page.open and not page.tags & {"script", "img", "link", "iframe"} and "http" not in text
    assert page.cells.count(name) == 3  # the table and the tests of two tasks
    assert text.count("<table") == 3 and text.count("<td><b>") == 8


def test_csv_of_a_view_holds_its_records(folder):
    view = three(folder).compare("a", "c")
    read = list(csv.DictReader(io.StringIO(view.csv())))
    assert [float(line["difference"]) for line in read] == [record["difference"] for record in view.records()]
    assert np.isfinite([float(line["p"]) for line in read]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--baseline", "a", "--compare", "a,b"], "--baseline and --compare exclude each other"),
        (["--compare", "a,b", "--layout", "paper"], "--compare and --layout paper exclude each other"),
        (["--baseline", "a", "--details"], "--baseline and --details exclude each other"),
        (["--compare", "a"], "--compare a: expected two models"),
        (["--baseline", "zz"], "unknown model 'zz'"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, capsys, words, message):
    three(folder)
    with pytest.raises(SystemExit) as caught:
        main(["table", "--out", str(folder.store.root), *words])
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html", "csv", "json"])
@pytest.mark.parametrize("words", [["--baseline", "a"], ["--compare", "a,b"], ["--layout", "paper"], []])
def test_every_view_has_every_form(folder, capsys, words, form):
    three(folder)
    try:
        main(["table", "--out", str(folder.store.root), "--models", "a,b", "--format", form, *words])
    except SystemExit as caught:
        assert not caught.code
    shown = capsys.readouterr().out
    assert "N@10" in shown and ("\\begin" in shown) == (form == "latex") and ("<html" in shown) == (form == "html")


def test_hostile_names_come_out_as_typed_in_every_view(folder):
    runs = [folder.run(f"m{i}", draws(i, 9), title=f"{i}. {title}") for i, title in enumerate(HOSTILE)]
    folder.command(*runs)
    result = table(folder.store)
    for view in (result.layout("paper"), result.layout("narrow"), result.against("m3"), result.compare("m3", "m7")):
        for color in (False, True):
            text = re.sub(r"\033\[[0-9;]*m", "", view.text(60, color))
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
            assert max(cell_len(line) for line in text.splitlines()) <= 60
        lines = [line for line in view.markdown().splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        latex = view.latex()
        assert r"\input{" not in latex and not re.search(r"(?m)^[\[*]", latex)
        assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
        assert "<img" not in view.html() + view.markdown()
