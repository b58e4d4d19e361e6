"""`bench doctor`."""

from pathlib import Path

import click

from bench.cli import options


@click.command("doctor", short_help="Show what is installed, what is missing and how to get it.")
@options.output_format("text", "json")
@options.out
@options.data
@options.debug
def command(form: str, out: Path, data: Path | None) -> None:
    """Versions, devices, data sets, backbones, folders: what is there, what is missing, how to get it."""
    from dataclasses import asdict

    from bench.experiments.doctor import examine

    findings = examine(out, data)
    if form == "json":
        import json

        print(json.dumps([asdict(finding) for finding in findings], indent=1))
        return
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            print(f"{topic}:")
        mark = "  " if finding.ok else "! "
        print(f"{mark}{finding.name:<20} {finding.value}")
        if finding.hint:
            print(f"{'':<23}{finding.hint}")
