"""`bench evaluate`."""

from pathlib import Path

import click

from bench.cli import options


@click.command("evaluate", short_help="Rank finished runs on further candidates, without training.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--candidates",
    multiple=True,
    required=True,
    callback=options.comma_list,
    metavar="KINDS",
    help="uniform, same-query, shown, popularity, full, given:PATH.",
)
@options.candidate_seed
@options.top_lists
@options.device
@options.out
@options.data
@options.tracking_uri
@options.quiet
@options.debug
def command(
    runs: tuple[str, ...],
    candidates: tuple[str, ...],
    candidate_seed: int,
    device: str,
    out: Path,
    data: Path | None,
    tracking_uri: str | None,
    quiet: bool,
    top_lists: bool,
) -> None:
    """Rank finished runs on further candidates. RUN is an id of `bench runs list`, the start of one, or a folder.

    \b
    bench evaluate popularity-s0 unisar-s0 --candidates popularity,full
    bench table --candidates popularity
    """
    from bench.experiments.evaluate import evaluate

    done = evaluate(
        runs,
        candidates,
        candidate_seed=candidate_seed,
        out=out,
        data=data,
        device=device,
        tracking_uri=tracking_uri,
        reporter=options.reporter(quiet),
        top_lists=top_lists,
    )
    if not quiet:
        for record in done:
            print(f"{record.id}: ranked on {', '.join(sorted(entry.label for entry in record.evaluations.values()))}")
