"""`bench scores`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import inputs, options
from bench.messages import one_line, shell_word

if TYPE_CHECKING:
    from bench.store.records import RunRecord
    from bench.store.results import Store


@click.group("scores", cls=options.Group, short_help="Import scores that were computed elsewhere; export best lists.")
def command() -> None:
    """Scores of models outside bench."""


@command.command("import", short_help="Rank scores that were computed elsewhere.")
@click.argument("path", type=options.PATH, metavar="FILE")
@click.option("--name", required=True, metavar="NAME", help="What tables call the model.")
@click.option(
    "--seed", type=options.SEED, default=0, metavar="N", help="Seed of the fit that made the scores.  [default: 0]"
)
@click.option("--top", is_flag=True, help="FILE holds the best items of each row only: see below.")
@options.one_selection
@options.out
@options.debug
def import_(path: Path, name: str, seed: int, top: bool, out: Path, **given: Any) -> None:
    """Rank somebody's own scores: columns row, item and score, one line for every line of `bench candidates export`.

    A file that ends in .trec is read as a TREC run (query Q0 document rank score name) with rows as queries.

    With --top the file is a TREC run, or one of RecBole (user_id:token, item_id:token, score:float), RecTools (user_id,
    item_id, score or rank) or WarpRec (user_id, item_id, rating), with at least ten candidates a row. Such lists say
    nothing of a clicked item that they lack: MRR, AUC and deeper cut-offs are then left out, and the command says so.

    Give the options of the export. Where the file has rows of one task only, the model serves that task.

    \b
    bench scores import scores.parquet --name "My model" --dataset ml-100k
    bench scores import recs.tsv --name Theirs --top --tasks rec --candidates full --dataset ml-100k
    bench table
    """
    from bench.experiments.score_import import check_name, import_scores
    from bench.store.results import Store

    check_name(name)
    store = Store(out)
    store.check_writable()
    tasks = given["tasks"] or None
    prepared, candidates, _ = inputs.open_dataset_and_candidates(**given)
    record = import_scores(store, prepared, candidates, path, name, seed, tasks=tasks, top=top)
    served = " and ".join(record.tasks)
    for line in record.evidence.get("top lists", ()):
        print(line)
    print(f"{record.id}: {one_line(name)} on {candidates.label} ({served}); {_where_shown(store, record, out)}")


@command.command("export", short_help="Write a run's best lists for trec_eval, ir_measures or ranx.")
@click.argument("run", metavar="RUN")
@click.option("--to", "folder", required=True, type=options.PATH, metavar="DIR", help="Folder for the two files.")
@click.option("--candidates", type=options.Text(), metavar="KIND", help="Where lists on several are kept.")
@click.option("--format", "form", type=click.Choice(["trec"]), default="trec", show_default=True, help="Of the files.")
@options.out
@options.data
@options.debug
def export(run: str, folder: Path, candidates: str | None, form: str, out: Path, data: Path | None) -> None:
    """Write run.trec, the ten best candidates of every row, and qrels.trec, the clicked items.

    The run must keep its lists: `bench run --top-lists`, or `bench evaluate RUN --candidates uniform --top-lists`.
    Metrics up to the cut-off 10 computed from the files are those of `bench table`, but for rows with ties at the
    clicked item: there a list keeps one order, and the table has the mean over all of them.

    \b
    bench scores export popularity-s0 --to exported
    """
    from bench.experiments.trec_export import JUDGEMENTS, RUN, export_run
    from bench.store.results import Store

    record, evaluation, rows = export_run(Store(out), run, folder, candidates, data)
    print(f"{record.id} on {evaluation.label}: {rows:,} rows in {folder / RUN} and {folder / JUDGEMENTS} ({form})")


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
