"""`bench table`."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import options
from bench.errors import UsageError
from bench.messages import split_commas

if TYPE_CHECKING:
    from bench.report.table import Table
    from bench.report.view import View


@click.command("table", short_help="Compare the models of the newest command, or of --from folders.")
@options.selection_of_runs
@click.option("--baseline", type=options.Text(), metavar="MODEL", help="This model against all others.")
@click.option("--compare", type=options.Text(), metavar="A,B", help="Two models in full.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    metavar="X",
    help="With --compare: a difference that does not matter.",
)
@click.option(
    "--layout",
    type=click.Choice(["narrow", "paper"]),
    default="narrow",
    show_default=True,
    help="Models as rows, or as columns by group, a table a task.",
)
@click.option("--paper", is_flag=True, help="Also the values that the GenSR paper prints.")
@click.option("--details", is_flag=True, help="Also intervals and tests (text, markdown and html).")
@options.output_format("text", "markdown", "latex", "html", "csv", "json")
@options.out
@options.debug
def command(
    chosen: dict[str, Any],
    baseline: str | None,
    compare: str | None,
    margin: float,
    layout: str,
    paper: bool,
    details: bool,
    form: str,
    out: Path,
) -> None:
    """The comparison: best bold, second underlined, a star where the best trained model beats every other row.

    Without --from it shows the data set, the candidates and the budget of the newest command.

    \b
    bench table --metrics N@10,MRR --format markdown
    bench table --from results/local --from results/ml-100k
    bench table --baseline gensr
    bench table --compare gensr,unisar --margin .005
    bench table --layout paper --format latex
    bench table --dataset kuaisar --paper
    """
    from bench.report.table import table
    from bench.store.results import Store

    result = table(Store(out), **chosen)
    view = _view(result, baseline, compare, margin, layout, paper, details)
    if form == "text":
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        width = max(60, shutil.get_terminal_size((100, 24)).columns)
        text = view.text(width, color) if view else result.text(width, color, details)
    elif view:
        text = getattr(view, form)()
    else:
        text = getattr(result, form)(*([details] if form in ("markdown", "html") else []))
    # As it is: click.echo would take colours out again by rules of its own.
    sys.stdout.write(text.rstrip("\n") + "\n")


def _view(
    result: "Table", baseline: str | None, compare: str | None, margin: float, layout: str, paper: bool, details: bool
) -> "View | None":
    """What else than the table itself was asked for; None for the table.

    Raises:
        UsageError: options that exclude each other.
    """
    asked = {"--baseline": baseline, "--compare": compare, "--layout paper": layout == "paper", "--paper": paper}
    given = [name for name, value in asked.items() if value]
    if (baseline or compare) and len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other")
    if details and given and given != ["--paper"]:
        raise UsageError(f"{given[0]} and --details exclude each other")
    if baseline:
        return result.against(baseline)
    if compare:
        pair = split_commas(compare)
        if len(pair) != 2:
            raise UsageError(f"--compare {compare}: expected two models, for example gensr,unisar")
        return result.compare(pair[0], pair[1], margin)
    return result.layout(layout, paper=paper, details=details) if given else None
