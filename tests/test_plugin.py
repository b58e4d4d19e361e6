"""Somebody else's package: installed beside bench, its model is found, checked and ranked by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json
import bench.testing
from bench.data.training import TrainData
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.evaluation.candidates import draw
from bench.evaluation.scoring import RowValidation, rank
from bench.ranker import registry
from bench.ranker.contract import Context
from bench.testing import planted

entry = registry.entries()["recency"]
cls = registry.get("recency")
data = planted.planted()
model = cls(cls.Config(), Context(data.catalog, tasks=entry.tasks))
class Quiet:
    def evaluate(self, score):
        return {"mean/N@10": 0.0}
model.fit(data.train(entry.tasks), Quiet())
candidates = draw(data.split, "test", entry.tasks, negatives=20)
ranks = rank(model.score, data.batches, candidates, model.window, model="recency")
report = bench.testing.check("recency")
facts = {
    "package": entry.package,
    "target": entry.target,
    "selected": registry.select("recency", ("rec",), trivial=False),
    "of_group": "recency" in registry.select("rec", ("rec",)),
    "rows": len(ranks),
    "expected": len(candidates),
    "failed": report.failed,
    "text": report.text(),
}
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed into it, and nothing else."""
    folder = tmp_path_factory.mktemp("plugin")
    # A copy, for a build leaves files beside the sources.
    left_out = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(Path(__file__).parent / "plugin", folder / "source", ignore=left_out)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(code: str, path: Path | None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


def test_model_of_another_package_runs_by_name(installed):
    done = python(SCRIPT, installed)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["package"] == "bench-example" and seen["target"] == "bench_example:Recency"
    assert seen["selected"] == ["recency"] and seen["of_group"]
    assert seen["rows"] == seen["expected"] > 0
    assert seen["failed"] == [], seen["text"]


def test_command_line_lists_it(installed):
    done = python("from bench.cli.main import main; main(['models', '--format', 'json'])", installed)
    assert done.returncode == 0, done.stderr
    record = next(entry for entry in json.loads(done.stdout) if entry["name"] == "recency")
    assert record["package"] == "bench-example"


def test_without_the_package_there_is_no_such_model():
    code = "from bench.ranker import registry\nassert 'recency' not in registry.entries()\nregistry.get('recency')"
    done = python(code, None)
    assert done.returncode != 0 and "unknown model 'recency'" in done.stderr
