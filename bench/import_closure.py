"""Which source files a module consists of, for fingerprints of code."""

import ast
import importlib.util
from pathlib import Path


def own_files(module: str) -> dict[str, Path]:
    """The file of a module and of every module of its package that it imports, directly or not, by module name."""
    package = module.rpartition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name) if name not in found else None
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        for node in ast.walk(ast.parse(found[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            waiting += [entry for entry in names if package and entry.startswith(f"{package}.") and _exists(entry)]
    return dict(sorted(found.items()))


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # `from package.module import name`: the name is no module
        return False
