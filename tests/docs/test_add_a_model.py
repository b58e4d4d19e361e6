"""The page on adding a model: its models pass the conformance checks, and every block and command on it runs."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bench.testing
from bench.ranker import registry
from bench.ranker.contract import Ranker

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "add-a-model.md").read_text(encoding="utf-8")
BLOCKS = [(language, text) for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)]
COMMANDS = [shlex.split(line) for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


def registered(source: str) -> dict[str, str]:
    """Class of each model that a source registers, by the model's name."""
    return {
        call.args[0].value: node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant)
    }


MODELS = {name: (cls, text) for kind, text in BLOCKS if kind == "python" for name, cls in registered(text).items()}
FRAGMENTS = [text for language, text in BLOCKS if language == "python" and not registered(text)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the import path with the page's models as an installed package `my_package`."""
    folder = tmp_path_factory.mktemp("site")
    package, facts = folder / "my_package", folder / "my_package-1.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("")
    points = "[bench.models]\n"
    for name, (cls, text) in MODELS.items():
        module = name.replace("-", "_")
        (package / f"{module}.py").write_text(text, encoding="utf-8")
        points += f"{name} = my_package.{module}:{cls}\n"
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch):
    """The page's models are installed in this process."""
    monkeypatch.syspath_prepend(site)
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()
    for module in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[module]


def test_every_block_is_run_by_a_test():
    assert {language for language, _ in BLOCKS} == {"python", "toml", "sh"}
    assert not re.search(r"^    bench ", PAGE, re.M), "commands stand in ```sh blocks"
    assert MODELS and COMMANDS and all(command[0] == "bench" for command in COMMANDS)


def test_the_entry_point_leads_to_the_model(site):
    (text,) = (text for language, text in BLOCKS if language == "toml")
    for name, target in tomllib.loads(text)["project"]["entry-points"]["bench.models"].items():
        assert f"{name} = {target}\n" in (site / "my_package-1.dist-info" / "entry_points.txt").read_text()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", MODELS)
def test_the_models_conform(name):
    report = bench.testing.check(name)
    assert report.ok, report.text()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("text", FRAGMENTS)
def test_fragments_run(text):
    """Statements run as they stand; declarations are those of a class and hold what the checks demand of them."""
    attributes: dict[str, object] = {}
    exec(text, attributes)
    declared = {name: value for name, value in attributes.items() if name in vars(Ranker)}
    cls = type("Declared", (registry.get("bprmf"),), declared)
    assert bench.testing.check(cls, only=("exemptions", "budgets")).ok


def test_the_table_of_checks_is_complete():
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(bench.testing.CHECKS)


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="ml-100k comes with RecBole")
@pytest.mark.slow
def test_the_commands_run_and_the_model_beats_popularity(site, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def bench_command(*words: str) -> str:
        command = [sys.executable, "-m", "bench", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for command in COMMANDS:
        bench_command(*command[1:])
    cells = json.loads(bench_command("table", "--format", "json"))
    ndcg = {cell["model"]: cell for cell in cells if (cell["task"], cell["metric"]) == ("rec", "N@10")}
    # Clear of its interval, not only above it.
    assert ndcg["bprmf"]["low"] > ndcg["popularity"]["high"]
