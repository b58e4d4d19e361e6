"""`bench run`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import options
from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from bench.experiments.run import Outcome

# Words of a --config file that are not spelled like the parameter of `command`.
_FILE_WORDS = {"set": "settings", "trivial": "no_trivial"}


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """--config: the file's values become the defaults of the options, so that the command line wins."""
    if path is None:
        return
    from bench.experiments.settings import read_config

    content = read_config(path)
    parameters = {parameter.name: parameter for parameter in ctx.command.params}
    known = {name.replace("_", "-") for name in parameters if name not in ("config", "settings")} | set(_FILE_WORDS)
    defaults: dict[str, Any] = {}
    for word, value in content.items():
        if str(word).replace("_", "-") not in known:
            raise unknown(f"option in {path}", str(word), known)
        name = _FILE_WORDS.get(word, str(word).replace("-", "_"))
        if word == "set":
            value = _pairs(path, value or {})
        elif word == "trivial":
            value = not value
        elif isinstance(value, dict):
            raise UsageError(f"{path}: {word} takes a value or a list of them")
        elif parameters[name].multiple:
            value = [str(part) for part in (value if isinstance(value, list) else [value])]
        elif isinstance(value, list):
            value = ",".join(str(part) for part in value)
        defaults[name] = value
    # Settings add up, key by key; the other options replace each other.
    ctx.meta["settings of the file"] = tuple(defaults.pop("settings", ()))
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _pairs(path: Path, settings: dict[str, Any]) -> list[str]:
    """`set: {NAME: {KEY: VALUE}}` as NAME.KEY=VALUE."""
    import json

    for name, values in settings.items():
        if not isinstance(values, dict):
            raise UsageError(f"{path}: under `set:` expected NAME: {{KEY: VALUE}}, got {name}: {values}")
    return [
        f"{name}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for name, values in settings.items()
        for key, value in values.items()
    ]


@click.command("run", short_help="Fit models and rank them on the same candidates.")
@click.option(
    "--models", required=True, metavar="NAMES", help="Models or groups with commas: all, rec, search, unified, trivial."
)
@click.option(
    "--dataset",
    multiple=True,
    callback=options.comma_list,
    default=["ml-100k"],
    metavar="NAMES",
    help="Data sets.  [default: ml-100k]",
)
@options.tasks
@options.split_and_mode
@click.option(
    "--candidates",
    multiple=True,
    callback=options.comma_list,
    default=["uniform"],
    metavar="KINDS",
    help="uniform, same-query, shown, popularity, full, given:PATH.  [default: uniform]",
)
@options.candidate_seed
@click.option(
    "--seeds", default="0", callback=options.whole_numbers, metavar="N,N", help="Seeds of the fits.  [default: 0]"
)
@options.settings
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    metavar="FILE.yaml",
    help="These options in a file; the command line wins.",
)
@click.option(
    "--budget",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="quick bounds the number of training steps, nothing else.",
)
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, metavar="N", help="Part of a fit's key.  [default: all cores]"
)
@click.option("--resume/--force", "resume", default=True, help="Keep what is there and go on (default), or fit anew.")
@click.option("--no-trivial", is_flag=True, help="Leave out the trivial models that are added otherwise.")
@options.out
@options.data
@click.option("--tracking-uri", metavar="URI", help="MLflow server.  [default: a local store in the results folder]")
@click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")
@options.debug
@click.pass_context
def command(ctx: click.Context, **given: Any) -> None:
    """Fit models on the same events and rank them on the same candidates.

    What is there already is not repeated; a fit that was interrupted goes on where it stopped. A model that fails does
    not stop the others.

    \b
    bench run --models gensr,unisar --dataset ml-100k
    bench run --models unified --seeds 0,1,2 --set unisar.lr=0.0005 --budget full
    bench run --models popularity --candidates uniform,popularity,full
    """
    from bench.experiments.run import Request, run
    from bench.experiments.settings import Overrides

    file_settings = Overrides.parse(ctx.meta.get("settings of the file", ()))
    quiet = given.pop("quiet")
    request = Request(
        overrides=Overrides.parse(given.pop("settings")).over(file_settings),
        tasks=given.pop("tasks") or None,
        force=not given.pop("resume"),
        trivial=not given.pop("no_trivial"),
        debug=bool((ctx.obj or {}).get("debug")),
        **given,
    )
    outcome = run(request, options.reporter(quiet))
    if not quiet:
        _close(outcome, given["out"])
    for place, reason in outcome.failed.items():
        print(f"failed: {place}: {reason}", file=sys.stderr)
    if outcome.failed:
        ctx.exit(1)


def _close(outcome: "Outcome", out: Path) -> None:
    """Where the results are, and how to see them."""
    extra = "" if str(out) == options.RESULTS else f" --out {out}"
    counts = f"{len(outcome.runs)} finished ({outcome.fresh} new), {len(outcome.failed)} failed"
    print(f"{counts}; results in {out}, `bench table{extra}` shows them")
