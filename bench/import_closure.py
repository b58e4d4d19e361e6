"""Which source files a module consists of, for fingerprints of code.

The import closure of a module is the module and everything that it imports inside given packages, directly or not.
Imports inside functions count. Imports under `if TYPE_CHECKING:` do not, since they never run. A module that is
imported by a name made at run time is not found. Nothing is imported to find out.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path


def own_files(module: str) -> dict[str, Path]:
    """The file of a module and of every module of its own package that it imports, directly or not.

    Args:
        module: full name, "bench.datasets.amazon.source".

    Returns:
        file by module name, sorted by name.
    """
    package = module.rpartition(".")[0]
    return closure([module], [package] if package else [])


def closure(modules: Iterable[str], packages: Iterable[str]) -> dict[str, Path]:
    """The files of modules and of everything that they reach inside `packages`.

    The `__init__` of each reached subpackage counts, since it runs. That of a top-level package does not: it holds the
    version and the public names.

    Args:
        modules: full names; they are part of the result whatever `packages` says.
        packages: full names of packages, "bench".

    Returns:
        file by module name, sorted by name.
    """
    prefixes = tuple(f"{package}." for package in packages)
    files: dict[str, Path] = {}
    specs: dict[str, ModuleSpec | None] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        spec = _spec(module, specs) if module not in files else None
        if spec is None or spec.origin is None:
            continue
        path = files[module] = Path(spec.origin)
        state = path.stat()
        for base, names in _imports(path, state.st_mtime_ns, state.st_size):
            target = _absolute(base, module, spec)
            reached = [target, *(f"{target}.{name}" for name in names)]
            waiting += [name for name in reached if name.startswith(prefixes)]
        parent = module.rpartition(".")[0]
        if parent.startswith(prefixes):
            waiting.append(parent)
    return dict(sorted(files.items()))


def source_hash(modules: Iterable[str], packages: Iterable[str], files: Iterable[Path] = ()) -> str:
    """Hash of the sources in the closure of modules, 16 hex digits.

    Args:
        modules: full names.
        packages: full names of packages that are followed.
        files: further files that count by themselves, without what they import.
    """
    digest = hashlib.sha256()
    for name, path in closure(modules, packages).items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    for path in files:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _imports(path: Path, changed: int, size: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(module, names) of every import statement of a file that can run; the module of a relative one starts with dots.

    The time of the last change (ns) and the size (bytes) are there for the cache.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(_statements(tree))


def _statements(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, ()) for alias in node.names)
    elif isinstance(node, ast.expr):
        return
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        for child in node.orelse:
            yield from _statements(child)
    else:
        for inner in ast.iter_child_nodes(node):
            yield from _statements(inner)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _absolute(name: str, module: str, spec: ModuleSpec) -> str:
    """The full name behind a possibly relative one in `module`."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    is_package = spec.submodule_search_locations is not None
    parts = module.split(".")
    base = parts[: len(parts) - level + is_package]
    return ".".join([*base, *filter(None, [name.lstrip(".")])])


def _spec(module: str, known: dict[str, ModuleSpec | None]) -> ModuleSpec | None:
    """Where a module would be imported from; None where the name is no module (a class, a function).

    What was found before stands in `known`.
    """
    if module not in known:
        known[module] = _searched(module, known)
    return known[module]


def _searched(module: str, known: dict[str, ModuleSpec | None]) -> ModuleSpec | None:
    parent, _, _ = module.rpartition(".")
    locations = None
    if parent:
        above = _spec(parent, known)
        if above is None or above.submodule_search_locations is None:
            return None
        locations = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(module, locations) if find else None
        if spec is not None:
            return spec
    return None
