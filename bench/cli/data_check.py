"""`bench data check`."""

from pathlib import Path

import click

from bench.cli import options
from bench.errors import RunError, UsageError


@click.command("check", short_help="Say all that is wrong with a folder of own logs.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.debug
def check(folder: Path) -> None:
    """Look at a folder of own logs before `bench run --dataset log:DIR` uses it.

    The folder holds events, items, queries and users as CSV or Parquet. Every problem is a line with file, row and
    column; in a CSV the header is row 1.
    """
    from bench.datasets.own_log.check import inspect

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = inspect(folder)
    for problem in found.problems:
        print(problem)
    for note in found.notes:
        print(f"note: {note}")
    if found.problems:
        raise RunError(
            f"{folder} cannot be used yet: {len(found.problems)} problem{'s' * (len(found.problems) > 1)}, listed above"
        )
    print(f"{folder} is in order: {found.summary()}")
    print(f"use it with --dataset log:{folder}")
