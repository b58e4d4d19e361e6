"""Finding what is registered by name: models and data sources, in the tree and in installed packages.

The decorators are read from the source text without importing it, so that listing names is fast; their arguments must
be literals. A package holds each plugin as a file or as a folder of files. Other people's packages add theirs through
an entry-point group.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.foreign import unchanged_process
from bench.messages import first_line

TREE = "bench"


@dataclass(frozen=True)
class Declaration:
    """One decorated class or function. `target` is `module:name`, `package` who ships it, `facts` the keyword arguments."""

    name: str
    target: str
    package: str
    facts: dict[str, Any]


def declarations(kind: str, packages: Sequence[str], group: str, decorator: str) -> dict[str, Declaration]:
    """All plugins of a kind by name, sorted.

    Args:
        kind: "model" or "data set", for messages.
        packages: import packages of this tree whose modules are searched.
        group: entry-point group of other packages.
        decorator: name of the decorator, `register` for `@register("name", key=literal, ...)`.

    Raises:
        RunError: two plugins claim one name, or an entry point leads nowhere.
    """
    known: dict[str, Declaration] = {}
    in_tree = (each for package in packages for each in _of_package(package, decorator))
    outside = (_of_entry_point(point, decorator) for point in importlib.metadata.entry_points(group=group))
    for new in (*in_tree, *outside):
        old = known.setdefault(new.name, new)
        if old is not new:
            raise RunError(
                f"two {kind}s are called '{new.name}': {old.target} ({old.package}) and {new.target} ({new.package}); "
                "rename one of them"
            )
    return dict(sorted(known.items()))


def load(kind: str, name: str, target: str) -> Any:
    """Import what a declaration names; what another package's module does to the process on import is put back.

    Raises:
        RunError: its module or the name in it cannot be imported.
    """
    module, _, attribute = target.partition(":")
    if module.split(".")[0] == TREE:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RunError(f"{kind} '{name}' ({target}) cannot be imported: {first_line(error)}") from error
    try:
        with unchanged_process():
            return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever another package's import ends in
        why = f"{type(error).__name__}: {first_line(error)}"
        raise RunError(f"{kind} '{name}' ({target}) cannot be imported: {why}") from error


def _of_package(package: str, decorator: str) -> Iterator[Declaration]:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    folder = Path(spec.submodule_search_locations[0])
    for path in sorted(folder.rglob("*.py")):
        inner = [part for part in path.relative_to(folder).with_suffix("").parts if part != "__init__"]
        yield from _of_file(path, ".".join([package, *inner]), TREE, decorator)


def _of_file(path: Path, module: str, package: str, decorator: str) -> Iterator[Declaration]:
    try:
        source = path.read_text(encoding="utf-8")
        nodes = ast.parse(source).body if f"@{decorator}(" in source else []
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path} ({package}) cannot be read: {first_line(error)}") from error
    for node in nodes:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                try:
                    name = ast.literal_eval(call.args[0])
                    facts = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
                except (ValueError, IndexError):
                    raise RunError(
                        f"{path}, line {node.lineno}: @{decorator}(...) of {node.name} must have literal arguments, "
                        "a name first"
                    ) from None
                yield Declaration(name, f"{module}:{node.name}", package, facts)


def _of_entry_point(point: importlib.metadata.EntryPoint, decorator: str) -> Declaration:
    package = point.dist.name if point.dist else "unknown package"
    who = f"entry point '{point.name}' of {package}"
    try:
        spec = importlib.util.find_spec(point.module)
    except ModuleNotFoundError:  # its parent package is gone
        spec = None
    if spec is None or spec.origin is None:
        raise RunError(f"{who} names the module {point.module}, which cannot be found")
    for declaration in _of_file(Path(spec.origin), point.module, package, decorator):
        if declaration.target == f"{point.module}:{point.attr}":
            if declaration.name != point.name:
                raise RunError(f"{who} leads to something registered as '{declaration.name}'; make them equal")
            return declaration
    raise RunError(f"{who}: {point.value} carries no @{decorator}(...) with literal arguments")
