"""`bench audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import inputs, options
from bench.messages import one_line

if TYPE_CHECKING:
    from bench.evaluation.finding import Finding


@click.group("audit", cls=options.Group, short_help="Find what makes results doubtful.")
def command() -> None:
    """Find what makes results doubtful: data sets, runs, tables, published numbers."""


@command.command("numbers", short_help="Find rows of a published table that no ranking can have.")
@click.argument("path", type=options.PATH, metavar="FILE.csv")
@options.output_format("text", "json")
@options.debug
@click.pass_context
def numbers(ctx: click.Context, path: Path, form: str) -> None:
    """Find rows of a published table that no ranking can have; exit code 1 where there are some.

    The file has the columns dataset, task, model, metric (R@k, N@k, MRR, AUC) and value, one number per line. With one
    relevant item per list R@5 is at most R@10, N@10 at most R@10, and so on; rounding is allowed for. Where an exchange
    of two cells repairs a row, the line says so.
    """
    from dataclasses import asdict

    from bench.report.number_audit import audit_numbers

    count, findings = audit_numbers(path)
    if form == "json":
        import json

        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            hint = f"; {finding.suggestion}" if finding.suggestion else ""
            print(one_line(f"{finding.dataset}, {finding.task}, {finding.model}: {finding.relation}{hint}"))
        print(f"{len(findings)} of {count} rows are impossible")
    if findings:
        ctx.exit(1)


@command.command("table", short_help="Find what makes the numbers of a table doubtful.")
@click.option("--from", "from_dirs", multiple=True, type=options.PATH, metavar="DIR", help="Results; repeatable.")
@click.option("--dataset", multiple=True, callback=options.comma_list, metavar="NAMES", help="Only these data sets.")
@click.option("--candidates", multiple=True, callback=options.comma_list, metavar="KINDS", help="As in bench table.")
@options.output_format("text", "json")
@options.out
@options.debug
@click.pass_context
def of_table(
    ctx: click.Context,
    from_dirs: tuple[Path, ...],
    dataset: tuple[str, ...],
    candidates: tuple[str, ...],
    form: str,
    out: Path,
) -> None:
    """Find what makes the numbers of `bench table` doubtful; exit code 1 where something is severe.

    It reads records and ranks: leaks, models at chance, constant scores, a clicked item that is always first, trainings
    that the budget stopped, ties, single seeds, failed runs, and, with --candidates uniform,full, an order among sampled
    candidates that the full ranking reverses. No model is run.
    """
    from bench.report.findings import of_table as findings_of
    from bench.report.table import table
    from bench.store.results import Store

    made = table(Store(out), from_dirs=from_dirs, dataset=dataset or None, candidates=candidates or None)
    _show(ctx, findings_of(made.blocks), form)


@command.command("data", short_help="Find what makes every number on a data set doubtful.")
@options.one_selection
@options.output_format("text", "json")
@options.debug
@click.pass_context
def of_data(ctx: click.Context, form: str, **given: Any) -> None:
    """Find leaks and give-aways in a data set and its candidates; exit code 1 where something is severe.

    Counters of leaks, copies of the target in the histories, columns that tell the clicked item, the share of training
    from the future, what other orders of events of one time and other draws of the candidates change, easy negatives,
    missing texts, cold rows, too few users.

    \b
    bench audit data --dataset ml-100k
    bench audit data --dataset kuaisar --candidates same-query
    """
    from bench.audit.data import audit_data

    prepared, candidates, _ = inputs.open_dataset_and_candidates(**given)
    _show(ctx, audit_data(prepared, candidates), form)


@command.command("run", short_help="Examine the models of finished runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--rows",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    metavar="N",
    help="Test rows of each task that are ranked again.",
)
@options.output_format("text", "json")
@options.device
@options.out
@options.data
@options.tracking_uri
@options.quiet
@options.debug
@click.pass_context
def of_runs(
    ctx: click.Context,
    runs: tuple[str, ...],
    rows: int,
    form: str,
    device: str,
    out: Path,
    data: Path | None,
    tracking_uri: str | None,
    quiet: bool,
) -> None:
    """Examine finished runs with their weights; exit code 1 where something is severe. Nothing is trained.

    Beside what `bench audit table` reads: do the stored weights give the stored ranks; do scores stay with a batch of
    one, another order of the candidates, other rows, junk in padding; do they hold all their bits; does the query of
    another row lower the search metric; do history and order matter; are test rows ranked like rows of the training;
    what other draws of the candidates change. RUN is an id of `bench runs list`, the start of one, or a folder. The
    findings stay in the run's record and stand under the tables that show it.

    \b
    bench audit run unisar-s0
    bench audit run sasrec-s0 sasrec-s1 --rows 2000 --format json
    """
    from bench.audit.run import audit_runs

    found = audit_runs(
        runs,
        out=out,
        data=data,
        device=device,
        rows=rows,
        tracking_uri=tracking_uri,
        reporter=options.reporter(quiet or form == "json"),
    )
    _show(ctx, found, form)


def _show(ctx: click.Context, found: "list[Finding]", form: str) -> None:
    """Print findings; the exit code is 1 where one is severe."""
    severe = sum(finding.severity == "severe" for finding in found)
    if form == "json":
        import json

        print(json.dumps([finding.record() for finding in found], indent=1))
    else:
        for finding in found:
            print(finding.line())
        print(f"{len(found)} findings, {severe} of them severe")
    if severe:
        ctx.exit(1)
