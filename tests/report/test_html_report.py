"""`bench report`: what stands in the page, that it needs nothing else, and that it works in a browser."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from click.testing import CliRunner

from bench.cli.main import main
from bench.data.log import file_sha256
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.top_lists import DEPTH, TopLists
from bench.report.html.page import MOST_BYTES, Report
from bench.report.table import table
from bench.store.results import CURVE, Store, lists_name, ranks_name, read_ranks
from bench.store.studies import FAILED, FINISHED, StudyRecord, TrialRecord, study_folder, write_study, write_trial

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
