"""`bench run`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import options
from bench.errors import UsageError, unknown
from bench.messages import one_line

if TYPE_CHECKING:
    from bench.experiments.run import CommandResult
    from bench.store.results import Store

# Words of a --config file that are not spelled like the parameter of `command`.
_FILE_WORDS = {"set": "settings", "trivial": "no_trivial"}


def _read_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """--config: the file's values become the defaults of the options, so that the command line wins.

    Raises:
        UsageError: an unknown option, or a value that its option cannot have.
    """
    if path is None:
        return
    from bench.experiments.settings import read_config

    parameters = {parameter.name: parameter for parameter in ctx.command.params}
    known = {name.replace("_", "-") for name in parameters if name not in ("config", "settings")} | set(_FILE_WORDS)
    defaults: dict[str, Any] = {}
    for word, value in read_config(path).items():
        if str(word).replace("_", "-") not in known:
            raise unknown(f"option in {path}", str(word), known)
        name = _FILE_WORDS.get(word, str(word).replace("-", "_"))
        if word == "set":
            defaults[name] = _pairs(path, value or {})
        else:
            defaults[name] = _option_value(path, str(word), parameters[name], value)
    # Settings add up, key by key; the other options replace each other.
    ctx.meta["settings of the file"] = tuple(defaults.pop("settings", ()))
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _option_value(path: Path, word: str, option: click.Parameter, value: Any) -> Any:
    """A value of the file as its option takes it from the command line.

    Raises:
        UsageError: it has another form.
    """
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {word} is true or false, got {value!r}")
        return not value if word == "trivial" else value
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        raise UsageError(f"{path}: {word} takes a value or a list of them, got {value!r}")
    if option.multiple:
        return [str(part) for part in parts]
    return ",".join(map(str, parts))


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
@click.option("--seeds", default="0", callback=options.seeds, metavar="N,N", help="Seeds of the fits.  [default: 0]")
@options.settings
@click.option(
    "--config",
    type=options.PATH,
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
@click.option(
    "--validation-rows",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Validate on at most N rows of each task, chosen by a hash; part of a fit's key.  [default: all]",
)
@click.option(
    "--tuned", is_flag=True, help="The best known settings of `bench tune`, where the model has a search space."
)
@options.device
@click.option(
    "--threads",
    type=options.THREADS,
    default=0,
    metavar="N",
    help="Threads of a run, part of a fit's key.  [default: all cores, shared out between --jobs; 1 with Ray]",
)
@options.placement
@click.option("--resume/--force", "resume", default=True, help="Keep what is there and go on (default), or fit anew.")
@options.top_lists
@click.option(
    "--dry-run", is_flag=True, help="Say what would run, what is there, and how long the rest takes; run nothing."
)
@click.option("--no-trivial", is_flag=True, help="Leave out the trivial models that are added otherwise.")
@options.out
@options.data
@options.tracking_uri
@options.quiet
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
    from bench.experiments.run import RunRequest, run
    from bench.experiments.settings import Overrides

    file_settings = Overrides.parse(ctx.meta.get("settings of the file", ()))
    quiet, dry = given.pop("quiet"), given.pop("dry_run")
    request = RunRequest(
        overrides=Overrides.parse(given.pop("settings")).over(file_settings),
        tasks=given.pop("tasks") or None,
        force=not given.pop("resume"),
        trivial=not given.pop("no_trivial"),
        debug=bool((ctx.obj or {}).get("debug")),
        **given,
    )
    if dry:
        from bench.experiments.estimate import dry_run

        print("\n".join(dry_run(request, options.reporter(quiet))))
        return
    outcome = run(request, options.reporter(quiet), _markdown_table)
    if not quiet:
        _close(outcome, given["out"])
    for run_name, reason in outcome.failed.items():
        print(one_line(f"failed: {run_name}: {reason}"), file=sys.stderr)
    if outcome.failed:
        ctx.exit(1)


def _markdown_table(store: "Store") -> str:
    """The table at the end of the command, for the MLflow view."""
    from bench.report.table import markdown

    return markdown(store)


def _close(outcome: "CommandResult", out: Path) -> None:
    """Where the results are, and how to see them."""
    counts = f"{len(outcome.runs)} finished ({outcome.fresh} new), {len(outcome.failed)} failed"
    print(f"{counts}; results in {out}, `bench table{options.out_hint(out)}` shows them")
