"""Which sources decide a result: the part of every key that stands for code."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import import_closure

TREE = "bench"
# The harness that trains and ranks, with everything that it imports.
_HARNESS = ("bench.evaluation.scoring", "bench.ranker.contract", "bench.ranker.trainer")
# This one connects a model with data, seeds and files; it counts by itself, since it reaches the whole store.
_FITTING = Path(__file__).with_name("fitting.py")


@functools.cache
def fit_sources(module: str, backbone: bool = False) -> str:
    """Hash of the sources that decide a fit: those that the module of the model reaches, and the harness around it.

    Read once per process, so that an edit while a command works changes nothing for its further jobs.

    Args:
        module: full name of the module that holds the model.
        backbone: whether it reads a language model that the harness loads.

    Returns:
        16 hex digits.
    """
    modules = [module, *_HARNESS, *(["bench.ranker.backbone"] if backbone else [])]
    return import_closure.source_hash(modules, _packages(module), [_FITTING])


def builder_sources(build: Callable[..., Any]) -> str:
    """Hash of the sources that decide a cached table: those that the module of its builder reaches, 16 hex digits.

    Args:
        build: the function; of a `functools.partial` the function inside it.
    """
    while isinstance(build, functools.partial):
        build = build.func
    return module_sources(build.__module__)


def module_sources(module: str) -> str:
    """Hash of the sources that a module reaches, 16 hex digits."""
    return import_closure.source_hash([module], _packages(module))


def _packages(module: str) -> set[str]:
    """Packages that are followed: this tree, and the one that ships the model."""
    return {TREE, module.partition(".")[0]}
