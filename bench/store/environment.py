"""Where and with what a result was made: evidence beside every run, never part of its key."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    "bench",
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "mlflow",
    "ray",
    "recbole",
    "bm25s",
)


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
    """The command as it can be typed into a shell, with the program's name instead of its path."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
