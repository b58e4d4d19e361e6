"""`bench analyze`: every analysis leaves its files, and what cannot be analysed is one clear line."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from bench.analysis.gradients import Probe
from bench.store.results import Store

DATA = ("--dataset", "simulated", "--threads", "1", "--quiet")
SIZE = [f"simulated.{key}={value}" for key, value in {"users": 120, "items": 400, "events": 9000, "topics": 4}.items()]
MODEL = [f"unisar.{key}={value}" for key, value in {"max_steps": 6, "check_every": 3, "d": 16, "embedding": 16}.items()]
SMALL = (*DATA, *(word for setting in SIZE + MODEL for word in ("--set", setting)), "--models", "unisar")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def analyze(bench, tmp_path, data):
    """Runs one analysis of a small UniSAR; gives the folder with its files."""

    def run(name: str, *words: str) -> Path:
        done = bench(
            "analyze", name, *SMALL, *words, "--out", tmp_path / "out", "--data", data, "--to", tmp_path / name
        )
        assert (done.exit_code, done.stdout) == (0, ""), done.output
        assert "MLflow was not written" not in done.stderr
        return tmp_path / name

    return run


def test_mutual_information_and_space_of_one_fit(analyze) -> None:
    folder = analyze("mi", "--negatives", "3", "--steps", "40", "--paper")
    assert {path.name for path in folder.iterdir()} >= {"mi.csv", "mi.tex", "mi.png", "mi.pdf", "analysis.json"}
    rows = lines(folder / "mi.csv")
    assert [row["task"] for row in rows] == ["rec", "search"]
    assert all(0 <= float(row["exact"]) <= float(row["entropy"]) <= 0.6932 for row in rows)
    assert len(lines(folder / "mi-published.csv")) == 8
    facts = json.loads((folder / "analysis.json").read_text())
    assert facts["settings"]["negatives"] == 3 and "exceed ln 2" in " ".join(facts["remarks"])

    folder = analyze("space", "--tsne-seeds", "2", "--seeds", "0,1")
    assert (folder / "space-unisar.png").stat().st_size > 10_000
    rows = lines(folder / "space.csv")
    assert [row["space"] for row in rows] == ["views", "input", "hidden"] and rows[0]["seeds"] == "2"
    for value in ("overlap", "principal components"):
        assert all(
            0 <= float(row[f"{value} low"]) <= float(row[value]) <= float(row[f"{value} high"]) <= 1 for row in rows
        )
    assert {row["seed"] for row in lines(folder / "space-points.csv")} == {"0"}
    assert not (folder / "space-points.tex").exists()  # a table of thousands of points is for no paper


def test_two_models_are_compared_over_seeds(analyze) -> None:
    words = ("--models", "unisar,jsr", "--set", "jsr.max_steps=6", "--seeds", "0,1")
    rows = lines(analyze("mi", *words, "--negatives", "3", "--steps", "40") / "mi-differences.csv")
    assert [(row["task"], row["value"]) for row in rows] == [
        (task, value) for task in ("rec", "search") for value in ("mine", "exact")
    ]
    assert all(
        {row["first"], row["second"]} == {"UniSAR", "JSR (re-implementation)"} and row["seeds"] == "2" for row in rows
    )
    rows = lines(analyze("gradients", *words, "--batches", "2") / "gradients-differences.csv")
    assert [row["value"] for row in rows] == ["between", "gap", "negative"]


def test_figures_are_drawn_anew_from_the_tables(analyze, bench, error, tmp_path) -> None:
    for name, words in {
        "space": ("--tsne-seeds", "1"),
        "gradients": ("--batches", "2"),
        "sweep": ("--grid", "unisar.lr=0.0001,0.01"),
        "mi": ("--negatives", "3", "--steps", "40"),
    }.items():
        folder = analyze(name, *words)
        drawn = {path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".pdf", ".tex")}
        assert len({path.suffix for path in drawn}) == 3
        for path in drawn:
            path.unlink()
        done = bench("analyze", "draw", folder)
        assert sorted(done.stdout.split()) == sorted(map(str, drawn)), done.output
        assert {path for path in drawn if path.suffix != ".pdf" and path.read_bytes() != drawn[path]} == set()
    (folder / "mi.csv").write_text("model\n")
    assert "holds no analysis that can be drawn" in error(1, "analyze", "draw", folder)
    assert "holds no analysis that can be drawn" in error(1, "analyze", "draw", tmp_path)


def test_gradients_at_every_check(analyze) -> None:
    folder = analyze("gradients", "--batches", "2", "--parameters", "*encoders*")
    rows = lines(folder / "gradients-steps.csv")
    assert [int(row["step"]) for row in rows] == [3, 3, 6, 6]
    assert all(-1 <= float(row["between"]) <= 1 for row in rows)


def test_gradients_keep_to_the_threads_that_are_asked_for(analyze, monkeypatch) -> None:
    import torch

    seen = set()
    look = Probe.look

    def watched(self, *args):
        seen.add(torch.get_num_threads())
        look(self, *args)

    monkeypatch.setattr(Probe, "look", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        analyze("gradients", "--batches", "1")
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_a_sweep_compares_each_value_with_the_default(analyze) -> None:
    folder = analyze("sweep", "--grid", "unisar.lr=0.0001,0.01", "--seeds", "0,1")
    rows = lines(folder / "sweep.csv")
    assert [row["variant"] for row in rows if row["task"] == "rec"] == ["default", "lr=0.0001", "lr=0.01"]
    assert all(row["seeds"] == "2" for row in rows)
    assert all(float(row["p"]) <= float(row["p_holm"]) for row in rows if row["p"])


def test_a_sweep_side_by_side_gives_the_same_and_fits_the_default_once(analyze, tmp_path) -> None:
    words = ("--grid", "unisar.lr=0.0001,0.001,0.01", "--seeds", "0,1")  # .001 is the default
    one_by_one = (analyze("sweep", *words) / "sweep.csv").read_text()
    tested = {row["variant"] for row in lines(tmp_path / "sweep" / "sweep.csv") if row["p"]}
    assert tested == {"lr=0.0001", "lr=0.01"}  # the default is not tested against itself
    shutil.rmtree(tmp_path / "out")
    assert (analyze("sweep", *words, "--jobs", "2") / "sweep.csv").read_text() == one_by_one
    store = Store(tmp_path / "out")
    assert len(store.commands()[-1].runs) == len(list(store.root.glob("simulated/*/run.json"))) == 6


def test_a_variant_that_fails_is_named(bench, tmp_path, data) -> None:
    words = ("--grid", "unisar.lr=0.01", "--jobs", "1", "--time-limit", "0.01")
    done = bench("analyze", "sweep", *SMALL, *words, "--out", tmp_path / "out", "--data", data)
    assert done.exit_code == 1 and "unisar with default: simulated" in done.stderr, done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mi", "--models", "popularity"), "popularity has no representation"),
        (("space", "--models", "lightgcn"), "lightgcn serves rec only"),
        (("gradients", "--models", "unisar", "--tasks", "rec"), "unisar serves rec only"),
        (("sweep", "--models", "unisar", "--grid", "unisar.sped=1"), "unknown setting of unisar in --grid 'sped'"),
        (("sweep", "--models", "unisar", "--grid", "unisar.lr"), "expected MODEL.KEY=A,B,C"),
        (("sweep", "--models", "unisar", "--grid", "din.lr=1"), "unknown model in --grid 'din'"),
        (("sweep", "--models", "unisar"), "no grid given"),
        (("ablation", "--models", "lightgcn"), "lightgcn declares no ablations"),
    ],
)
def test_what_cannot_be_analysed_is_said_in_one_line(words, message, error, tmp_path) -> None:
    assert message in error(2, "analyze", *words, "--out", tmp_path)


def test_the_lemma_needs_no_data(bench, tmp_path) -> None:
    done = bench("analyze", "lemma", "--out", tmp_path, "--dimensions", "3")
    assert done.exit_code == 0 and "the inequality fails in" in done.stdout
    assert len(lines(tmp_path / "analyses" / "lemma" / "lemma.csv")) == 5
