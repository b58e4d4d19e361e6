"""What fails in `bench run`: a failure stays with its model, is one line with its remedy, and nothing is half-written."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.ranker import registry

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)


BROKEN = """
import torch
from bench.ranker.contract import Ranker
from bench.ranker.registry import register

class _Base(Ranker):
    def fit(self, train, valid):
        return {"epochs": 0}
    def state(self):
        return {"w": torch.zeros(1)}
    def load_state(self, state):
        pass

@register("not-a-number", title="NaN", tasks=("rec", "search"), group="unified")
class NotANumber(_Base):
    def score(self, batch):
        return torch.full(batch.cand.shape, float("nan"))

@register("wrong-shape", title="Shape", tasks=("rec", "search"), group="unified")
class WrongShape(_Base):
    def score(self, batch):
        return torch.zeros(len(batch), 7)

@register("crashing", title="Crash", tasks=("rec", "search"), group="unified")
class Crashing(_Base):
    def fit(self, train, valid):
        raise ValueError("no such luck")
    score = None.__class__

@register("constant", title="Constant", tasks=("rec", "search"), group="unified")
class Constant(_Base):
    def score(self, batch):
        return torch.zeros(batch.cand.shape)
"""


@pytest.fixture
def broken_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four models of somebody else, three of them broken."""
    package = tmp_path / "broken_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "four.py").write_text(BROKEN)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setattr(registry, "PACKAGES", (*registry.PACKAGES, "broken_models"))
        registry.entries.cache_clear()
        yield
    registry.entries.cache_clear()


def test_a_broken_model_does_not_stop_the_others(results, broken_models) -> None:
    done = results.run("--models", "not-a-number,wrong-shape,crashing,constant")
    assert done.exit_code == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(":")[1].strip().partition("/")[2].rpartition("-s0")[0] for line in failed] == [
        "not-a-number",
        "wrong-shape",
        "crashing",
    ]
    assert "not-a-number returned the score nan in row 0, candidate 0" in failed[0]
    assert "wrong-shape returned scores of shape (256, 7)" in failed[1]
    assert "ValueError: no such luck" in failed[2] and "--debug" in failed[2]
    assert "1 finished (1 new), 3 failed; results in" in done.stdout
    there = {path.name for path in (results.out / "ml-100k").iterdir() if path.is_dir()}
    assert not [name for name in there if name.startswith(("not-a-number", "wrong-shape", "crashing"))]
    # The constant scorer is at chance exactly, and the table shows it beside what was there.
    records = json.loads(results.bench("table", "--format", "json", "--metrics", "R@5,R@10").stdout)
    means = {(r["model"], r["task"], r["metric"]): r["mean"] for r in records}
    assert means["constant", "rec", "R@5"] == pytest.approx(0.05) and means[
        "constant", "search", "R@10"
    ] == pytest.approx(0.10)
    assert means["popularity", "rec", "R@5"] > 0
    broken = [r for r in records if r["model"] in ("not-a-number", "wrong-shape", "crashing")]
    assert {r["model"] for r in broken} == {"not-a-number", "wrong-shape", "crashing"}
    assert all(r["mean"] is None and r["did_not_finish"] for r in broken)


def test_debug_stops_at_the_broken_model_with_its_trace(results, broken_models) -> None:
    done = results.run("--models", "crashing", "--debug")
    assert done.exit_code == 1
    assert "in fit\n" in done.stderr and "ValueError: no such luck" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "popularity.colour=red"], "unknown setting of popularity 'colour'"),
        (["--set", "poplarity.x=1"], "did you mean popularity"),
        (["--set", "ml-100k.querys=A"], "unknown setting of ml-100k 'querys'; did you mean queries?"),
        (["--set", "ml-100k.queries=Z"], "ml-100k.queries"),
        (["--set", "train.epochs=1"], "unknown setting of train 'epochs'"),
        (["--set", "ml-100k.seed={a: "], "'{a: ' is not readable"),
        (["--set", "ml-100k.seed={a: 1}"], "'{a: 1}' is a mapping"),
        (["--set", "ml-100k.seed=2020-13-45"], "'2020-13-45' is not readable"),
        (["--set", "ml-100k.seed=2020-12-24"], "'2020-12-24' is a date"),
        (["--set", "ml-100k.seed=[[1]]"], "expected a number, true or false, text or a list"),
        (["--set", "ml-100k.seed=!!python/object:os.system {}"], "is not readable"),
        (["--set", "ml-100k.seed=\x07[1"], "is not readable"),
        (["--mode", "both"], "'disjoint' or 'mirror'"),
        (["--split", "random"], "unknown split 'random'; known: leave-one-out"),
        (["--device", "cuda:99"], "use --device cpu"),
        (["--device", "quantum"], "unknown device 'quantum'"),
    ],
)
def test_a_wrong_setting_starts_nothing(results, words: list[str], expected: str) -> None:
    before = results.files()
    done = results.run("--models", "popularity", *words)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and expected in line
    assert results.files() == before


