"""How a table reads: on the terminal, in Markdown and LaTeX, as records."""

import csv
import io
import json
import re
import subprocess
import sys
from html import unescape

import pandas as pd
import pytest
from rich.cells import cell_len

from bench.report.marks import Estimate, Note
from bench.report.table import Table, table

from .results_by_hand import FIRST, cells, draws, one, three


def plain(text):
    return re.sub(r"\033\[[0-9;]*m", "", text)


def line(text, start):
    return next(each for each in plain(text).splitlines() if each.startswith(start))


def test_text_marks_best_and_second_over_all_rows_and_names_what_was_compared(folder):
    result = three(folder)
    text = result.text()
    assert max(map(len, text.splitlines())) <= 100
    assert re.findall(r"\[1?\.\d{3}\]\*", line(text, "A ")) and line(text, "A ").count("]*") == 8
    assert line(text, "B ").count("(") == 8 == line(text, "C ").count("(")  # equal rows share the mark
    assert line(text, "MOST").split()[-4:] == ["-"] * 4
    for words in (
        "leave-one-out",
        "mode disjoint",
        "budget quick",
        "seed 0",
        "uniform-99",
        FIRST[:12],
        "rec 120 rows of 120 users, search 120 rows of 120 users",
        "synthetic: queries (genre and decade)",
        "primary metric N@10",
    ):
        assert words in text
    groups = [each.removeprefix("-- ") for each in text.splitlines() if each.startswith("-- ")]
    assert groups == ["rec", "unified", "trivial"]
    expected = one(result, model="b", task="rec", metric="R@5")["mean"]
    assert f"({expected:.3f})".replace("0.", ".") == line(text, "B ").split()[1]


def test_colour_changes_marks_only(folder):
    result = three(folder)
    colored = result.text(color=True)
    assert [len(re.findall(rf"\033\[{code}m1?\.\d", colored)) for code in (1, 4)] == [8, 16]
    assert max(map(len, plain(colored).splitlines())) <= 100 and "\033" not in result.text()
    numbers = r"\.\d{3}"
    assert re.findall(numbers, plain(colored)) == re.findall(numbers, result.text())


def test_columns_align(folder):
    for text in (three(folder).text(), plain(three(folder).text(color=True))):
        rows = [line(text, name) for name in ("A ", "B ", "C ")]
        ends = {tuple(match.end() for match in re.finditer(r"\.\d{3}", row)) for row in rows}
        assert len(ends) == 1
        # The name of a metric ends where its numbers end; a task stands above its first metric.
        header = line(text, "model")
        assert tuple(match.end() for match in re.finditer(r"[RN]@\d+", header)) == ends.pop()
        above = text.splitlines()[text.splitlines().index(header) - 1]
        assert [match.group() for match in re.finditer(r"\w+", above)] == ["rec", "search"]
        assert header.index("R@5") - above.index("rec") == header.rindex("R@5") - above.index("search")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_text_keeps_within_its_width_whatever_it_holds(folder, width):
    long = "A model with a title that goes on for very much longer than any table has room for in its first column"
    runs = [folder.run(f"m{i}", draws(i), title=f"{long} {i}", leaks={"zero:x": 3}, tied=1) for i in range(3)]
    folder.command(*runs)
    result = table(folder.store, metrics=["R@1", "R@5", "R@10", "R@20", "N@5", "N@10", "N@20", "MRR", "AUC"])
    for color in (False, True):
        text = plain(result.text(width, color))
        assert max(map(len, text.splitlines())) <= width
        assert sum(each.count("MRR") for each in text.splitlines()) == 2  # one column a task, wherever it stands
    assert max(map(len, result.text(100, details=True).splitlines())) <= 100


def test_metrics_and_tasks_can_be_chosen(folder):
    three(folder)
    assert "MRR" not in table(folder.store).text() and "MRR" in set(table(folder.store).frame()["metric"])
    result = table(folder.store, metrics=["MRR", "R@20"], tasks=["search"])
    assert set(result.frame()["metric"]) == {"MRR", "R@20"} and set(result.frame()["task"]) == {"search"}
    assert "MRR" in result.text() and "R@20" in result.text() and "MOST" not in result.text()


