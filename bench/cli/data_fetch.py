"""`bench data fetch`."""

from pathlib import Path

import click

from bench.cli import options


@click.command("fetch", short_help="Download the raw files of data sets from their publishers.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@options.data
@options.debug
def fetch(names: tuple[str, ...], data: Path | None) -> None:
    """Download raw files into the data folder: kuaisar, kuaisar-small, amazon-kindle, amazon:CATEGORY (2014).

    Interrupted downloads go on where they stopped. Without a connection the message says which files to get from where
    and where to put them.
    """
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from bench.data.download import fetch as bring
    from bench.data.publications import publication
    from bench.data.sources import data_root

    chosen = {name: publication(name) for name in names}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    for name, source in chosen.items():
        folder = data_root(data).joinpath(*name.split(":"))
        with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as bar:
            tasks = {remote.name: bar.add_task(remote.name, total=None, start=False) for remote in source.files}

            def show(file: str, done: int, total: int | None, bar: Progress = bar, tasks: dict = tasks) -> None:
                bar.start_task(tasks[file])
                bar.update(tasks[file], completed=done, total=total)

            files = bring(name, source, folder, show)
        for file in files:
            if not file.new and not file.sha256:
                print(f"{folder / file.name}: was there already, not looked at")
                continue
            there = "" if file.new else " (was there already)"
            checked = (
                f"{file.checksum} as published" if file.checksum else "not verified (the publisher states no checksum)"
            )
            print(f"{folder / file.name}: {file.bytes:,} bytes{there}")
            print(f"  {checked}; sha256 {file.sha256}")
