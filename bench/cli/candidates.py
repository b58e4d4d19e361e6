"""`bench candidates`."""

from pathlib import Path
from typing import Any

import click

from bench.cli import inputs, options
from bench.messages import shell_word


@click.group("candidates", cls=options.Group, short_help="Export the candidate lists, or import your own.")
def command() -> None:
    """The lists that models rank: export them for a model outside bench, or import lists of your own."""


@command.command("export", short_help="Write the lists for a model outside bench.")
@options.one_selection
@click.option("--out", "path", required=True, type=options.PATH, metavar="FILE", help="FILE.parquet or FILE.csv.")
@options.debug
def export(path: Path, **given: Any) -> None:
    """Write the lists as a long table: row, task, user, query, item. Nothing in it tells the clicked item.

    Score every line, keep the columns row and item, add a column score, and `bench scores import` puts the model into
    the table.

    \b
    bench candidates export --dataset ml-100k --out candidates.parquet
    """
    from bench.experiments.candidate_export import check_target, export_candidates

    check_target(path)
    prepared, candidates, tasks = inputs.open_dataset_and_candidates(**given)
    lines = export_candidates(prepared, candidates, path, tasks)
    which = f"candidates {candidates.label} ({candidates.fingerprint[:12]})"
    print(f"{path}: {lines:,} lines for {' and '.join(tasks)}; {which}")


@command.command("import", short_help="Check lists of your own and keep them.")
@click.argument("path", type=options.PATH, metavar="FILE")
@options.dataset
@options.split_and_mode
@options.settings
@options.data
@options.out
@options.debug
def import_(
    path: Path,
    dataset: str,
    split: str | None,
    mode: str | None,
    settings: tuple[str, ...],
    data: Path | None,
    out: Path,
) -> None:
    """Check lists of your own and keep them.

    Columns are row and item, or user, task and item where a user has one row a task. Every test row of a task needs a
    list with its clicked item in it once; a task without any list is left out.
    """
    from bench.evaluation.leaks import FALSE_NEGATIVES
    from bench.store.results import Store

    store = Store(out)
    store.check_writable()
    prepared, candidates, tasks = inputs.open_dataset_and_candidates(
        dataset, split, mode, settings, (), f"given:{path}", 0, data
    )
    candidates.save(store.candidates(prepared.name), prepared.split)
    seen = prepared.leaks(candidates)[FALSE_NEGATIVES]
    which = f"{len(candidates):,} lists for {' and '.join(tasks)} ({candidates.label})"
    print(f"{which}, fingerprint {candidates.fingerprint}")
    if seen:
        print(f"{seen:,} negatives are items that their user clicked elsewhere; every result on these lists says so")
    print(f"rank models on them with --candidates {shell_word(f'given:{path}')}")
