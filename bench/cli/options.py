"""Options that several commands share, with the same words and the same meaning everywhere."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from bench.errors import UsageError, unknown
from bench.experiments.settings import LARGEST_SEED, MOST_THREADS, check_seeds
from bench.messages import shell_word, shortened, split_commas

if TYPE_CHECKING:
    from bench.experiments.progress import Reporter

F = TypeVar("F", bound=Callable[..., Any])
RESULTS = "results/local"


class FilePath(click.Path):
    """A path; an empty one, which would be the working folder, is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as pathlib.Path."""
        if str(value) == "" or "\0" in str(value):
            self.fail("expected a path, got an empty text", param, ctx)
        return super().convert(value, param, ctx)


class Text(click.ParamType):
    """Text that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it was typed."""
        if not str(value).strip():
            self.fail("expected a value, got an empty text", param, ctx)
        return str(value)


PATH = FilePath()
SEED = click.IntRange(0, LARGEST_SEED)
THREADS = click.IntRange(0, MOST_THREADS)


def comma_list(_: click.Context, __: click.Parameter, given: tuple[str, ...] | str | None) -> tuple[str, ...]:
    """Callback: an option that takes commas, may be repeated, or both."""
    values = (given,) if isinstance(given, str) else given or ()
    return tuple(part for value in values for part in split_commas(value))


def seeds(_: click.Context, option: click.Parameter, given: str | None) -> tuple[int, ...] | None:
    """Callback: `0,1,2`, each seed once.

    Raises:
        UsageError: something else than whole numbers from 0 to LARGEST_SEED, or a number twice.
    """
    if given is None:
        return None
    name = option.opts[0]
    parts = split_commas(given)
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{name} {given}: expected whole numbers from 0 with commas, for example 0,1,2")
    numbers = [int(part) if len(part) < 20 else LARGEST_SEED + 1 for part in parts]
    check_seeds(numbers, f"{name} {shortened(given)}")
    return tuple(numbers)


def debug(command: F) -> F:
    """`--debug`; main reads it from the command line."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the trace of an error.")(command)


def out(command: F) -> F:
    """`--out`, the results folder."""
    text = f"Results folder.  [default: {RESULTS}]"
    return click.option("--out", type=PATH, default=RESULTS, metavar="DIR", help=text)(command)


def data(command: F) -> F:
    """`--data`, where raw and prepared data lie."""
    text = "Folder of raw and prepared data.  [default: $BENCH_DATA or the user's data folder]"
    return click.option("--data", type=PATH, metavar="DIR", help=text)(command)


def settings(command: F) -> F:
    """`--set NAME.KEY=VALUE`, repeatable."""
    text = "A setting; NAME is a model, a data set or train. Repeatable."
    return click.option("--set", "settings", multiple=True, metavar="NAME.KEY=VALUE", help=text)(command)


def split_and_mode(command: F) -> F:
    """`--split`, `--mode`: how the data are used."""
    command = click.option("--mode", metavar="MODE", help="disjoint: a purchase serves one task; mirror: both tasks.")(
        command
    )
    text = "leave-one-out, last-day, global-time or given.  [default: the data set's own]"
    return click.option("--split", metavar="NAME", help=text)(command)


def tasks(command: F) -> F:
    """`--tasks rec,search`."""
    return click.option(
        "--tasks",
        multiple=True,
        callback=comma_list,
        metavar="TASKS",
        help="rec, search or both.  [default: those of the data]",
    )(command)


def candidate_seed(command: F) -> F:
    """`--candidate-seed N`."""
    text = "Seed of the negatives.  [default: 0]"
    return click.option("--candidate-seed", type=SEED, default=0, metavar="N", help=text)(command)


def tracking_uri(command: F) -> F:
    """`--tracking-uri URI`, the MLflow server."""
    text = "MLflow server.  [default: a local store in the results folder]"
    return click.option("--tracking-uri", type=Text(), metavar="URI", help=text)(command)


def device(command: F) -> F:
    """`--device NAME`."""
    text = "auto, cpu, cuda, cuda:N or mps.  [default: auto]"
    return click.option("--device", default="auto", metavar="NAME", help=text)(command)


def placement(command: F) -> F:
    """Where runs are carried out, how many at once, and what each may use; the command takes it as `placement`."""

    @functools.wraps(command)
    def with_placement(*args: Any, **given: Any) -> Any:
        from bench.experiments.executors.choose import Placement
        from bench.experiments.executors.contract import Limits

        limits = Limits(given.pop("time_limit"), given.pop("memory_limit"))
        words = {word: given.pop(word) for word in ("executor", "jobs", "address", "gpus")}
        return command(*args, placement=Placement(**words, limits=limits), **given)

    decorated: Any = with_placement
    for option in (
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="local or a Ray cluster.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="Runs at once, each in a process of its own.  [default: one after the other; with Ray what fits]",
        ),
        click.option(
            "--address", type=Text(), metavar="HOST:PORT", help="Ray cluster.  [default: Ray on this machine]"
        ),
        click.option(
            "--gpus", type=float, metavar="X", help="GPUs of a run with Ray, such as .5.  [default: 1 on cuda]"
        ),
        click.option(
            "--time-limit",
            type=float,
            default=0.0,
            metavar="SECONDS",
            help="A run over it did not finish.  [default: none]",
        ),
        click.option(
            "--memory-limit", type=float, default=0.0, metavar="MB", help="Main memory of a run.  [default: no limit]"
        ),
    )[::-1]:
        decorated = option(decorated)
    return decorated


