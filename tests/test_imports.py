"""The layers: imports run downwards only, models see nothing of the outside, listing names imports nothing heavy."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("bench", "bench.models", "bench.baselines", "bench.datasets")
# A module belongs to the longest prefix that is here; it may import its own layer and those below.
LAYERS = {
    "bench.errors": 0,
    "bench.messages": 0,
    "bench.files": 0,
    "bench.foreign": 0,
    "bench.plugins": 0,
    "bench.import_closure": 0,
    "bench.data": 1,
    "bench.datasets": 1,
    "bench.evaluation": 2,
    "bench.ranker": 3,
    "bench.testing": 3,
    "bench.models": 3,
    "bench.baselines": 3,
    "bench.store": 4,
    "bench.experiments": 5,
    "bench.report": 6,
    "bench.analysis": 7,
    "bench.audit": 7,
    "bench.api": 8,
    "bench": 8,  # hands out what bench.api holds, when asked
    "bench.cli": 9,
    "bench.__main__": 9,
}
# What a model may not touch: files, processes, the network, tracking, execution, the command line.
OUTSIDE = {
    "click", "glob", "http", "io", "mlflow", "multiprocessing", "os", "pathlib", "pickle", "pooch", "ray", "requests",
    "shutil", "socket", "sqlite3", "subprocess", "tempfile", "urllib",
}  # fmt: skip
# The bridge reads the default settings that RecBole ships as files.
MAY_READ = {"bench.baselines.recbole.data": {"pathlib"}}
HEAVY = {"torch", "mlflow", "ray", "transformers", "recbole", "scipy", "pandas", "sklearn", "statsmodels", "pyarrow"}


def sources() -> dict[str, Path]:
    """Module name -> file, for the four code folders."""
    found = {}
    for package in PACKAGES:
        folder = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        for path in sorted(folder.rglob("*.py")):
            inner = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
            found[".".join([package, *inner])] = path
    return found


MODULES = sources()


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module that an import statement anywhere in the tree names, `from package import module` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, base]).rstrip(".")
            inner = [f"{base}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name in MODULES]
            yield from modules
            if len(modules) < len(inner):
                yield base


def layer(module: str) -> int:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in LAYERS and (prefix != "bench" or module == "bench"):
            return LAYERS[prefix]
    raise AssertionError(f"{module} stands in no layer; add it to LAYERS")


def upward(module: str, source: str, is_package: bool = False) -> list[str]:
    """Imports of a source text that lead to a higher layer."""
    names = {name for name in imported(ast.parse(source), module, is_package) if name.split(".")[0] == "bench"}
    return sorted(name for name in names if layer(name) > layer(module))


def outside(module: str, source: str) -> list[str]:
    """What a model's source reaches for that it must not: modules, and calls that open files."""
    tree = ast.parse(source)
    tops = {name.split(".")[0] for name in imported(tree, module, False)}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = (tops & OUTSIDE) - MAY_READ.get(module, set())
    return sorted(modules) + sorted(calls & {"open", "exec", "eval", "__import__"})


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards_only(module):
    path = MODULES[module]
    assert upward(module, path.read_text(), path.name == "__init__.py") == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("bench.models", "bench.baselines"))])
def test_models_see_nothing_of_the_outside(module):
    assert outside(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not name.startswith(("bench.models", "bench.baselines", "bench.testing"))]
)
def test_the_harness_names_no_model(module):
    path = MODULES[module]
    names = set(imported(ast.parse(path.read_text()), module, path.name == "__init__.py"))
    # `recbole:<Class>` is a name that the registry makes up on the fly.
    allowed = {"bench.baselines.recbole.bridge"} if module == "bench.ranker.registry" else set()
    assert {name for name in names if name.startswith(("bench.models", "bench.baselines"))} <= allowed


def test_the_rules_can_fail():
    assert upward("bench.data.log", "from bench.evaluation import metrics") == ["bench.evaluation.metrics"]
    assert upward("bench.data.log", "def f():\n    import bench.ranker.registry") == ["bench.ranker.registry"]
    assert upward("bench.evaluation.metrics", "from ..store import results") == ["bench.store.results"]
    assert upward("bench.models.x", "import bench.store.results as store") == ["bench.store.results"]
    assert upward("bench.ranker.x", "import bench") == ["bench"]
    assert upward("bench.experiments.x", "def f():\n    from bench.report import table") == ["bench.report.table"]
    assert upward("bench.report.x", "from bench import cli") == ["bench.cli"]
    assert upward("bench.cli.x", "from bench.experiments import run\nfrom bench.data import log") == []
    text = "import os.path\nfrom pathlib import Path\nimport torch\nopen('x')"
    assert outside("bench.models.x", text) == ["os", "pathlib", "open"]


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle of imports as the modules along it, the first repeated at the end; empty where there is none."""
    done: set[str] = set()
    for start in edges:
        path, stack = [], [iter([start])]
        while stack:
            module = next(stack[-1], None)
            if module is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif module in path:
                return [*path[path.index(module) :], module]
            elif module not in done:
                path.append(module)
                stack.append(iter(sorted(edges.get(module, ()))))
    return []


def test_imports_run_in_no_circle():
    edges = {}
    for module, path in MODULES.items():
        tree = without_type_checking(ast.parse(path.read_text()))
        edges[module] = set(imported(tree, module, path.name == "__init__.py")) & set(MODULES) - {module}
    assert circle(edges) == []


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without `if TYPE_CHECKING:` blocks, which are never executed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return tree


def test_a_planted_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bench.x\ndef f():\n    import bench.data.log"
    )
    assert set(imported(without_type_checking(ast.parse(text)), "bench.y", False)) == {"typing", "bench.data.log"}


def test_every_module_is_looked_at():
    known = {"bench", "bench.data.log", "bench.ranker.contract", "bench.testing.conformance", "bench.datasets.ml_100k"}
    assert known <= set(MODULES)
    assert all(layer(module) is not None for module in MODULES)


@pytest.mark.parametrize(
    "statement",
    [
        "import bench",
        "import bench.cli.main",
        "from bench.ranker import registry; assert registry.entries()",
        "from bench.ranker import registry; registry.select('all', ('rec',))",
    ],
)
def test_listing_names_imports_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
