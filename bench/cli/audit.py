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
