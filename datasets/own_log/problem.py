"""One thing that is wrong with a folder of own logs, as a line that a terminal can show."""

from dataclasses import dataclass

_SHOWN = 60


def printable(text: str) -> str:
    """The text on one line, characters that a terminal would obey or cannot show as escapes."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def quoted(value: str) -> str:
    """The beginning of a value, in quotes, on one line."""
    return f"'{printable(value[:_SHOWN])}'"


@dataclass(frozen=True)
class Problem:
    """A fault that must be mended before the folder is used.

    Attributes:
        file: name of the file.
        what: the fault, and what to do about it.
        column: name of the column, "" where the fault is not one of a column.
        row: the first row with the fault, counted as `LogFile.rows` does.
        value: the value of that row.
        count: number of rows with the fault.
    """

    file: str
    what: str
    column: str = ""
    row: int | None = None
    value: str | None = None
    count: int = 1

    def __str__(self) -> str:
        where = self.file + (f", row {self.row}" if self.row is not None else "")
        where += f", column {self.column}" if self.column else ""
        value = f": {quoted(self.value)}" if self.value is not None else ""
        more = f" ({self.count:,} such rows)" if self.count > 1 else ""
        return f"{printable(where)}: {printable(self.what)}{value}{more}"
