"""The files of an own log and their columns; docs/own-logs.md explains them to people."""

from typing import Literal

# What a column holds: "id" and "label" are text or whole numbers on one line, "feature" may also be true or false, "text"
# may have line breaks, "words" and "categories" are lists (of Parquet, or text that is cut).
Kind = Literal["id", "label", "feature", "time", "text", "words", "categories"]

COLUMNS: dict[str, dict[str, Kind]] = {
    "events": {
        "user": "id",
        "item": "id",
        "time": "time",
        "task": "label",
        "query": "label",
        "session": "label",
        "event": "label",
    },
    "items": {"item": "id", "text": "text", "words": "words", "categories": "categories"},
    "queries": {"query": "id", "text": "text", "words": "words"},
    "users": {"user": "id"},
}
REQUIRED = {"events": ("user", "item", "time"), "items": ("item",), "queries": ("query",), "users": ("user",)}
# The key of each file of entities, as events name it.
KEYS = {"items": "item", "queries": "query", "users": "user"}
FEATURE = "feature:"
FEATURED = ("items", "users")
SEPARATORS: dict[Kind, str | None] = {"words": None, "categories": "|"}


def kind_of(file: str, column: str) -> Kind | None:
    """What a column of a file ("events", "items", ...) holds; None where the column is not used."""
    if file in FEATURED and column.startswith(FEATURE):
        return "feature"
    return COLUMNS[file].get(column)