def test_footnotes_tell_what_a_reader_must_know(folder):
    folder.command(
        folder.run("a", draws(1), fit={"converged": False}, evidence={"backbone": "small-t5"}),
        folder.run("b", draws(2), leaks={"zero:target in own history": 12, "zero:none": 0}),
        folder.run("c", draws(3), tied=2, evidence={"backbone": {"name": "t5", "layers": 2}}),
    )
    result = table(folder.store)
    text = result.text(300)
    assert "A† " in text and "† stopped by the budget, not by early stopping: A" in text
    assert "!! LEAK: target in own history: 12 (B)" in text and "zero:none" not in text
    assert "backbone small-t5: A" in text and "backbone name t5, layers 2: C" in text
    assert "C 100% of rec rows" in text and "A 100%" not in text
    assert "LEAK" in one(result, model="b", task="rec", metric="N@10")["notes"]
    assert "\033[1;31m!! LEAK" in result.text(300, color=True)


def test_details_give_the_tests_of_every_row(folder):
    text = three(folder).text(details=True)
    assert "rec N@10: A against each" in text and "search N@10: A against each" in text
    assert max(map(len, text.splitlines())) <= 100
    row = [each for each in text.splitlines() if each.startswith("B ")][1].split()
    assert row.count("<.001") == 4


