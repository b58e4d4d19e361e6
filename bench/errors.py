"""What a user may meet when something is wrong: one line that says what, where and what to do."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base of every error whose message is meant for a person; the command line prints it without a trace."""

    exit_code = 1


class UsageError(BenchError):
    """The request itself cannot be carried out (unknown name, bad option): exit code 2."""

    exit_code = 2


class RunError(BenchError):
    """The request was understood, and carrying it out failed (corrupt file, broken model): exit code 1."""


class NothingToReadError(RunError):
    """A model finds nothing in these data that it could work with: failed where it was named, left out of a group."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """A UsageError for a name that does not exist, with the nearest names that do."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"
    return UsageError(f"unknown {kind} '{name}'{guess}{' ' + hint if hint else ''}")
