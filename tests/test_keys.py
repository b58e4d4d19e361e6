"""Keys change with the sources that a result depends on, and with no other; tried on a copy of the tree."""

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import import_closure
from bench.experiments.code_hash import builder_sources, module_sources
from bench.ranker.blocks import graph

FOLDERS = {"": "bench", "models": "bench.models", "baselines": "bench.baselines", "datasets": "bench.datasets"}
# Prints the keys of all models by name: of the tree as it is, and with each of the given files edited.
CODE = """
import json, pathlib, sys
from bench.experiments.code_hash import fit_sources
from bench.ranker import registry

def keys():
    modules = {name: entry.target.partition(":")[0] for name, entry in registry.entries().items()}
    fit_sources.cache_clear()
    return {name: fit_sources(module) for name, module in modules.items()}

answer = {"": keys()}
for name in sys.argv[1:]:
    path = pathlib.Path("bench", name)
    original = path.read_bytes()
    path.write_bytes(original + b"# edited")
    answer[name] = keys()
    path.write_bytes(original)
print(json.dumps({"keys": answer, "torch": "torch" in sys.modules, "from": __import__("bench").__file__}))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The four code folders as one package, as in an installed wheel."""
    for folder, package in FOLDERS.items():
        source = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        target = tmp_path / "bench" / folder
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def keys(tree: Path, *edit: str) -> dict[str, dict[str, str]]:
    """Keys by model, by edited file ("" for none)."""
    words = [sys.executable, "-c", CODE, *edit]
    done = subprocess.run(words, cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["from"].startswith(str(tree)) and not answer["torch"]
    return answer["keys"]


def edited(path: Path) -> Path:
    path.write_text(path.read_text() + "\n# edited\n")
    return path


def test_exactly_the_models_that_reach_a_change_get_another_key(tree):
    harness = ("ranker/trainer.py", "evaluation/ranks.py", "data/history.py", "experiments/fitting.py")
    others = ("__init__.py", "store/results.py", "report/table.py")
    models = ("ranker/blocks/graph.py", "baselines/recbole/rows.py", "models/gensr/model.py")
    found = keys(tree, *harness, *others, *models)
    before = found.pop("")
    assert len(before) > 12
    changed = {path: {name for name in before if now[name] != before[name]} for path, now in found.items()}
    assert all(changed[path] == set(before) for path in harness)
    assert not any(changed[path] for path in others)
    readers = {name for name in before if graph.__name__ in import_closure.closure([_module(name)], ["bench"])}
    assert changed["ranker/blocks/graph.py"] == readers and {"gensr", "lightgcn"} <= readers < set(before)
    assert changed["baselines/recbole/rows.py"] == {"din", "gru4rec", "sasrec"}
    assert changed["models/gensr/model.py"] == {"gensr"}

    base = tree / "bench"
    (base / "ranker" / "blocks" / "unrelated.py").write_text("from bench.ranker.blocks import graph\n")
    (base / "baselines" / "unrelated.py").write_text("import bench.ranker.contract\n")
    (base / "models" / "unrelated").mkdir()
    (base / "models" / "unrelated" / "__init__.py").write_text("")
    assert keys(tree) == {"": before}


def _module(name: str) -> str:
    from bench.ranker import registry

    return registry.entries()[name].target.partition(":")[0]


def test_a_cached_table_depends_on_its_builder_and_not_on_who_asks_for_it():
    def build():
        return {}

    build.__module__ = graph.__name__
    assert builder_sources(build) == builder_sources(functools.partial(build, 1)) == module_sources(graph.__name__)
    build.__module__ = "bench.models.gensr.model"
    assert builder_sources(build) != module_sources(graph.__name__)


def test_the_closure_follows_every_form_of_import_that_can_run(tmp_path, monkeypatch):
    package = tmp_path / "toy_package"
    files = {
        "__init__.py": "VERSION = 1\n",
        "start.py": (
            "import toy_package.plain\nfrom toy_package import from_package, NAME\nfrom . import relative\n"
            "from .inner import deep as other\nimport os, json\nfrom typing import TYPE_CHECKING\n"
            "import typing\n"
            "if TYPE_CHECKING:\n    from toy_package import never\nelse:\n    from toy_package import otherwise\n"
            "if typing.TYPE_CHECKING:\n    import toy_package.never\n"
            "def work():\n    try:\n        from toy_package.late import Thing\n    except ImportError:\n        pass\n"
        ),
        "inner/__init__.py": "from .. import circle\n",
        "inner/deep.py": "from . import sister\nfrom ..plain import value\n",
        "inner/sister.py": "",
        "circle.py": "import toy_package.start\n",
        **dict.fromkeys(
            ("plain.py", "from_package.py", "relative.py", "otherwise.py", "late.py", "never.py"), "value = 1\n"
        ),
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    found = import_closure.closure(["toy_package.start"], ["toy_package"])
    inside = {name.removeprefix("toy_package.") for name in found}
    assert inside == {
        "start", "plain", "from_package", "relative", "otherwise", "late", "circle", "inner", "inner.deep", "inner.sister"
    }  # fmt: skip
    assert not [name for name in sys.modules if name.startswith("toy_package")], "nothing was imported"
    before = import_closure.source_hash(["toy_package.start"], ["toy_package"])
    edited(package / "never.py")
    assert import_closure.source_hash(["toy_package.start"], ["toy_package"]) == before
    edited(package / "inner" / "sister.py")
    assert import_closure.source_hash(["toy_package.start"], ["toy_package"]) != before
