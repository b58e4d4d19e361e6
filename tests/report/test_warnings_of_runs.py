"""A warning that a model leaves in its evidence stands under every view of a table that shows the model."""

import json
import re
from html import unescape

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.report import findings
from bench.report.html.page import Report
from bench.report.table import table

from .results_by_hand import draws, one

WARNING = "task loss 0.5004 is the entropy of the labels, 0.5004: nothing was learnt"


@pytest.fixture
def two(folder):
    folder.command(folder.run("a", draws(1, 8), evidence={"warning": WARNING}), folder.run("b", draws(2)))
    return folder


def without_tags(html):
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_the_warning_names_its_row_in_text_html_and_latex(two):
    made = table(two.store)
    said = f"!! {WARNING}: A"
    assert said in made.text(300).splitlines()
    assert said in without_tags(made.html()) and 'class="alarm"' in made.html()
    assert said in made.latex()
    assert WARNING in made.markdown()
    assert f"{WARNING}: B" not in made.text(300) and "all models" not in made.text(300)


def test_the_warning_stands_in_the_report(two):
    assert WARNING in without_tags(Report(table(two.store)).html())


def test_the_warning_is_an_alarm_in_colour(two):
    assert f"\033[1;31m!! {WARNING}" in table(two.store).text(300, color=True)


def test_the_warning_is_in_the_records_of_its_row_alone(two):
    made = table(two.store)
    notes = {model: one(made, model=model, task="rec", metric="N@10")["notes"] for model in "ab"}
    assert WARNING in notes["a"] and "nothing was learnt" not in notes["b"]


def test_the_warning_is_a_severe_finding_on_its_row(two):
    found = [each for each in findings.of_table(table(two.store).blocks) if each.sentence == WARNING]
    assert [(each.severity, each.rows) for each in found] == [("severe", ("A",))]


def test_the_audit_of_a_table_with_a_warning_ends_with_1(two):
    done = CliRunner().invoke(main, ["audit", "table", "--out", str(two.store.root), "--format", "json"])
    assert done.exit_code == 1
    assert [each["severity"] for each in json.loads(done.output) if each["sentence"] == WARNING] == ["severe"]


def test_the_same_warning_of_two_models_is_one_line(folder):
    runs = [folder.run(name, draws(seed), evidence={"warning": WARNING}) for name, seed in (("a", 1), ("b", 2))]
    folder.command(*runs, folder.run("c", draws(3)))
    text = table(folder.store).text(300)
    assert f"!! {WARNING}: A, B" in text and text.count("nothing was learnt") == 1


def test_a_warning_of_one_seed_stands_beside_the_row_of_all(folder):
    runs = [folder.run("a", draws(1, 8), seed=0), folder.run("a", draws(2, 8), seed=1, evidence={"warning": WARNING})]
    folder.command(*runs, *(folder.run("b", draws(3 + seed), seed=seed) for seed in (0, 1)))
    assert f"!! {WARNING}: A" in table(folder.store).text(300).splitlines()


def test_a_warning_of_many_lines_is_one_line_without_control_characters(folder):
    hostile = "loss is\nnan \x1b[31mred\x1b[0m <b>bold</b> 50_% & more"
    folder.command(folder.run("a", draws(1, 8), evidence={"warning": hostile}), folder.run("b", draws(2)))
    made = table(folder.store)
    (line,) = [each for each in made.text(300).splitlines() if "loss is" in each]
    assert line.startswith("!! loss is nan") and line.endswith("more: A") and "\x1b" not in line
    assert all("\n" not in each.sentence for each in findings.of_table(made.blocks))
    assert "<b>bold" not in made.html() and r"50\_\% \& more" in made.latex()


def test_a_run_without_a_warning_has_no_alarm(folder):
    folder.command(folder.run("a", draws(1, 8)), folder.run("b", draws(2, 9), evidence={"warning": ""}))
    assert "!!" not in table(folder.store).text(300)
