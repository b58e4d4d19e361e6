"""Data sources: one file each, raw files in, a Log out."""

from pathlib import Path
from typing import Any

from bench.data.log import Log


def load(name: str, data: str | Path | None = None, **options: Any) -> Log:
    """The prepared Log of a data set, e.g. `load("ml-100k", mode="mirror")`; see `bench data list`.

    Args:
        name: what `--dataset` takes.
        data: folder of raw and prepared data, as in `bench.run(data=...)` and `--data`.
        options: settings of the preparation.

    Raises:
        UsageError: an unknown name or setting.
        RunError: raw files are missing or wrong, or the prepared Log is damaged.
    """
    from bench.data import sources

    return sources.load(name, options, data)
