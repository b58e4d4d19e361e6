"""`bench data check`."""

from pathlib import Path

import click

from bench.cli import options
from bench.errors import RunError, UsageError


@click.command("check", short_help="Say all that is wrong with a folder of own logs.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@options.debug
def check(folder: Path) -> None:
    """Look at a folder of own logs before `bench run --dataset log:DIR`.

    The files are events, items, queries and users, as CSV or Parquet. Every problem is a line with file, row and column;
    in a CSV the header is row 1. Notes stop nothing: they say what the split and the candidates will make of the log.
    """
    from bench.datasets.own_log.check import inspect

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    inspection = inspect(folder)
    for problem in inspection.problems:
        print(problem)
    for note in inspection.notes:
        print(f"note: {note}")
    if count := len(inspection.problems):
        raise RunError(f"{folder} cannot be used yet: {count} problem{'s' * (count > 1)}, listed above")
    ready = "is in order" if inspection.has_test_rows else "can be read, but its default split has no test rows"
    print(f"{folder} {ready}: {inspection.summary()}")
    print(f"use it with --dataset log:{folder}")
