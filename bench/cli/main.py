"""The command `bench`: finds the subcommand, runs it, and turns whatever goes wrong into one line.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted, 143 terminated. Commands are imported when they are
called, and what they need when they run, so that `bench --help` answers at once.
"""

import importlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from bench.errors import BenchError, unknown
from bench.messages import one_line

# Name -> one line for `bench --help`; the command itself is `bench.cli.<name>.command`.
COMMANDS = {
    "run": "Fit models and rank them on the same candidates.",
    "evaluate": "Rank finished runs on further candidates, without training.",
    "tune": "Search the settings of models with Ray Tune.",
    "table": "Compare the models of the newest command, or of --from folders.",
    "report": "Everything behind a table as one HTML file, with its figures.",
    "models": "List the models, or check one against the contract.",
    "data": "List, fetch, check, prepare and describe data sets.",
    "candidates": "Export the candidate lists, or import your own.",
    "scores": "Import scores that were computed elsewhere; export best lists.",
    "audit": "Find what makes results doubtful.",
    "analyze": "Mutual information, parameter space, gradients, ablation, sweep.",
    "runs": "List finished runs, their costs; copy or remove some.",
    "ui": "Browse the runs in the MLflow UI.",
    "doctor": "Show what is installed, what is missing and how to get it.",
}
INTERRUPTED = 130
TERMINATED = 143
_TOGETHER = 2.0  # seconds within which further SIGTERMs belong to the first
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# Libraries that would write to the terminal or call home unless told otherwise; what the user has set stays.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
}


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: what works ends as after Ctrl-C, its processes too."""


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM (a scheduler's "your time is over") raises in the main thread instead of ending the process at once."""
    first: float | None = None

    def end(*_: Any) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            raise _TerminatedError
        # Schedulers send one to every process of a job, and `timeout` passes its own on: together they are one.
        if now - first > _TOGETHER:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Bench(click.Group):
    """The top command: knows its subcommands by name only and reports errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"bench.cli.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that the first word names.

        Raises:
            UsageError: there is none.
        """
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands into the help without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(  # type: ignore[override]  # click's overloads return a value where standalone_mode is off; this never returns
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any
    ) -> None:
        """Run the command line and exit; whatever goes wrong is one line on stderr."""
        words = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in words
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if not debug and not sys.warnoptions:
            warnings.showwarning = _warn
        extra |= {"standalone_mode": False, "obj": {"debug": debug}}
        try:
            with _termination():
                result = super().main(args=words, prog_name=prog_name or "bench", **extra)
            code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has gone (`bench table | head`): nothing is left to say, at exit neither.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            code = _report(error, words, debug)
        sys.exit(code)


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning of bench is one line; those of libraries, which nobody at a terminal can act upon, are for --debug."""
    if category.__module__.partition(".")[0] == "bench":
        print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _report(error: BaseException, words: list[str], debug: bool) -> int:
    """Say on stderr what went wrong and return the exit code; a trace is shown with --debug only."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    if debug:
        traceback.print_exception(error)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        command = next((word for word in words if not word.startswith("-")), "")
        resumes = "; the same command goes on where it stopped" if command in ("run", "evaluate", "tune") else ""
        by_signal = isinstance(error.__cause__ or error, _TerminatedError)  # click makes an Abort of it
        print(f"{'terminated' if by_signal else 'interrupted'}{resumes}", file=sys.stderr)
        return TERMINATED if by_signal else INTERRUPTED
    if isinstance(error, click.ClickException):
        text, code = error.format_message(), error.exit_code
    elif isinstance(error, BenchError):
        text, code = str(error), error.exit_code
    elif isinstance(error, OSError) and error.strerror:
        text, code = f"{error.filename or 'a file'}: {error.strerror}; check the folders given by --out and --data", 1
    elif isinstance(error, MemoryError):
        text, code = "out of memory", 1
    else:
        text, code = f"{type(error).__name__}: {error} (a defect of bench or of a package; --debug shows where)", 1
    print(f"error: {one_line(text)}", file=sys.stderr)
    return code


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from bench import __version__

        click.echo(f"bench {__version__}")
        ctx.exit()


@click.group(cls=Bench, no_args_is_help=False, invoke_without_command=True, context_settings=_CONTEXT)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the trace of an error; every command takes it, too."
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Joint search and recommendation: every model on the same events, candidates, budget and tests.

    \b
    bench run --models gensr,unisar --dataset ml-100k
    bench table
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
