"""Where and with what a result was made: evidence beside every run, never part of its key."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("bench", "torch", "transformers", "numpy", "scipy", "pandas", "pyarrow", "mlflow", "ray", "recbole", "bm25s")
_FLOORS = ("data", "evaluation", "ranker")


def versions() -> dict[str, str | None]:
    """Version of each package that can touch a number; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@cache
def facts() -> dict[str, Any]:
    """Packages, hardware, code version."""
    import psutil
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "packages": versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        **code_version(),
    }


def code_version() -> dict[str, Any]:
    """Commit of the checkout that this package is imported from and whether it has changes; None outside of one."""
    folder = Path(__file__).resolve().parent.parent
    commit = _git(folder, "rev-parse", "HEAD")
    # Only a checkout of this project counts, not a repository that happens to hold the environment.
    if commit is None or _git(folder, "ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def command_line() -> str:
    """The command as typed, with the program's name instead of its path."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def source_hash(module: str) -> str:
    """Hash of the sources that decide a fit: the model's package folder siblings are not part of it, the floors below are.

    Covers the model's own module, every module of its package that it imports, and bench.data, bench.evaluation and
    bench.ranker.
    """
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    paths = [path for floor in _FLOORS for path in sorted((root / floor).rglob("*.py"))]
    for path in paths:
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    for name in sorted(_own_modules(module)):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            digest.update(name.encode() + Path(spec.origin).read_bytes())
    return digest.hexdigest()[:16]


def _own_modules(module: str) -> set[str]:
    """The module and those of its package that it imports, directly or not."""
    package = module.rpartition(".")[0]
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        loaded = sys.modules.get(name)
        for value in list(vars(loaded).values()) if loaded else []:
            origin = getattr(value, "__module__", None) or (value.__name__ if hasattr(value, "__path__") else "")
            if isinstance(origin, str) and package and origin.startswith(package + "."):
                waiting.append(origin)
    return found


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
