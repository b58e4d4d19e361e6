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
    """Open the MLflow UI on the store of the results folder; Ctrl-C ends it.

    Where the store does not show what the results folder holds, it is made anew first.
    """
    from bench.cli.child_process import run_until_signal
    from bench.store import mlflow_ui, mlflow_view
    from bench.store.results import Store

    store = Store(out)
    words = mlflow_ui.ui_command(store, tracking_uri, port)
    if rebuild or (tracking_uri is None and mlflow_view.is_stale(store)):
        count = mlflow_view.rebuild(store, tracking_uri)
        print(f"{count} runs in the MLflow store")
    print(f"{mlflow_ui.ui_address(store, tracking_uri, port)}  (Ctrl-C ends it)", flush=True)
    ctx.exit(run_until_signal(words))
