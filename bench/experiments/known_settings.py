"""The complete settings of models, remembered in the results folder.

A config is a function of the model's sources and of what the user and the data set say. To work it out, the model must be
imported, and torch with it, which takes longer than everything else that a command does when its runs are there.
"""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import import_closure
from bench.errors import RunError
from bench.experiments import settings
from bench.experiments.code_hash import fit_sources
from bench.experiments.settings import Overrides
from bench.files import write_atomically
from bench.plugins import TREE
from bench.ranker import registry

FOLDER = ".settings"
# They decide a config together with the sources that the model reaches.
_OWN = (Path(settings.__file__),)


@dataclass(frozen=True)
class KnownSettings:
    """What a fit is made of, before anything is loaded."""

    config: dict[str, Any]  # every setting of the model
    code: str  # hash of the sources that decide the fit


def model_settings(out: str | Path, name: str, budget: str, overrides: Overrides, dataset: str = "") -> KnownSettings:
    """The complete settings of a model; it is imported only when the results folder does not know them.

    Args:
        out: the results folder.
        name: of the model.
        budget: "quick" or "full".
        overrides: what the user set.
        dataset: the name under which models publish settings for the data.

    Raises:
        UsageError: an unknown setting or a value out of bounds.
    """
    known = registry.entries().get(name)
    # What another package or another library brings may depend on more than the sources that are followed here.
    if known is None or known.package != TREE:
        cls = registry.get(name)
        config = settings.model_config(cls, name, budget, overrides, dataset).model_dump()
        return _completed(config, cls.__module__)
    module = known.target.partition(":")[0]
    parts = {
        "model": known.target,
        "name": name,
        "budget": budget,
        "train": overrides.of(settings.TRAIN),
        "own": overrides.of(name),
        "data set": dataset,
        "code": import_closure.source_hash([module], {TREE}, _OWN),
        "versions": [platform.python_version(), importlib.metadata.version("pydantic")],
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()
    path = Path(out) / FOLDER / f"{name}-{key[:24]}.json"
    remembered = _read(path, key)
    if remembered is None:
        remembered = settings.model_config(registry.get(name), name, budget, overrides, dataset).model_dump()
        _write(path, key, remembered)
    return _completed(remembered, module)


def _completed(config: dict[str, Any], module: str) -> KnownSettings:
    """With the backbone that this machine has, which changes with the machine and is never remembered."""
    config = settings.on_this_machine(config)
    return KnownSettings(config, fit_sources(module, "backbone" in config))


def _read(path: Path, key: str) -> dict[str, Any] | None:
    """The config in a file, if it is exactly what was written for the key."""
    try:
        content = json.loads(path.read_bytes())
        config: dict[str, Any] = content["config"]
        return config if content["sha256"] == _digest(key, config) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, key: str, config: dict[str, Any]) -> None:
    """Keep a config, if JSON gives back what it takes; a folder that cannot be written costs time, never a result."""
    content = {"config": config, "sha256": _digest(key, config)}
    if json.loads(json.dumps(content, default=repr)) != content:
        return
    try:
        write_atomically(path, lambda scratch: scratch.write_text(json.dumps(content)))
    except RunError:
        return


def _digest(key: str, config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([key, config], sort_keys=True, default=repr).encode()).hexdigest()
