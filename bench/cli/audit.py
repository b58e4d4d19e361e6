"""`bench audit`."""

from pathlib import Path

import click

from bench.cli import options
from bench.messages import one_line


@click.group("audit", cls=options.Group, short_help="Find numbers that cannot be right.")
def command() -> None:
    """Find numbers that cannot be right."""


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
    found = findings_of(made.blocks)
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
