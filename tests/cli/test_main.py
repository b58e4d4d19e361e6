"""`bench` answers at once, and says in one line what is wrong."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import __version__
from bench.cli import main as entry

HEAVY = {"torch", "numpy", "pandas", "pyarrow", "mlflow", "ray", "scipy", "transformers", "pydantic", "rich", "yaml"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["data", "--help"], ["tabel"]])
def test_answers_without_heavy_imports(words: list[str]) -> None:
    code = (
        "import sys\nfrom bench.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\nprint(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "bench.cli.main" in loaded
    assert not loaded & HEAVY
    commands = {name for name in loaded if name.startswith("bench.cli.") and name.rpartition(".")[2] in entry.COMMANDS}
    assert commands <= {f"bench.cli.{words[0]}"}


def test_the_table_of_commands_is_true() -> None:
    for name, line in entry.COMMANDS.items():
        command = importlib.import_module(f"bench.cli.{name}").command
        assert (command.name, command.short_help) == (name, line)


def test_help_lists_every_command_and_version_is_there(bench) -> None:
    done = bench("--help")
    assert done.exit_code == 0 and all(f"  {name} " in done.stdout for name in entry.COMMANDS)
    assert bench().stdout == done.stdout
    assert bench("--version").stdout == f"bench {__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tabel"], "did you mean table?"),
        (["runs", "lst"], "did you mean runs list"),
        (["run"], "--models"),
        (["run", "--models", "popularity", "--datset", "x"], "--dataset"),
        (["run", "--models", " , "], "no models given"),
        (["run", "--models", "gensrr"], "unknown model 'gensrr'; did you mean gensr"),
        (["run", "--models", "popularity", "--dataset", "ml-10k"], "unknown data set 'ml-10k'; did you mean ml-100k?"),
        (["run", "--models", "popularity", "--dataset", ""], "no data set given"),
        (["run", "--models", "popularity", "--tasks", "recc"], "unknown task 'recc'; did you mean rec?"),
        (["run", "--models", "popularity", "--candidates", "unifrm"], "did you mean uniform?"),
        (["run", "--models", "popularity", "--seeds", "one"], "--seeds one: expected whole numbers"),
        (["run", "--models", "popularity", "--seeds", ""], "no seeds given"),
        (["run", "--models", "popularity", "--seeds", "0,-1"], "whole numbers from 0"),
        (["run", "--models", "popularity", "--seeds", "1,1"], "1 is there twice"),
        (["run", "--models", "popularity", "--seeds", "2147483648"], "expected whole numbers from 0 to 2147483647"),
        (["run", "--models", "popularity", "--seeds", "9" * 5000], "expected whole numbers from 0 to 2147483647"),
        (["run", "--models", "popularity", "--seeds", "²"], "whole numbers"),
        (["run", "--models", "popularity", "--candidate-seed", "-3"], "--candidate-seed"),
        (["run", "--models", "popularity", "--threads", "100000"], "--threads"),
        (["run", "--models", "popularity", "--threads", "-1"], "--threads"),
        (["run", "--models", "popularity", "--out", ""], "--out': expected a path, got an empty text"),
        (["run", "--models", "popularity", "--data", ""], "--data': expected a path"),
        (["run", "--models", "popularity", "--tracking-uri", " "], "--tracking-uri': expected a value"),
        (["evaluate", "x", "--candidates", "full", "--tracking-uri", ""], "--tracking-uri': expected a value"),
        (["ui", "--tracking-uri", ""], "--tracking-uri': expected a value"),
        (["run", "--config", ""], "--config': expected a path"),
        (["table", "--from", ""], "--from': expected a path"),
        (["table", "--seeds", "0,0"], "--seeds 0,0: 0 is there twice"),
        (["runs", "--out", ""], "--out': expected a path"),
        (["scores", "import", "", "--name", "x", "--dataset", "ml-100k"], "expected a path"),
        (["scores", "import", "x.csv", "--name", "x", "--dataset", "ml-100k", "--seed", "-1"], "--seed"),
        (
            ["scores", "import", "x.csv", "--name", "n" * 400, "--dataset", "ml-100k"],
            "--name: the name has 400 characters",
        ),
        (
            ["scores", "import", "x.csv", "--name", "a\nb", "--dataset", "ml-100k"],
            "--name 'a b': the name holds a line",
        ),
        (["scores", "import", "x.csv", "--name", "\x1b[31mx", "--dataset", "ml-100k"], "--name 'x': the name holds"),
        (["run", "--models", "\x1b[31mred\x07"], "unknown model 'red'"),
        (["run", "--models", "popularity", "--budget", "quik"], "'quick', 'full'"),
        (["run", "--models", "popularity", "--set", "popularity"], "expected NAME.KEY=VALUE"),
        (["run", "--models", "popularity", "--config", "absent.yaml"], "absent.yaml: no such file"),
        (["run", "--models", "query-popularity", "--tasks", "rec"], "serves search, not rec"),
        (["models", "check", "popularit"], "did you mean popularity"),
        (["table", "--out", "nowhere"], "run something first"),
        (["candidates", "export", "--dataset", "ml-100k", "--out", "lists.txt"], ".parquet or .csv"),
        (["scores", "import", "x.csv", "--name", "Popularity", "--dataset", "ml-100k"], "choose another name"),
        (["evaluate", "some-run", "--candidates", "full", "--out", "nowhere"], "no run 'some-run'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(error, words: list[str], expected: str) -> None:
    assert expected in error(2, *words)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("models: null", "models takes a value or a list of them, got None"),
        ("models: {a: b}", "models takes a value or a list of them"),
        ("models: [[a]]", "models takes a value or a list of them"),
        ("models: []", "models takes a value or a list of them"),
        ("models: true", "models takes a value or a list of them"),
        ("models: popularity\ntrivial: {a: b}", "trivial is true or false, got {'a': 'b'}"),
        ("models: popularity\ntrivial: null", "trivial is true or false"),
        ("models: popularity\nquiet: 3", "quiet is true or false"),
        ("models: popularity\nseeds: [0, 0]", "0 is there twice"),
        ("models: popularity\nseeds: -1", "whole numbers from 0"),
        ("models: popularity\nthreads: many", "--threads"),
        ("models: popularity\nbudget: null", "budget takes a value"),
        ("models: popularity\nout: ''", "expected a path"),
        ("models: popularity\nset: {popularity: 3}", "expected NAME: {KEY: VALUE}"),
        ("3: 4", "unknown option in"),
    ],
)
def test_a_config_file_with_values_that_cannot_be_is_one_line(
    error, tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert expected in error(2, "run", "--config", path)
    assert not Path("results").exists()


def test_debug_shows_the_trace(bench) -> None:
    for words in (["--debug", "run", "--models", "gensrr"], ["run", "--models", "gensrr", "--debug"]):
        done = bench(*words)
        assert done.exit_code == 2
        assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("error: unknown model")


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (OSError(28, "No space left on device", "/full"), 1, "error: /full: No space left on device"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero"),
        (MemoryError(), 1, "error: out of memory"),
    ],
)
def test_what_nobody_foresaw_is_one_line(bench, monkeypatch, raised: BaseException, code: int, expected: str) -> None:
    def boom(*_: object) -> None:
        raise raised

    monkeypatch.setattr("bench.experiments.run.run", boom)
    done = bench("run", "--models", "popularity")
    assert done.exit_code == code
    (line,) = done.stderr.split("\n\n")[-1].strip().splitlines()
    assert expected in line


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "bench", "models"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""


def test_models_and_data_sets_are_flat_records(bench) -> None:
    models = json.loads(bench("models", "--format", "json").stdout)
    assert {"name", "title", "tasks", "group", "cite", "package"} <= set(models[0])
    assert {"gensr", "unisar", "popularity"} <= {record["name"] for record in models}
    sets = json.loads(bench("data", "list", "--format", "json").stdout)
    assert next(record for record in sets if record["name"] == "ml-100k")["synthetic"].startswith("queries")
    for record in [*models, *sets]:
        assert all(isinstance(value, (str, int, float, bool, type(None))) for value in record.values())
    text = bench("models", "list").stdout
    assert all(record["title"] in text for record in models)


def test_doctor_says_what_is_missing_and_how_to_get_it(bench, monkeypatch) -> None:
    Path("taken").write_text("")
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, find=importlib.util.find_spec: None if name == "recbole" else find(name),
    )
    done = bench("doctor", "--out", "taken/results", "--format", "json")
    assert done.exit_code == 0, done.output
    found = {record["name"]: record for record in json.loads(done.stdout)}
    assert found["python"]["ok"] and found["torch"]["ok"] and found["small-t5"]["ok"]
    assert not found["ml-100k"]["ok"] and "pip install --no-deps recbole" in found["ml-100k"]["hint"]
    assert not found["results folder"]["ok"] and "--out" in found["results folder"]["hint"]
    assert found["google/flan-t5-base"]["ok"] or "hf download" in found["google/flan-t5-base"]["hint"]
    text = bench("doctor", "--out", "taken/results").stdout
    assert "! ml-100k" in text and "pip install --no-deps recbole" in text


@pytest.mark.parametrize("group", ["audit", "analyze", "tune"])
def test_a_group_without_a_command_shows_its_help(bench, group) -> None:
    done = bench(group)
    assert done.exit_code == 2 and done.stderr.startswith("Usage: ") and "Commands:" in done.stderr
