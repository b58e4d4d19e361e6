"""Data sources: one file each, raw files in, a Log out."""

from pathlib import Path
from typing import Any

from bench.data.log import Log


def load(name: str, root: str | Path | None = None, **options: Any) -> Log:
    """The prepared Log of a data set, e.g. `load("ml-100k", mode="mirror")`; see `bench data list`."""
    from bench.data import sources

    return sources.load(name, options, root)
