"""Wording that error messages and captions share."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the name of its class where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason(error: BaseException) -> str:
    """Why the operating system refused ("No space left on device"), else the first line of the error."""
    return getattr(error, "strerror", None) or first_line(error)


def comma_list(values: Iterable[object]) -> str:
    """`a, b, c`; numbers and names as they print."""
    return ", ".join(str(value) for value in values)


def split_commas(text: str) -> list[str]:
    """The parts of a comma list that a user typed, without blanks and empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def flat_list(values: Iterable[object]) -> str:
    """`0,1,2`: how a list stands in one field of a flat record."""
    return ",".join(str(value) for value in values)


def one_line(text: str) -> str:
    """Text from a file or a user on one line, without control characters that a terminal would obey.

    Line breaks and tabs become blanks; escape sequences, other control characters, and signs that turn the direction
    of writing for what follows, are left out.
    """
    import re

    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)
    printable = "".join(each for each in text if each.isspace() or not _is_control(each))
    return " ".join(printable.split())


def shortened(text: str, length: int = 80) -> str:
    """Text on one line, without its middle where it is longer than `length`; the end often tells names apart."""
    text = one_line(text)
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def shell_word(value: object) -> str:
    """A value as it must be typed in a shell: quoted where it holds blanks, parentheses or other signs."""
    import shlex

    return shlex.quote(str(value))


def first_violation(error: "ValidationError", owner: str) -> str:
    """The first violation of a pydantic model's bounds: `owner.field: what is wrong (got value)`."""
    violation = error.errors()[0]
    field = ".".join(str(part) for part in violation["loc"])
    path = f"{owner}.{field}" if field else owner
    return f"{path}: {violation['msg'][:1].lower()}{violation['msg'][1:]} (got {violation['input']!r})"


def _is_control(character: str) -> bool:
    import unicodedata

    return unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTIONS
