"""`bench report`: what stands in the page, that it needs nothing else, and that it works in a browser."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

import bench.api
from bench.cli.main import main
from bench.data.log import file_sha256
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.top_lists import DEPTH, TopLists
from bench.report.detail.curves import curves
from bench.report.detail.data import TableData, open_table_data
from bench.report.detail.lists import task_lists
from bench.report.detail.other_candidates import both_ways
from bench.report.detail.single_rows import single_rows
from bench.report.detail.strata import strata
from bench.report.html.page import MOST_BYTES, Report
from bench.report.table import table
from bench.store.results import CURVE, Store, lists_name, ranks_name, read_ranks
from bench.store.studies import FAILED, FINISHED, StudyRecord, TrialRecord, study_folder, write_study, write_trial

from ..browser import Browser, needs_chromium
from .results_by_hand import draws, three

SECTIONS = (
    "tables",
    "findings",
    "curves",
    "tuning",
    "pairs",
    "cost",
    "full",
    "strata",
    "beyond",
    "rows",
    "provenance",
    "analyses",
)
TASKS = ("rec", "search")


class Page(HTMLParser):
    """Addresses that a page loads or links, ids, texts of the body, and its JSON."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.texts, self.json, self._script = [], [], [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        self._script = found.get("id", "") if tag in ("script", "style") else None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        elif self._script:
            self.json[self._script] = json.loads(data)

    def handle_endtag(self, tag):
        self._script = None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three models that serve both tasks or one, with lists, on drawn candidates and on the full catalogue."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.experiments.tracking.CommandTracker._start", lambda self: pytest.fail("no view is needed"))
        patch.setattr("bench.experiments.tracking.CommandTracker.log_run", lambda *_: None)
        size = {"users": 90, "items": 300, "events": 6000}
        bench.api.run(
            "popularity,item-knn,matcher,lightgcn",
            "simulated",
            candidates="uniform,full",
            seeds=[0, 1],
            split="leave-one-out",
            set={"simulated": size, "train": {"epochs": 3}},
            top_lists=True,
            trivial=False,
            threads=1,
            data=root / "data",
            out=root / "results",
            quiet=True,
        )
    return Store(root / "results")


@pytest.fixture(scope="module")
def data_root(store):
    return store.root.parent / "data"


@pytest.fixture(scope="module")
def block(store):
    (made,) = table(store, candidates="uniform").blocks
    made.test((PRIMARY,))
    return made


@pytest.fixture(scope="module")
def data(block, data_root):
    opened = open_table_data(block.group.dataset, data_root)
    assert isinstance(opened, TableData), opened
    return opened


@pytest.fixture(scope="module")
def report(store, data_root):
    return Report(table(store, candidates="uniform"), data_root, "bench report")


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return path


def test_the_page_holds_all_of_it_and_needs_nothing_else(written, block):
    page = Page(written.read_text())
    assert set(SECTIONS) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    shown = " ".join(page.texts)
    for row in block.group.rows:
        assert row.label in shown
    assert block.group.candidates.fingerprint in shown and block.group.dataset["fingerprint"] in shown
    for task in TASKS:
        sample = page.json[f"rows-{task}"]
        assert sample["rows"] and all(len(row["values"]) == len(sample["models"]) for row in sample["rows"])


def test_strata_divide_the_rows(block, data):
    """Every row is in one stratum; strata of users, weighted by their users, give the mean in the table."""
    for task in TASKS:
        for divided in strata(block, task, data):
            assert sum(stratum.rows for stratum in divided.strata) == block.rows_of[task][1]
            for stratum in divided.strata:
                assert [cell.number for cell in stratum.cells] == list(block.ranks[task])
        (of_users,) = [each for each in strata(block, task, data) if each.title == "user"]
        users = np.array([stratum.users for stratum in of_users.strata])
        assert users.sum() == block.rows_of[task][0]
        for place, number in enumerate(block.ranks[task]):
            means = np.array([stratum.cells[place].mean for stratum in of_users.strata])
            whole = block.estimates[number, task, PRIMARY].mean
            assert means @ users / users.sum() == pytest.approx(whole, abs=1e-12)


def test_strata_are_what_they_are_called(block, data):
    """Against counts by a loop over the events of the log."""
    events, test = data.log.events, block.ranks["search"][next(iter(block.ranks["search"]))][0]
    split = data._prepared.split
    queries = set(events.query[split.train].tolist())
    seen = sum(int(query) in queries for query in test.query)
    (divided,) = [each for each in strata(block, "search", data) if each.title == "query"]
    rows = {stratum.name: stratum.rows for stratum in divided.strata}
    assert rows.get("in training", 0) == seen and rows.get("not in training", 0) == len(test) - seen
    (divided,) = [each for each in strata(block, "search", data) if each.title.startswith("training events")]
    counts = [int((events.item[split.train] == item).sum()) for item in test.item]
    rows = {stratum.name: stratum.rows for stratum in divided.strata}
    inside = np.array([5 <= count < 20 for count in counts])
    assert rows["5 to 19"] == inside.sum() > 0
    (stratum,) = [each for each in divided.strata if each.name == "5 to 19"]
    for cell in stratum.cells:
        by_user = {}
        for runs in block.ranks["search"][cell.number]:
            for user, value in zip(runs.user[inside], runs.values(PRIMARY)[inside], strict=True):
                by_user.setdefault(int(user), []).append(value)
        assert cell.mean == pytest.approx(np.mean([np.mean(values) for values in by_user.values()]), abs=1e-12)


def test_single_rows_are_the_largest_losses_and_wins(block, data):
    for task in TASKS:
        lists = task_lists(block, task)
        sample = single_rows(block, task, data, lists, each_way=3)
        assert len(sample.rows) < sample.of
        values = {n: runs[0].values(PRIMARY) for n, runs in block.ranks[task].items()}
        for place, (number, other) in enumerate(zip(sample.models, sample.references, strict=True)):
            gaps = np.sort(values[number] - values[other])
            there = sample.models.index(other)
            shown = np.sort([row["values"][place] - row["values"][there] for row in sample.rows])
            for edge in (slice(None, 3), slice(-3, None)):
                assert shown[edge] == pytest.approx(gaps[edge], abs=1e-4)
        for row in sample.rows:
            for (better, tied), best in zip(row["places"], row["lists"], strict=True):
                # The list and the place of the clicked item are of the same row.
                if better + tied < DEPTH:
                    assert row["positive"] in best[better : better + tied + 1]
                elif better >= DEPTH:
                    assert row["positive"] not in best
            assert row["positive"] not in [item for item, _ in row["history"]]
            assert (row["query"] != "") == (task == "search")


def test_pairs_and_findings_stand_in_the_page(report, block, folder):
    (section,) = [each for each in report.blocks[0].sections if each.id == "pairs"]
    for chart, task in zip(section.charts, TASKS, strict=True):
        found = block.pairs(task)
        cells = chart.spec["layer"][0].get("data", chart.spec.get("data"))["values"]
        assert len(cells) == len(found.labels) * (len(found.labels) - 1)
        place = {label: number for number, label in enumerate(found.labels)}
        for cell in cells:
            a, b = (place[cell[name].rstrip("†")] for name in ("row", "column"))
            assert cell["difference"] == found.difference[a, b] and cell["clear"] == (found.p_family[a, b] < 0.05)
    leak = {"zero:target in own history": 3}
    folder.command(folder.run("leaky", draws(1), leaks=leak), folder.run("sound", draws(2)))
    page = " ".join(Page(Report(table(folder.store)).html()).texts)
    assert "severe" in page and "target in own history: 3" in page


def test_sampled_and_full_ranking_are_those_of_two_tables(store, block):
    (full,) = table(store, candidates="full").blocks
    for task in TASKS:
        both, back = both_ways(block, task), both_ways(full, task)
        for number, drawn, on_full in zip(both.numbers, both.on_drawn, both.on_full, strict=True):
            assert drawn == pytest.approx(block.estimates[number, task, PRIMARY].mean, abs=1e-12)
            assert on_full == pytest.approx(full.estimates[number, task, PRIMARY].mean, abs=1e-12)
        assert back.reversed == both.reversed
        assert (*back.on_drawn, *back.on_full) == pytest.approx((*both.on_drawn, *both.on_full), abs=1e-12)
        for a, b in both.reversed:
            places = both.numbers.index(a), both.numbers.index(b)
            assert both.on_drawn[places[0]] > both.on_drawn[places[1]]
            assert both.on_full[places[0]] < both.on_full[places[1]]


def test_curves_hold_the_lines_of_the_files(block):
    points = curves(block)
    (run, *_) = next(row for row in block.group.rows if row.model == "lightgcn").runs
    lines = [json.loads(line) for line in (run.folder / CURVE).read_text().splitlines()]
    losses = [point.value for point in points if point.name == "train/loss" and point.seed == run.record.seed]
    assert losses == pytest.approx([line["train/loss"] for line in lines], rel=1e-5)


def test_searches_of_the_models_stand_in_the_page(folder):
    """Those of the table's data and models, the best and the default trial; others do not."""
    three(folder)
    about = {"tasks": ["rec"], "budget": "quick", "search": "random", "scheduler": "none", "seed": 0, "space": {}}
    about |= {"default": {}, "validation_rows": 0, "device": "cpu", "threads": 1, "code": "c", "trials": 3, "spread": 0}
    record = next(folder.store.runs())[1]
    other = {**record.dataset, "fingerprint": "ee" * 32}
    for name, model, facts in (("a-1", "a", record.dataset), ("a-2", "a", other), ("z-1", "z", record.dataset)):
        place = study_folder(folder.store, "ml-100k", name)
        write_study(place, StudyRecord(id=name, key=name, model=model, title=model.upper(), dataset=facts, **about))
        for number, value in enumerate([0.2, None, 0.31]):
            status = FINISHED if value else FAILED
            write_trial(
                place, TrialRecord(number, "search", {"lr": number} if number else {}, 0, status, value, steps=7)
            )
    (content,) = Report(table(folder.store)).blocks
    (section,) = [each for each in content.sections if each.id == "tuning"]
    ((line,),) = [grid.lines for grid in section.grids]
    assert [cell.text for cell in line] == ["A", "a-1", "3", "21", "0", ".200", ".310", "lr=2"]
    data = section.charts[0].spec["data"]["values"]
    assert [(each["trial"], each["best"]) for each in data] == [(0, 0.2), (2, 0.31)]


def stored_analysis(root, dataset="ml-100k", lines=70, figures=2, name="mi"):
    """What `bench analyze` leaves: its facts, a table, and figures that noise makes as large as can be."""
    from PIL import Image

    folder = root / "analyses" / name
    folder.mkdir(parents=True)
    facts = {"analysis": name, "settings": {"models": "a,b", "dataset": [dataset]}, "remarks": ["above <ln 2>"]}
    (folder / "analysis.json").write_text(json.dumps(facts))
    table_lines = [f"m{n},{n / 7},," for n in range(lines)]
    (folder / f"{name}.csv").write_text("\n".join(["model,value,empty,remark", *table_lines]) + "\n")
    for number in range(figures):
        noise = np.random.default_rng(number).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}-{number}.png")
    return folder


def test_analyses_stand_in_the_page_within_its_bound(folder):
    three(folder)
    without = " ".join(Page(Report(table(folder.store)).html()).texts)
    assert "No analysis of these data" in without
    stored_analysis(folder.store.root)
    stored_analysis(folder.store.root, "other-data", name="space")
    (folder.store.root / "analyses" / "sweep").mkdir()
    (folder.store.root / "analyses" / "sweep" / "analysis.json").write_text("{")
    html = Report(table(folder.store)).html()
    page = Page(html)
    texts = " ".join(page.texts)
    assert "above <ln 2>" in texts and "The first 60 of 70 lines." in texts and "space" not in page.texts
    assert "sweep is not readable" in texts
    uris = [address for address in page.addresses if address.startswith("data:image/png")]
    # Noise cannot be made small: what does not fit is named, and the page stays below its bound.
    assert sum(map(len, uris)) <= 700_000 and len(html.encode()) < MOST_BYTES
    assert len(uris) + texts.count("mi-0") + texts.count("mi-1") >= 2


def test_without_the_data_the_page_says_so_and_stands(store, tmp_path):
    made = Report(table(store, candidates="uniform"), tmp_path / "elsewhere").html()
    page = Page(made)
    assert set(SECTIONS) <= set(page.ids)
    assert "are not under" in " ".join(page.texts) and page.json["rows-rec"]["rows"]


def test_the_command_says_what_it_wrote(store, data_root, tmp_path):
    words = [
        "report",
        "--out",
        str(store.root),
        "--data",
        str(data_root),
        "--candidates",
        "uniform",
        "--tasks",
        "search",
    ]
    done = CliRunner().invoke(main, [*words, "--no-figures", "--to", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and done.output.startswith(f"{tmp_path / 'page.html'}: "), done.output
    assert set(Page((tmp_path / "page.html").read_text()).json) >= {"rows-search"}
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, [*words, "--no-figures", "--to", str(tmp_path / "file" / "page.html")])
    assert done.exit_code == 1 and done.output.startswith("error: cannot write")


def test_names_come_out_as_typed(folder):
    """Whatever a name holds: HTML, the end of a script, templates, Vega's signs."""
    title = "</script><img src=x onerror=alert(1)> {{ 7*7 }} <b>\"B\" & 'c'</b> a.b[0]"
    run = folder.run("odd", draws(1), title=title)
    three(folder)
    folder.command(run, *[f"ml-100k/{path.name}" for path in folder.store.run_folders()])
    page = Page(Report(table(folder.store)).html())
    assert title in page.texts
    assert title in page.json["labels"]
    assert not [address for address in page.addresses if address == "x"]


def many(store, data, models=25):
    """Copies of a run under other names, each with random ranks and lists of its own."""
    rng = np.random.default_rng(0)
    folder, record = next(pair for pair in store.runs() if pair[1].model == "item-knn" and pair[1].seed == 0)
    (label,) = [key for key, one in record.evaluations.items() if one.strategy == "uniform"]
    evaluation = record.evaluations[label]
    ranks = read_ranks(folder, evaluation)
    curve = "\n".join(
        json.dumps(
            {
                "epoch": n,
                "stage": "fit",
                "step": n * 100,
                "train/loss": 1 / n,
                f"rec/{PRIMARY}": 0.1,
                f"search/{PRIMARY}": 0.2,
            }
        )
        for n in range(1, 201)
    )
    target = Store(store.root.parent / "many")
    for number in range(models):
        name = f"model-{number}"
        own = target.folder(record.dataset["name"], f"{name}-s0-{number:012x}")
        own.mkdir(parents=True)
        (own / CURVE).write_text(curve)
        meta = {"model": name, "candidates": label}
        better = rng.integers(0, 20 + 3 * number, len(ranks)).astype(np.int32)
        replace(ranks, better=better, tied=np.zeros_like(better), meta=meta).save(own / ranks_name(label))
        items = np.argsort(rng.random((len(ranks), len(data.log.items))), axis=1)[:, :DEPTH].astype(np.int32) + 1
        TopLists(ranks.event_id, ranks.task, items, meta).save(own / lists_name(label))
        found = replace(
            evaluation,
            sha256=file_sha256(own / ranks_name(label)),
            lists=lists_name(label),
            lists_sha256=file_sha256(own / lists_name(label)),
        )
        fresh = replace(
            record,
            id=own.name,
            model=name,
            title=f"A model with a long name, number {number}",
            group="unified",
            evaluations={label: found},
            files={CURVE: file_sha256(own / CURVE)},
        )
        target.write(own, fresh)
    return target


def test_a_page_with_25_models_is_below_its_bound(store, data, data_root):
    made = Report(table(many(store, data)), data_root)
    page = made.html()
    assert len(page.encode()) < MOST_BYTES
    sample = Page(page).json["rows-search"]
    assert len(sample["models"]) == 25 and len(sample["rows"]) > 25


def test_charts_are_valid_vega_lite(report):
    import altair

    assert len(report.charts) == len({chart.name for chart in report.charts}) >= 15
    for chart in report.charts:
        altair.Chart.from_dict(chart.spec, validate=True)


def test_figures_are_png_and_pdf(report, tmp_path):
    for block in report.blocks:
        for section in block.sections:
            section.charts = section.charts[:1]
    files = report.save_figures(tmp_path / "figures")
    assert len(files) == 2 * len(report.charts) >= 8
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in files)


@pytest.fixture(scope="module")
def browser():
    made = Browser()
    yield made
    made.close()


@needs_chromium
def test_the_page_in_a_browser(browser, written):
    browser.open(written.as_uri())
    browser.wait("document.documentElement.dataset.drawn === 'yes'")
    charts = browser.run("return document.querySelectorAll('.chart').length")
    assert charts == browser.run("return document.querySelectorAll('.chart svg').length") >= 8
    # Two clicks lead from a cell to a row with its history and the top tens of two models.
    browser.click("#tables td button.rows")
    assert browser.run("return document.getElementById('panel').open")
    gaps = browser.run("return [...document.querySelectorAll('#panel tr.row th')].map(e => Number(e.textContent))")
    losses = [gap for gap in gaps if gap < 0]
    assert losses == gaps[: len(losses)] == sorted(losses)
    browser.click("#panel tr.row")
    shown = browser.run("return document.getElementById('panel').innerText")
    assert "History" in shown and "clicked item" in shown
    assert browser.run("return document.querySelectorAll('#panel ol').length") == 2
    browser.click("#panel button.close")
    # A header sorts its column, the largest first.
    browser.click("#tables button.sort", 3)
    column = "return [...document.querySelectorAll('#tables table')[0].tBodies[0].rows].map(r => Number(r.cells[3].dataset.value))"
    values = browser.run(column)
    assert values == sorted(values, reverse=True) and len(set(values)) > 1
    assert browser.errors() == []


@needs_chromium
def test_the_page_on_a_phone_and_on_paper(browser, written):
    browser.open(written.as_uri(), 390, 844, phone=True)
    browser.wait("document.documentElement.dataset.drawn === 'yes'")
    wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert browser.run(wide) <= 390
    browser.click("#tables td button.rows")
    browser.click("#panel tr.row")
    assert browser.run("const p = document.getElementById('panel'); return p.scrollWidth <= p.clientWidth")
    browser.run("document.getElementById('panel').close()")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30
    assert browser.errors() == []
