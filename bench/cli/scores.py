"""`bench scores`."""

from pathlib import Path
from typing import Any

import click

from bench.cli import open_data as selection
from bench.cli import options


@click.group(
    "scores", cls=options.Group, short_help="Import scores that were computed elsewhere on the same candidates."
)
def command() -> None:
    """Scores of models outside bench."""


@command.command("import", short_help="Rank scores that were computed elsewhere.")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", required=True, metavar="NAME", help="What tables call the model.")
@click.option("--seed", type=int, default=0, metavar="N", help="Seed of the fit that made the scores.  [default: 0]")
@options.one_selection
@options.out
@options.debug
def import_(path: Path, name: str, seed: int, out: Path, **given: Any) -> None:
    """Rank somebody's own scores: columns row, item and score, one line for every line of `bench candidates export`.

    Give the options of the export. Where the file has rows of one task only, the model serves that task.

    \b
    bench scores import scores.parquet --name "My model" --dataset ml-100k
    bench table
    """
    from bench.experiments.score_import import check_name, import_scores
    from bench.store.results import Store

    check_name(name)
    store = Store(out)
    store.check_writable()
    asked = given["tasks"]
    prepared, candidates, _ = selection.open_selection(**given)
    record = import_scores(store, prepared, candidates, path, name, seed, tasks=asked or None)
    extra = "" if str(out) == options.RESULTS else f" --out {out}"
    print(f"{record.id}: {name} on {candidates.label} ({' and '.join(record.tasks)}); `bench table{extra}` shows it")
