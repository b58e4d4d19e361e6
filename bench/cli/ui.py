"""`bench ui`."""

from pathlib import Path

import click

from bench.cli import options


@click.command("ui", short_help="Browse the runs in the MLflow UI.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, metavar="N", help="Port on this machine."
)
@click.option("--rebuild", is_flag=True, help="First make the MLflow store anew from the results folder.")
@options.tracking_uri
@options.out
@options.debug
@click.pass_context
def command(ctx: click.Context, port: int, rebuild: bool, tracking_uri: str | None, out: Path) -> None:
    """Open the MLflow UI on the store of the results folder; Ctrl-C ends it."""
    import subprocess

    from bench.store import mlflow_view as tracking
    from bench.store.results import Store

    store = Store(out)
    if rebuild:
        count = tracking.rebuild(store, tracking_uri)
        print(f"{count} runs in the MLflow store")
    words = tracking.ui_command(store, tracking_uri, port)
    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    try:
        ctx.exit(subprocess.call(words))
    except KeyboardInterrupt:
        print()
