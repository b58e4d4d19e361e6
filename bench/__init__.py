"""A benchmark harness for joint search and recommendation.

In a notebook, with the words of the command line:

    import bench
    bench.run(models="gensr,unisar", dataset="ml-100k")
    bench.table()                      # a pandas DataFrame
    log = bench.datasets.load("ml-100k")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import evaluate as evaluate
    from bench.api import run as run
    from bench.api import table as table

__version__ = "0.1.0"
_API = ("run", "evaluate", "table")


def __getattr__(name: str) -> Any:
    # The command line answers at once because nothing heavy is imported until it is asked for.
    import importlib

    if name in _API:
        return getattr(importlib.import_module("bench.api"), name)
    if name in ("datasets", "models", "baselines", "testing"):
        return importlib.import_module(f"bench.{name}")
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
