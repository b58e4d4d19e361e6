"""`bench scores`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import inputs, options
from bench.messages import one_line, shell_word

if TYPE_CHECKING:
    from bench.store.records import RunRecord
    from bench.store.results import Store


@click.group(
    "scores", cls=options.Group, short_help="Import scores that were computed elsewhere on the same candidates."
)
def command() -> None:
    """Scores of models outside bench."""


@command.command("import", short_help="Rank scores that were computed elsewhere.")
@click.argument("path", type=options.PATH, metavar="FILE")
@click.option("--name", required=True, metavar="NAME", help="What tables call the model.")
@click.option(
    "--seed", type=options.SEED, default=0, metavar="N", help="Seed of the fit that made the scores.  [default: 0]"
)
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
    tasks = given["tasks"] or None
    prepared, candidates, _ = inputs.open_dataset_and_candidates(**given)
    record = import_scores(store, prepared, candidates, path, name, seed, tasks=tasks)
    served = " and ".join(record.tasks)
    print(f"{record.id}: {one_line(name)} on {candidates.label} ({served}); {_where_shown(store, record, out)}")


def _where_shown(store: "Store", record: "RunRecord", out: Path) -> str:
    """The table that holds the scores: the one that `bench table` shows, or one on their own candidates."""
    from bench.errors import UsageError
    from bench.report.comparable import select

    fingerprint = next(iter(record.evaluations))
    dataset = f"--dataset {shell_word(record.dataset['name'])}"
    for words, name, candidates in (
        ("", None, None),
        (f" {dataset} --candidates {fingerprint[:12]}", record.dataset["name"], fingerprint),
    ):
        try:
            groups = select(store, dataset=name, candidates=candidates)
        except UsageError:
            continue  # what stands in the folder does not go into one table
        if any(run.record.id == record.id for group in groups for row in group.rows for run in row.runs):
            return f"`bench table{words}{options.out_hint(out)}` shows it"
    return "no table shows it beside the runs that are there; see `bench runs list`"
