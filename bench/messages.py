"""Wording that error messages and captions share."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def first_violation(error: "ValidationError", owner: str) -> str:
    """The first violation of a pydantic model's bounds: `owner.field: what is wrong (got value)`."""
    violation = error.errors()[0]
    field = ".".join(str(part) for part in violation["loc"])
    place = f"{owner}.{field}" if field else owner
    return f"{place}: {violation['msg'][:1].lower()}{violation['msg'][1:]} (got {violation['input']!r})"
