"""`bench report`."""

from pathlib import Path
from typing import Any

import click

from bench.cli import options


@click.command("report", short_help="Everything behind a table as one HTML file, with its figures.")
@click.option("--to", type=options.PATH, metavar="FILE", help="The HTML file.  [default: report.html in --out]")
@click.option(
    "--figures/--no-figures",
    default=True,
    help="Also write every chart as PNG and PDF, beside the file (default).",
)
@options.selection_of_runs
@options.data
@options.out
@options.debug
def command(
    to: Path | None,
    figures: bool,
    chosen: dict[str, Any],
    data: Path | None,
    out: Path,
) -> None:
    """Write tables, curves, differences, costs, strata and single rows into one HTML file that needs no network.

    The runs are chosen as for `bench table`. Texts and histories of single rows, and strata, come from the prepared data;
    top tens are shown where runs keep them (--top-lists of `bench run` and `bench evaluate`).

    \b
    bench report
    bench report --candidates full --metrics N@10,R@20,MRR --to full.html
    """
    from bench.report.html.page import Report
    from bench.report.table import table
    from bench.store.environment import command_line
    from bench.store.results import Store

    made = Report(table(Store(out), **chosen), data, command_line())
    path = to or out / "report.html"
    made.save(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if figures:
        folder = path.with_name(f"{path.stem}-figures")
        files = made.save_figures(folder)
        print(f"{folder}: {len(files)} figures")
