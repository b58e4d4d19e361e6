"""`bench report`."""

from pathlib import Path

import click

from bench.cli import options


@click.command("report", short_help="Everything behind a table as one HTML file, with its figures.")
@click.option("--to", type=options.PATH, metavar="FILE", help="The HTML file.  [default: report.html in --out]")
@click.option(
    "--figures/--no-figures",
    default=True,
    help="Also write every chart as PNG and PDF, beside the file (default).",
)
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
@options.data
@options.out
@options.debug
def command(
    to: Path | None,
    figures: bool,
    from_dirs: tuple[Path, ...],
    dataset: tuple[str, ...],
    candidates: tuple[str, ...],
    budget: str | None,
    metrics: tuple[str, ...],
    tasks: tuple[str, ...],
    seeds: tuple[int, ...] | None,
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

    made = Report(
        table(
            Store(out),
            from_dirs=from_dirs,
            dataset=dataset or None,
            candidates=candidates or None,
            budget=budget,
            metrics=metrics or None,
            tasks=tasks or None,
            seeds=seeds,
        ),
        data,
        command_line(),
    )
    path = to or out / "report.html"
    made.save(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if figures:
        folder = path.with_name(f"{path.stem}-figures")
        files = made.save_figures(folder)
        print(f"{folder}: {len(files)} figures")
