"""Facts for `bench doctor`: what is installed and where, what is missing and how to get it."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.data import sources
from bench.errors import BenchError
from bench.ranker import registry
from bench.store import environment
from bench.store.results import Store

_INSTALL = {"recbole": "pip install --no-deps recbole==1.2.1  (ml-100k and the recbole: models need it)"}
_ROOM = 2 * 2**30  # a run keeps its weights; below this somebody should know
_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """One fact. `ok` is False where something is missing or broken; `hint` says how to get it."""

    topic: str
    name: str
    value: str
    ok: bool = True
    hint: str = ""


def examine(out: str | Path = "results/local", data: str | Path | None = None) -> list[Finding]:
    """All facts. Changes nothing: no folder is made, no data are prepared, nothing is downloaded."""
    root = sources.data_root(data)
    return [
        *_packages(),
        *_devices(),
        *_folder("data", "data folder", root, "--data or BENCH_DATA"),
        *_datasets(data),
        *_models(),
        *_backbones(),
        *_folder("results", "results folder", Path(out).resolve(), "--out"),
        *_runs(out),
    ]


def _packages() -> list[Finding]:
    code = environment.code_version()
    commit = f", commit {code['commit'][:12]}{' with changes' if code['dirty'] else ''}" if code["commit"] else ""
    found = [
        Finding("versions", "python", platform.python_version(), sys.version_info >= _PYTHON, ""),
        Finding("versions", "system", platform.platform()),
    ]
    for name, version in environment.versions().items():
        extra = commit if name == "bench" else ""
        hint = "" if version else _INSTALL.get(name, f"pip install {name}")
        found.append(Finding("versions", name, f"{version or 'not installed'}{extra}", version is not None, hint))
    return found


def _devices() -> list[Finding]:
    import psutil
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    found = [
        Finding(
            "devices", "cpu", f"{usable} of {os.cpu_count()} cores usable, torch uses {torch.get_num_threads()} threads"
        ),
        Finding("devices", "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
    ]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(number)
        found.append(Finding("devices", f"cuda:{number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        found.append(Finding("devices", "mps", "there (not chosen by --device auto)"))
    if len(found) == 2:
        found.append(Finding("devices", "cuda", "none (not needed; --device auto is the CPU)"))
    return found


def _datasets(data: str | Path | None) -> list[Finding]:
    found = []
    for name, entry in sources.entries().items():
        if name.endswith(":"):
            found.append(Finding("data", f"{name}<argument>", f"{entry.title}; says what is missing when it is used"))
            continue
        try:
            files = sources.open_source(name, root=data).raw_files()
        except BenchError as error:
            found.append(Finding("data", name, "not there", False, str(error)))
            continue
        except ImportError as error:
            found.append(Finding("data", name, f"cannot be imported: {error}", False, f"see {entry.target}"))
            continue
        prepared = sorted(
            path.name for path in (sources.data_root(data) / "prepared").glob(f"{name}-*") if path.is_dir()
        )
        state = (
            f"prepared {len(prepared)} time{'s' if len(prepared) > 1 else ''}"
            if prepared
            else "prepared at its first use"
        )
        found.append(Finding("data", name, f"{len(files)} raw files there, {state}"))
    return found


def _models() -> list[Finding]:
    entries = registry.entries().values()
    others = sorted({entry.package for entry in entries} - {"bench"})
    from_others = f", with those of {', '.join(others)}" if others else ""
    return [Finding("models", "registered", f"{len(list(entries))}{from_others}; `bench models` lists them")]


def _backbones() -> list[Finding]:
    from bench.ranker import backbone_names as backbone

    there = backbone.available(backbone.PRETRAINED)
    hint = (
        ""
        if there
        else f"hf download {backbone.PRETRAINED}, or BENCH_DOWNLOAD=1 for one run; until then {backbone.SMALL} is used"
    )
    return [
        Finding("backbones", backbone.PRETRAINED, "there" if there else "not on this machine", there, hint),
        Finding("backbones", backbone.SMALL, "built on the spot, its tokenizer trained on the data's text"),
    ]


def _folder(topic: str, name: str, path: Path, option: str) -> list[Finding]:
    """Whether a folder can be written, looked up on the nearest folder that exists."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable:
        why = "is a file" if not existing.is_dir() else "cannot be written"
        return [Finding(topic, name, f"{path}: {existing} {why}", False, f"choose another with {option}")]
    free = shutil.disk_usage(existing).free
    state = "there" if existing == path else "made when it is needed"
    hint = f"little room is left; make some or choose another with {option}" if free < _ROOM else ""
    return [Finding(topic, name, f"{path} ({state}, {free / 2**30:.1f} GiB free)", not hint, hint)]


def _runs(out: str | Path) -> list[Finding]:
    root = Path(out).resolve()
    if not root.is_dir():
        return [Finding("results", "runs", "none yet")]
    try:
        finished = len(list(Store(out).runs()))
    except BenchError as error:
        return [Finding("results", "runs", "not all readable", False, str(error))]
    unfinished = len(list(root.glob("*/*.part")))
    resumes = f", {unfinished} unfinished (the same command goes on with them)" if unfinished else ""
    return [Finding("results", "runs", f"{finished} finished{resumes}")]
