"""`bench data`."""

from pathlib import Path
from typing import Any

import click

from bench.cli import inputs, options
from bench.cli.data_check import check
from bench.cli.data_fetch import fetch
from bench.messages import one_line


@click.group("data", cls=options.WithList, short_help="List, fetch, check, prepare and describe data sets.")
def command() -> None:
    """Data sets: list them (the default), fetch, check, prepare and describe them."""


@command.command("list", short_help="All data sets (the default).")
@options.output_format("text", "json")
@options.debug
def list_(form: str) -> None:
    """All data sets: those that come with bench and those of installed packages."""
    from bench.data import sources

    records = [entry.record() for entry in sources.entries().values()]
    if form == "json":
        import json

        print(json.dumps(records, indent=1))
        return
    for record in records:
        name = record["name"] + ("<argument>" if record["name"].endswith(":") else "")
        made_up = f"; synthetic: {record['synthetic']}" if record["synthetic"] else ""
        cite = f"; {record['cite']}" if record["cite"] else ""
        facts = one_line(f"{record['title']}; split {record['split']}{made_up}{cite}")
        print(f"{name:<16} {facts}")


@command.command("prepare", short_help="Prepare data sets from their raw files.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--mode", metavar="MODE", help="disjoint or mirror.")
@options.settings
@options.data
@click.option("--force", is_flag=True, help="Prepare anew what is prepared already.")
@options.debug
def prepare(
    names: tuple[str, ...], mode: str | None, settings: tuple[str, ...], data: Path | None, force: bool
) -> None:
    """Prepare data sets from their raw files; prints folder and fingerprint."""
    from bench.data import sources
    from bench.experiments.prepared_data import log_folder
    from bench.experiments.settings import Overrides

    overrides = Overrides.parse(settings)
    overrides.check([], names)
    for name in names:
        log = sources.load(name, overrides.of_data(name) | ({"mode": mode} if mode else {}), data, fresh=force)
        counts = log.manifest["counts"]
        print(f"{name}: {counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items")
        print(f"  folder      {log_folder(log, data)}")
        print(f"  fingerprint {log.fingerprint}")


@command.command("stats", short_help="Counts, split, leak counters and candidates.")
@click.argument("dataset", metavar="NAME")
@options.split_and_mode
@options.settings
@options.candidate_seed
@options.data
@options.output_format("text", "json")
@options.debug
def stats(
    dataset: str,
    split: str | None,
    mode: str | None,
    settings: tuple[str, ...],
    candidate_seed: int,
    data: Path | None,
    form: str,
) -> None:
    """Counts, split, leak counters and candidates of a data set."""
    from bench.experiments.data_statistics import describe

    sections = describe(inputs.open_dataset(dataset, split, mode, settings, data), candidate_seed)
    if form == "json":
        import json

        flat = [
            {"section": name, "fact": key, "value": value}
            for name, facts in sections.items()
            for key, value in facts.items()
        ]
        print(json.dumps(flat, indent=1))
        return
    for name, facts in sections.items():
        print(f"{name}:")
        for key, value in facts.items():
            print(f"  {key:<66} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


command.add_command(check)
command.add_command(fetch)