def quiet(command: F) -> F:
    """`--quiet`."""
    return click.option("--quiet", is_flag=True, help="Say nothing but warnings and errors.")(command)


def top_lists(command: F) -> F:
    """`--top-lists`."""
    text = (
        "Also keep the ten best candidates of every row; `bench report` shows them and measures coverage and novelty."
    )
    return click.option("--top-lists", is_flag=True, help=text)(command)


def selection_of_runs(command: F) -> F:
    """The options that choose the runs of a table; the command takes them as `chosen`, arguments of `bench.report.table.table`."""

    @functools.wraps(command)
    def with_chosen(**given: Any) -> Any:
        chosen = {
            name: given.pop(name) or None for name in ("dataset", "candidates", "budget", "metrics", "tasks", "models")
        }
        chosen |= {"from_dirs": given.pop("from_dirs"), "seeds": given.pop("seeds")}
        return command(chosen=chosen, **given)

    kinds = "A kind, a label or the start of a fingerprint."
    rows = "Only these rows, in this order: models or groups."
    decorated: Any = with_chosen
    for option in (
        click.option(
            "--from", "from_dirs", multiple=True, type=PATH, metavar="DIR", help="Results to read; repeatable."
        ),
        _comma_option("--dataset", "NAMES", "Only these data sets."),
        _comma_option("--candidates", "KINDS", kinds),
        click.option("--budget", type=click.Choice(["quick", "full"]), help="Only runs with this budget."),
        _comma_option("--metrics", "NAMES", "Such as N@10,R@20,MRR,AUC."),
        tasks,
        click.option("--seeds", callback=seeds, metavar="N,N", help="Only runs with these seeds."),
        _comma_option("--models", "NAMES", rows),
    )[::-1]:
        decorated = option(decorated)
    return decorated


def _comma_option(name: str, metavar: str, text: str) -> Callable[[F], F]:
    return click.option(name, multiple=True, callback=comma_list, metavar=metavar, help=text)


def one_selection(command: F) -> F:
    """The options that name one data set and one candidate set: see `bench.cli.inputs`."""
    for option in (data, candidate_seed, _one_candidates, tasks, settings, split_and_mode, dataset):
        command = option(command)
    return command


def dataset(command: F) -> F:
    """`--dataset NAME`, one."""
    return click.option("--dataset", required=True, metavar="NAME", help="A data set of `bench data list`.")(command)


def _one_candidates(command: F) -> F:
    text = "uniform, same-query, shown, popularity, full or given:PATH.  [default: uniform]"
    return click.option("--candidates", default="uniform", metavar="KIND", help=text)(command)


def output_format(*kinds: str) -> Callable[[F], F]:
    """`--format`; the first kind is the default."""
    return click.option(
        "--format", "form", type=click.Choice(kinds), default=kinds[0], show_default=True, help="Form of the output."
    )


def out_hint(out: Path) -> str:
    """` --out DIR` for a command to paste, quoted as a shell needs it; empty for the usual folder."""
    return "" if str(out) == RESULTS else f" --out {shell_word(out)}"


def reporter(quiet: bool) -> "Reporter":
    """Bars where a person looks at a terminal, lines in a pipe, nothing but warnings with --quiet."""
    from bench.experiments import progress

    if quiet:
        return progress.Reporter()
    return progress.RichReporter() if sys.stderr.isatty() else progress.PlainReporter()


class Group(click.Group):
    """A group that names the nearest command for one that does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            UsageError: there is none.
        """
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown(
                "command", f"{ctx.info_name} {args[0]}", [f"{ctx.info_name} {name}" for name in self.commands]
            )
        return super().resolve_command(ctx, args)


class WithDefault(Group):
    """A group with a command that may be left out before options: `bench tune --models sasrec`."""

    default_command: ClassVar[str]
    when_alone = False  # whether the group's name alone calls it, too

    def completed(self, args: list[str]) -> list[str]:
        """The arguments with the default command in its place."""
        if (self.when_alone and not args) or (args and args[0].startswith("-") and args[0] not in ("-h", "--help")):
            return [self.default_command, *args]
        return args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in its place."""
        return super().parse_args(ctx, self.completed(args))


class WithList(WithDefault):
    """A group whose `list` may be left out: `bench models --format json`."""

    default_command = "list"
    when_alone = True