def test_json_and_csv_hold_the_same_flat_records(folder):
    result = three(folder)
    records = json.loads(result.json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    fields = {
        "dataset",
        "task",
        "model",
        "title",
        "metric",
        "mean",
        "std",
        "low",
        "high",
        "users",
        "rows",
        "candidates",
        "fingerprint",
        "seeds",
        "budget",
        "significant",
        "p",
        "p_randomisation",
        "p_holm",
        "difference",
        "effect",
        "smallest_detectable",
        "rank",
        "synthetic",
        "notes",
        "runs",
    }
    assert all(fields <= record.keys() for record in records)
    assert all(value is None or isinstance(value, str | int | float) for record in records for value in record.values())
    assert len(records) == 6 * (3 * 2 + 1) and records[0]["std"] is None and records[0]["seeds"] == "0"
    read = list(csv.DictReader(io.StringIO(result.csv())))
    assert [float(row["mean"]) for row in read] == [record["mean"] for record in records]
    frame = result.frame()
    assert isinstance(frame, pd.DataFrame) and len(frame) == len(records) and frame["mean"].dtype == float


def test_markdown_is_one_table_a_block(folder):
    rows = [each for each in three(folder).markdown().splitlines() if each.startswith("|")]
    assert len(rows) == 2 + 4 and len({row.count("|") for row in rows}) == 1 and rows[0].count("|") == 10
    best = next(row for row in rows if row.startswith("| A "))
    assert best.count("**") == 16 and best.count("\\*") == 8
    assert sum(row.count("<u>") for row in rows) == 16
    assert "**best**" in three(folder).markdown(details=True)


def test_latex_has_balanced_environments_and_equal_rows(folder):
    folder.command(
        folder.run("x_1", draws(1, 20), title="X_1 & co (lr=0.1)"), folder.run("b", draws(2), fit={"converged": False})
    )
    latex = table(folder.store).latex()
    opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", latex) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed) == ["table", "tabular"]
    assert r"X\_1 \& co" in latex and not re.search(
        r"(?<!\\)[#%_]", latex.replace(r"\label{tab:ml-100k-uniform-99}", "")
    )
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    rows = [each for each in body.splitlines() if each.endswith(r"\\") and "multicolumn" not in each]
    assert len(rows) == 3 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {8}
    assert latex.count(r"\textbf{.") == 8 and latex.count(r"\underline{.") == 8
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


def test_heavy_packages_wait_until_they_are_needed():
    heavy = ("scipy", "statsmodels", "pandas", "torch", "rich", "tabulate")
    script = f"import sys, bench.report.table, bench.report.captions; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_of_one_row_compares_nothing(folder):
    folder.command(folder.run("a", draws(1)))
    result = table(folder.store)
    assert isinstance(result, Table) and cells(result)["p"].isna().all() and (cells(result)["rank"] == 1).all()
    assert all(isinstance(estimate, Estimate) for estimate in result.blocks[0].estimates.values())
    assert all(isinstance(note, Note) for note in result.blocks[0].notes)
    assert "]*" not in result.text(details=True)


def test_a_table_never_imports_statsmodels(folder):
    three(folder)
    script = (
        "import sys, bench.report.table as t, bench.store.results as s; m = t.table(s.Store(sys.argv[1])); "
        "m.text(details=True); m.json(); print('statsmodels' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder.store.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_repr_of_a_table_is_one_short_line(folder):
    shown = repr(three(folder))
    assert shown.startswith("Table(ml-100k (5-core): ") and "4 rows on uniform-99" in shown and "\n" not in shown


# Names and titles come from files and other packages.
HOSTILE = [
    "line\nbreak\r\nand\ttab",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "back\x08\x08space \x9b1m \u202eoverride",
    "<img src=x onerror=alert(1)> <b>bold</b> &amp;",
    "[link](http://example.org) **strong** _em_ `code` ~~gone~~ # head",
    "https://example.org/path and me@example.org",
    "cell | cell \\| cell",
    "$x_1^2$ % & # _ { } ~ \\textbf{x} \\\\ \\input{/etc/passwd}",
    "*starred [optional] -- dash",
    "中文名称 टेस्ट 🙂",
    "n" * 400,
    "--",
]


@pytest.fixture
def hostile(folder):
    runs = [folder.run(f"m{i}", draws(i, 9), title=f"{i}. {title}") for i, title in enumerate(HOSTILE)]
    runs.append(folder.run("backed", draws(99), evidence={"backbone": HOSTILE[1] + HOSTILE[0] + HOSTILE[3]}))
    folder.command(*runs, failed={"ml-100k/gone-s0-1": HOSTILE[1]})
    return table(folder.store)


def test_hostile_names_reach_no_terminal_as_commands(hostile):
    for color in (False, True):
        for width in (60, 100):
            text = plain(hostile.text(width, color))
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
            assert max(cell_len(each) for each in text.splitlines()) <= width
    names = [each for each in hostile.text().splitlines() if re.match(r"\d+\. ", each)]
    assert {each.split(".")[0] for each in names} == {str(number) for number in range(len(HOSTILE))}
    assert "0. line break and tab " in hostile.text(200) and "1. red " in hostile.text(200)
    assert "n" * 81 not in hostile.text(200)


def test_hostile_names_are_one_escaped_cell_in_markdown(hostile):
    text = hostile.markdown(details=True)
    rows = [each for each in text.splitlines() if each.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows[: len(HOSTILE) + 3]} == {10}
    from markdown_it import MarkdownIt

    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    for tag in ("<img", "<a ", "<code", "<em", "<b>", "<del", "<s>"):
        assert tag not in html
    assert "<strong>strong" not in html
    html = html.replace("<!-- -->", "")  # keeps addresses from becoming links; nobody sees it
    names = [unescape(cell) for cell in re.findall(r"<tr>\s*<td.*?>(.*?)</td>", html)][: len(HOSTILE) + 1]
    # What a reader sees is what was typed.
    assert {f"{number}. {HOSTILE[number]}" for number in (3, 4, 6, 7, 8, 9, 11)} <= {name.rstrip() for name in names}


def test_hostile_names_are_literal_in_latex(hostile):
    text = hostile.latex()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [each for each in body.splitlines() if each.endswith(r"\\")]
    assert len(rows) == len(HOSTILE) + 2  # and the one that did not finish
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {8}
    assert r"\input{" not in text and r"\textbackslash{}input\{/etc/passwd\}" in text
    names = [row.split(" & ")[0] for row in rows]
    assert not [name for name in names if re.search(r"(?<!\\)[$%#_]", name.replace("$^{\\dagger}$", ""))]
    assert not [name for name in names if name.startswith(("[", "*"))]
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_records_hold_names_as_they_are(hostile):
    titles = {record["title"] for record in json.loads(hostile.json())}
    assert {f"{i}. {title}" for i, title in enumerate(HOSTILE)} <= titles


def test_a_data_set_whose_name_holds_a_path_gets_a_valid_label(folder):
    folder.command(folder.run("a", 1, dataset="log:/some where/my_shop{1}"))
    (label,) = re.findall(r"\\label\{(.*?)\}\n", table(folder.store).latex())
    assert re.fullmatch(r"tab:[A-Za-z0-9.-]+", label)
