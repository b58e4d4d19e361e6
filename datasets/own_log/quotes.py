"""Quotes of a CSV file that are not closed: what follows them would be read as part of one value."""

from dataclasses import dataclass

import numpy as np

_QUOTE, _RETURN, _NEWLINE = b'"\r\n'
_EDGE = np.zeros(256, dtype=bool)
_EDGE[list(b",\r\n")] = True


@dataclass(frozen=True)
class OpenQuote:
    """The row (the header is row 1) in which a quote opens that is not closed, and the line from there on."""

    row: int
    text: str


def find_open_quote(content: bytes) -> OpenQuote | None:
    """The first quote that opens a value and is not closed before a comma, the end of a line or of the file.

    A quote opens a value only at its start (`5" tablet` is text as it stands); two quotes inside are one (RFC 4180).

    Args:
        content: a CSV file without byte order mark, encoded in UTF-8.
    """
    if b'"' not in content:
        return None
    data = np.frombuffer(content, dtype=np.uint8)
    at = np.flatnonzero(data == _QUOTE)
    # What stands before and after each quote; the file's ends count as ends of a line.
    before = np.where(at > 0, data[at - 1], _NEWLINE)
    after = np.where(at + 1 < len(data), data[np.minimum(at + 1, len(data) - 1)], _NEWLINE)
    opens, closes = _EDGE[before], _EDGE[after]
    # Without quotes inside bare values every second quote opens (or goes on after a doubled one) and the others close.
    regular = (opens | (before == _QUOTE))[::2].all() and (closes | (after == _QUOTE))[1::2].all()
    if regular and len(at) % 2 == 0:
        return None
    spans, wrong = _spans(at, opens, closes)
    if wrong is None:
        return None
    line = content[wrong:].splitlines()[0][:200]
    return OpenQuote(_row(data[:wrong], spans), line.decode("utf-8", errors="replace"))


def _spans(at: np.ndarray, opens: np.ndarray, closes: np.ndarray) -> tuple[list[tuple[int, int]], int | None]:
    """The quoted values from quote to quote, and the offset of the quote that is not closed."""
    places, may_open, may_close = at.tolist(), opens.tolist(), closes.tolist()
    spans: list[tuple[int, int]] = []
    here, end = 0, len(places)
    while here < end:
        if not may_open[here]:  # inside a bare value
            here += 1
            continue
        start = places[here]
        here += 1
        while here + 1 < end and places[here + 1] == places[here] + 1:
            here += 2
        if here >= end or not may_close[here]:
            return spans, start
        spans.append((start, places[here]))
        here += 1
    return spans, None


def _row(data: np.ndarray, spans: list[tuple[int, int]]) -> int:
    """The row that a byte after `data` belongs to; line ends inside of quoted values do not count."""
    ends = np.flatnonzero(data == _NEWLINE)
    returns = np.flatnonzero(data == _RETURN)
    alone = returns[np.append(data, np.uint8(0))[returns + 1] != _NEWLINE]
    ends = np.concatenate([ends, alone])
    starts, stops = np.asarray(spans, dtype=np.int64).reshape(-1, 2).T
    inside = np.searchsorted(starts, ends) > np.searchsorted(stops, ends)
    return 1 + int((~inside).sum())
