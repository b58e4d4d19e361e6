"""`bench runs`: what it lists, and that it removes nothing but what was named."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.store.records import RunRecord
from bench.store.results import Store

RUN = "popularity-s0-0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A results folder with one run that has no evaluations."""
    store = Store(tmp_path / "results")
    facts = {"name": "toy", "fingerprint": "7a" * 32, "split": "leave-one-out"}
    words = {"model": "popularity", "title": "Popularity", "group": "trivial", "budget": "quick", "device": "cpu"}
    record = RunRecord(
        id=RUN, fit_key="k", kind="fit", tasks=["rec"], seed=0, config={}, dataset=facts, threads=1, code="c", **words
    )
    store.folder("toy", RUN).mkdir(parents=True)
    store.write(store.folder("toy", RUN), record)
    return store


def bench(store: Store, *words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["runs", *words, "--out", str(store.root)])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("word", [".", "..", "./", "toy", "", "/nowhere/backup/" + RUN, "backup/" + RUN, "nothing"])
def test_nothing_is_removed_for_a_word_that_names_no_run_here(store, tmp_path, monkeypatch, word) -> None:
    monkeypatch.chdir(tmp_path)
    namesake = shutil.copytree(store.folder("toy", RUN), tmp_path / "backup" / RUN)
    code, _, errors = bench(store, "remove", word, "--yes")
    assert code == 2 and errors.startswith("error: ") and len(errors.splitlines()) == 1
    assert store.folder("toy", RUN).exists() and namesake.exists()


@pytest.mark.parametrize("word", [RUN, "pop"])
def test_a_run_with_a_damaged_record_is_named_and_can_be_removed(store, word) -> None:
    path = store.folder("toy", RUN) / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    code, output, errors = bench(store, "list")
    assert code == 0 and "no finished runs" in output
    assert errors.startswith("warning: left out: ") and str(path) in errors and len(errors.splitlines()) == 1
    assert bench(store, "remove", word, "--yes")[0] == 0
    assert not path.parent.exists()


def test_a_run_that_a_process_works_on_is_not_removed(store) -> None:
    with store.locked("toy", RUN):
        code, _, errors = bench(store, "remove", RUN, "--yes")
    assert code == 1 and "another process is working on the run" in errors and store.folder("toy", RUN).exists()


def test_costs_are_per_fit_and_empty_where_a_record_says_nothing(store) -> None:
    folder = store.folder("toy", RUN)
    _, record = store.find(RUN)
    assert bench(store, "costs")[1].splitlines()[-1].split() == ["popularity", "0", "quick", "1"]
    record.fit = {"steps": 1472, "converged": True, "parameters": 235_368, "seconds": 17.24}
    record.peak_memory_mb = 558.4
    store.write(folder, record)
    code, output, _ = bench(store, "costs", "--format", "json")
    (entry,) = json.loads(output)
    assert code == 0 and entry["query_milliseconds"] is None and entry["peak_memory_mb"] == 558.4
    words = bench(store, "costs", "--format", "markdown")[1].splitlines()[-1].replace("|", " ").split()
    assert words == ["popularity", "0", "quick", "1", "1,472", "patience", "235,368", "17.2", "558"]
    assert "no finished runs" in bench(store, "costs", "--dataset", "other")[1]


def test_runs_are_copied_all_or_those_that_were_named(store, tmp_path) -> None:
    there = tmp_path / "published"
    code, output, _ = bench(store, "copy", "--to", str(there))
    assert (code, output) == (0, f"copied 1 run without weights to {there}\n")
    _, output, _ = bench(store, "copy", "pop", "--to", str(there))
    assert output == f"copied 0 runs without weights to {there}; 1 were there already\n"
    assert (there / "toy" / RUN / "run.json").read_bytes() == (store.folder("toy", RUN) / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [(["nothing"], "no run 'nothing'", 2), (["--dataset", "other"], "no finished runs on other", 1)],
)
def test_nothing_to_copy_is_an_error(store, tmp_path, words, said, status) -> None:
    code, _, errors = bench(store, "copy", *words, "--to", str(tmp_path / "published"))
    assert code == status and said in errors and len(errors.splitlines()) == 1


def test_a_results_folder_is_not_copied_into_itself(store) -> None:
    code, _, errors = bench(store, "copy", "--to", str(store.root))
    assert code == 2 and "is the results folder itself" in errors