def test_a_results_folder_that_cannot_be_written(error, data: Path) -> None:
    Path("taken").write_text("")
    line = error(1, "run", "--models", "popularity", "--out", "taken/results", "--data", data)
    assert "cannot write to the results folder" in line and "--out" in line


def test_a_full_disk_fails_the_run_and_keeps_what_is_there(results, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = results.files()
    with monkeypatch.context() as patch:
        patch.setattr("bench.evaluation.ranks.pq.write_table", full)
        done = results.run("--models", "popularity,matcher", "--seeds", "7")
    assert done.exit_code == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2 and all("No space left on device" in line and "--out" in line for line in failed)
    after = results.files()
    assert before.items() <= after.items()
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"commands"}


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "manifest"])
def test_a_damaged_log_is_named_with_its_remedy(results, tmp_path: Path, damage: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(results.data / "prepared", root / "prepared")
    (folder,) = [
        path.parent
        for path in root.glob("prepared/ml-100k-*/manifest.json")
        if json.loads(path.read_text())["mode"] == "disjoint"
    ]
    path = folder / ("manifest.json" if damage == "manifest" else "events.parquet")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:half] if damage != "changed" else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        )
    done = results.bench("run", "--models", "popularity", "--data", root, "--threads", "1")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert str(path) in line and "bench data prepare" in line


def test_prepare_mends_a_damaged_log(bench, data: Path, tmp_path: Path) -> None:
    words = ("data", "prepare", "ml-100k", "--data", tmp_path)
    first = bench(*words)
    assert first.exit_code == 0, first.output
    folder = Path(first.stdout.splitlines()[1].split()[-1])
    (folder / "events.parquet").write_bytes(b"")
    assert bench(*words).exit_code == 1
    mended = bench(*words, "--force")
    assert (mended.exit_code, mended.stdout) == (0, first.stdout)


def test_check_fails_with_exit_code_1(bench, monkeypatch) -> None:
    from bench.testing import Report, Result

    reports = {
        "popularity": Report("popularity", [Result("finite", "passed", "all scores are finite")]),
        "matcher": Report("matcher", [Result("finite", "failed", "row 3 is NaN")]),
    }
    monkeypatch.setattr("bench.testing.check", reports.get)
    assert bench("models", "check", "popularity").exit_code == 0
    done = bench("models", "check", "popularity", "matcher")
    assert done.exit_code == 1 and "row 3 is NaN" in done.stdout and done.stderr == ""


def test_what_finds_nothing_to_read_fails_where_it_was_named_and_is_left_out_of_a_group(results, tmp_path) -> None:
    rows = [
        f"u{user},i{(user * 7 + place) % 150},{1_600_000_000_000 + place},search,"
        for user in range(40)
        for place in range(6)
    ]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events.csv").write_text("\n".join(["user,item,time,task,query", *(r + "q1" for r in rows)]))
    (tmp_path / "log" / "queries.csv").write_text("query,text\nq1, \n")
    words = ("run", "--dataset", f"log:{tmp_path / 'log'}", "--data", results.data, "--out", tmp_path / "out")
    group = CliRunner().invoke(main, [*map(str, words), "--models", "popularity"])
    assert group.exit_code == 0, group.output
    assert "bm25 (seed 0): left out: the items of log:log have no words for bm25 to match" in group.stdout
    assert "0 failed" in group.stdout
    named = CliRunner().invoke(main, [*map(str, words), "--models", "bm25", "--no-trivial"])
    assert named.exit_code == 1 and "have no words for bm25 to match" in named.stderr


def test_a_record_of_another_format_is_one_line(results) -> None:
    path = next((results.out / "ml-100k").glob("popularity-*/run.json"))
    old = json.loads(path.read_text())
    for evaluation in old["evaluations"].values():
        del evaluation["sha256"]
    path.write_text(json.dumps(old | {"format": 1}))
    done = results.bench("table", "--format", "json")
    # The other runs are shown, and what is left out is said.
    assert done.exit_code == 0 and {record["model"] for record in json.loads(done.stdout)} == {"matcher"}
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: ") and "has format 1, this version reads" in line and str(path) in line
