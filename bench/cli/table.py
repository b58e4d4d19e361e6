"""`bench table`."""

import os
import shutil
import sys
from pathlib import Path

import click

from bench.cli import options


@click.command("table", short_help="Compare the models of the newest command, or of --from folders.")
@click.option(
    "--from",
    "from_dirs",
    multiple=True,
    type=options.PATH,
    metavar="DIR",
    help="Results to read; repeatable.",
)
@click.option("--dataset", multiple=True, callback=options.comma_list, metavar="NAMES", help="Only these data sets.")
@click.option(
    "--candidates",
    multiple=True,
    callback=options.comma_list,
    metavar="KINDS",
    help="A kind, a label or the start of a fingerprint.",
)
@click.option("--budget", type=click.Choice(["quick", "full"]), help="Only runs with this budget.")
@click.option(
    "--metrics", multiple=True, callback=options.comma_list, metavar="NAMES", help="Such as N@10,R@20,MRR,AUC."
)
@options.tasks
@click.option("--seeds", callback=options.seeds, metavar="N,N", help="Only runs with these seeds.")
@click.option("--details", is_flag=True, help="Also intervals and tests (text and markdown).")
@options.output_format("text", "markdown", "latex", "csv", "json")
@options.out
@options.debug
def command(
    from_dirs: tuple[Path, ...],
    dataset: tuple[str, ...],
    candidates: tuple[str, ...],
    budget: str | None,
    metrics: tuple[str, ...],
    tasks: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    details: bool,
    form: str,
    out: Path,
) -> None:
    """The comparison: best bold, second underlined, a mark where the best beats the second by a paired test over users.

    Without --from it shows the data set, the candidates and the budget of the newest command.

    \b
    bench table --metrics N@10,MRR --format markdown
    bench table --from results/local --from results/ml-100k
    """
    from bench.report.table import table
    from bench.store.results import Store

    result = table(
        Store(out),
        from_dirs=from_dirs,
        dataset=dataset or None,
        candidates=candidates or None,
        budget=budget,
        metrics=metrics or None,
        tasks=tasks or None,
        seeds=seeds,
    )
    if form == "text":
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = max(60, shutil.get_terminal_size((100, 24)).columns)
        text = result.text(width, color, details)
    else:
        text = result.markdown(details) if form == "markdown" else getattr(result, form)()
    # As it is: click.echo would take colours out again by rules of its own.
    sys.stdout.write(text.rstrip("\n") + "\n")
