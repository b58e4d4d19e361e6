"""`bench run` and what works on its results."""

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.errors import RunError
from bench.ranker import registry
from bench.store.records import read_run, write_record
from bench.store.results import Store, read_lists, read_ranks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)


def test_a_second_run_fits_nothing(results, monkeypatch) -> None:
    monkeypatch.setattr("bench.experiments.fitting.Fitting.fit", lambda *_, **__: pytest.fail("fitted again"))
    before = results.files()
    done = results.run("--models", "popularity,matcher")
    assert done.exit_code == 0, done.output
    assert "popularity (seed 0): there already" in done.stdout
    assert (
        f"2 finished (0 new), 0 failed; results in {results.out}, `bench table --out {results.out}` shows them"
        in done.stdout
    )
    after = results.files()
    assert before.items() <= after.items()
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"commands"}


def test_commands_that_find_everything_there_import_nothing_heavy(results) -> None:
    words = ["--models", "popularity,matcher", "--no-trivial", "--threads", "1", "--data", str(results.data)]
    heavy = {"torch", "scipy", "mlflow", "transformers", "recbole", "huggingface_hub", "matplotlib", "ray"}
    commands: list[tuple[list[str], set[str]]] = [
        (["run", *words], set()),
        (["table"], {"scipy"}),  # the distribution of the t-test
        (["models"], set()),
        (["runs", "list"], set()),
    ]
    for command, needed in commands:
        full = [*command, *([] if command == ["models"] else ["--out", str(results.out)])]
        code = (
            "import sys\nfrom bench.cli.main import main\n"
            f"try:\n    main({full!r})\nexcept SystemExit as end:\n    print(end.code, *sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        status, *modules = done.stderr.splitlines()[-1].split()
        assert status == "0" and heavy & set(modules) <= needed, (command, heavy & set(modules))
        if command[0] == "run":
            assert "2 finished (0 new), 0 failed" in done.stdout


def test_quiet_says_nothing(results) -> None:
    done = results.run("--models", "popularity", "--quiet")
    assert (done.exit_code, done.output) == (0, "")


def test_trivial_models_are_added_and_tasks_choose_them(results, monkeypatch) -> None:
    monkeypatch.setattr(
        "bench.experiments.run._execute_plans",
        lambda request, plan, named, command, *_: pytest.fail(",".join(command.models)),
    )
    words = ("run", "--models", "popularity", "--tasks", "rec", "--dataset", "ml-100k,ml-100k", "--data", results.data)
    with pytest.raises(pytest.fail.Exception) as planned:
        CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    expected = {name for name, entry in registry.entries().items() if entry.group == "trivial" and "rec" in entry.tasks}
    assert set(str(planned.value).split(",")) == expected


def test_a_config_file_uses_the_words_of_the_options_and_the_command_line_wins(bench, results, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "models: [popularity, matcher]\ntrivial: false\nseeds: [3, 4]\ncandidates: popularity\n"
        "set:\n  ml-100k: {queries: A, seed: 1}\n"
    )
    words = (
        "--seeds",
        "5",
        "--models",
        "matcher",
        "--set",
        "ml-100k.seed=0",
        "--out",
        results.out,
        "--data",
        results.data,
    )
    done = bench("run", "--config", path, *words)
    assert done.exit_code == 0, done.output
    new = results.runs()["matcher-s5"]
    assert set(results.runs()) == {"popularity-s0", "matcher-s0", "matcher-s5"} and new["candidates"] == "popularity-99"
    assert json.loads((Path(new["folder"]) / "run.json").read_text())["dataset"]["options"] == {
        "queries": "A",
        "seed": 0,
    }
    path.write_text("modles: popularity\n")
    done = results.run("--config", path)
    assert done.exit_code == 2 and "unknown option in" in done.stderr and "did you mean models" in done.stderr


def test_hints_to_paste_quote_what_a_shell_would_read(results, bench) -> None:
    out = results.out.rename(results.out.with_name("it's (mine)"))
    done = bench(
        "run", "--models", "popularity", "--no-trivial", "--data", results.data, "--threads", "1", "--out", out
    )
    assert done.exit_code == 0, done.output
    words = shlex.split(done.stdout.splitlines()[-1].split("`")[1])
    assert words == ["bench", "table", "--out", str(out)]


def test_two_folders_of_logs_are_told_apart_everywhere(bench, tmp_path: Path) -> None:
    rows = [
        f"u{user},i{(user * 7 + number) % 130},{1_600_000_000_000 + number},rec,"
        for user in range(40)
        for number in range(5)
    ]
    for name in ("shop a", "shop-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.csv").write_text("\n".join(["user,item,time,task,query", *rows]))
        rows = rows[::-1]
    sets = [f"log:{tmp_path / name}" for name in ("shop a", "shop-b")]
    words = ("run", "--models", "popularity", "--no-trivial", "--threads", "1", "--out", tmp_path / "out")
    done = bench(*words, "--dataset", ",".join(sets), "--data", tmp_path / "data")
    assert done.exit_code == 0, done.output
    titles = [f"own logs: {tmp_path / name}" for name in ("shop a", "shop-b")]
    described = [each for each in done.stdout.splitlines() if "test rows" in each]
    assert [each.startswith(title) for each, title in zip(described, titles, strict=True)] == [True, True]
    for form in ("text", "markdown", "latex"):
        # A long path is folded wherever the line ends.
        shown = "".join(bench("table", "--out", tmp_path / "out", "--format", form).stdout.split()).replace("\\", "")
        assert all("".join(title.split()) in shown for title in titles), shown


def test_a_category_stands_in_the_title_of_its_data() -> None:
    from bench.data import sources
    from bench.experiments.prepared_data import PreparedData

    def title(name: str) -> str:
        return PreparedData(name, sources.entry(name), {}, None, None).title  # type: ignore[arg-type]

    assert title("amazon:Musical_Instruments") != title("amazon:Video_Games")
    assert title("amazon:Video_Games").endswith(": Video_Games") and title("ml-100k") == sources.entry("ml-100k").title


def test_table_formats(results) -> None:
    forms = {
        form: results.bench("table", "--candidates", "uniform", "--format", form)
        for form in ("text", "markdown", "latex", "csv", "json")
    }
    assert all(done.exit_code == 0 for done in forms.values())
    assert "\033[" not in forms["text"].stdout and max(map(len, forms["text"].stdout.splitlines())) <= 100
    assert "\\begin{table" in forms["latex"].stdout and "| " in forms["markdown"].stdout
    records = json.loads(forms["json"].stdout)
    assert {"dataset", "task", "model", "metric", "mean", "candidates", "seeds"} <= set(records[0])
    assert forms["csv"].stdout.splitlines()[0].split(",") == list(records[0])
    assert all(isinstance(value, (str, int, float, bool, type(None))) for value in records[0].values())
    elsewhere = json.loads(
        results.bench(
            "table", "--from", results.out, "--candidates", "uniform-99", "--seeds", "0", "--format", "json"
        ).stdout
    )
    assert {record["model"] for record in elsewhere} >= {"popularity", "matcher"}
    done = results.bench("table", "--metrics", "N@10,MMR")
    assert done.exit_code == 2 and "did you mean MRR" in done.stderr


def test_evaluate_ranks_on_further_candidates_without_training(results, monkeypatch) -> None:
    monkeypatch.setattr("bench.experiments.fitting.Fitting.fit", lambda *_, **__: pytest.fail("fitted again"))
    words = ("evaluate", "popularity-s0", "matcher", "--candidates", "popularity,same-query", "--data", results.data)
    done = results.bench(*words)
    assert done.exit_code == 0, done.output
    assert "popularity-99, same-query-99, uniform-99" in done.stdout
    records = json.loads(results.bench("table", "--candidates", "popularity", "--format", "json").stdout)
    # One candidate set for both, though one of them serves search only.
    assert len({record["fingerprint"] for record in records}) == 1
    assert {record["model"] for record in records} == {"popularity", "matcher"}
    with monkeypatch.context() as patch:
        patch.setattr("bench.experiments.fitting.Fitting.rank", lambda *_, **__: pytest.fail("ranked again"))
        assert "is there already" in results.bench(*words).stdout
    # A copy with another seed makes the start of the name ambiguous.
    run = Path(results.runs()["popularity-s0"]["folder"])
    record = read_run(run)
    other = run.with_name(record.id.replace("-s0-", "-s1-"))
    shutil.copytree(run, other)
    write_record(other / "run.json", replace(record, id=other.name, seed=1))
    done = results.bench("evaluate", "popul", "--candidates", "full")
    assert done.exit_code == 2 and "could be" in done.stderr and other.name in done.stderr


def test_runs_are_removed_only_when_asked_for(results) -> None:
    run = results.runs()["matcher-s0"]
    assert run["run"] in results.bench("runs").stdout
    done = results.bench("runs", "remove", "matcher", text="n\n")
    assert done.exit_code == 0 and "nothing removed" in done.stdout and Path(run["folder"]).exists()
    done = results.bench("runs", "remove", "matcher", text="")
    assert done.exit_code == 1 and "--yes" in done.stderr and Path(run["folder"]).exists()
    assert results.bench("runs", "remove", run["folder"], "--yes").exit_code == 0
    assert set(results.runs()) == {"popularity-s0"}


def test_stats_of_a_data_set(bench, data: Path) -> None:
    facts = json.loads(bench("data", "stats", "ml-100k", "--data", data, "--format", "json").stdout)
    found = {record["fact"]: record["value"] for record in facts}
    assert found["test/rec"] == found["test/search"] == 943 and found["users"] == 943
    guards = {name: value for name, value in found.items() if name.startswith("zero:")}
    assert len(guards) == 4 and not any(guards.values())
    assert found["items with text"] == 1 and 45 < found["mean column of the positive"] < 54


def test_mlflow_is_written_without_a_word_and_its_ui_opens_on_the_right_store(results, tracked, monkeypatch) -> None:
    done = results.run("--models", "popularity", "--seeds", "1", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    monkeypatch.setattr("bench.store.mlflow_view.rebuild", lambda store, uri: len(list(store.runs())))
    called: list[list[str]] = []
    monkeypatch.setattr("bench.cli.child_process.run_until_signal", lambda words: called.append(words) or 0)
    done = results.bench("ui", "--rebuild", "--port", "5123")
    assert done.exit_code == 0, done.output
    assert "3 runs in the MLflow store" in done.stdout and "http://127.0.0.1:5123" in done.stdout
    assert f"sqlite:///{results.out}/mlflow/mlflow.db" in called[0] and "5123" in called[0]


HOLDER = """
import sys
from bench.store.results import Store
with Store(sys.argv[1]).locked("ml-100k", sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_works_on_is_waited_for(results) -> None:
    (run,) = (record["run"] for record in results.runs().values() if record["model"] == "popularity")
    words = [sys.executable, "-c", HOLDER, str(results.out), run]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
        timer = threading.Timer(1.5, holder.stdin.close)
        timer.start()
        done = results.run("--models", "popularity")
        assert not timer.is_alive(), "the command did not wait"
    assert done.exit_code == 0, done.output
    assert "another process is working on the run" in done.output


def test_top_lists_are_kept_where_they_are_asked_for(results):
    """A run that was ranked without them is ranked again with --top-lists, to the same ranks, and is not fitted again."""
    folder = Path(results.runs()["popularity-s0"]["folder"])
    store = Store(results.out)
    (before,) = store.read(folder).evaluations.values()
    assert before.lists == "" and read_lists(folder, before) is None
    assert "1 finished (1 new)" in results.run("--models", "popularity", "--top-lists").stdout
    (after,) = store.read(folder).evaluations.values()
    assert after.sha256 == before.sha256
    ranks, lists = read_ranks(folder, after), read_lists(folder, after)
    inside = (lists.items == ranks.item[:, None]).any(1)
    assert inside[ranks.better + ranks.tied < 10].all() and not inside[ranks.better >= 10].any()
    assert "(0 new)" in results.run("--models", "popularity", "--top-lists").stdout
    (folder / after.lists).write_bytes(b"changed")
    with pytest.raises(RunError, match="is not the file that"):
        read_lists(folder, after)


def test_a_copy_without_weights_counts_as_done(results, tmp_path) -> None:
    published = tmp_path / "published"
    results.bench("runs", "copy", "--to", published)
    copied = replace(results, out=published)
    done = copied.run("--models", "popularity,matcher")
    assert done.exit_code == 0 and "2 finished (0 new), 0 failed" in done.stdout
    assert copied.bench("table", "--format", "csv").stdout == results.bench("table", "--format", "csv").stdout
