"""The times of an events file: what they count, and what is wrong with them."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.datasets.own_log.read import LogFile

DAY_MS = 86_400_000
# Times below are before March 1973 if they are milliseconds (and any time since 1970 if they are seconds). Times from the
# second on lie after the year 5138 (and are any time since 1973 if they are microseconds), from the third on after the
# year 3,170,843 (and are any time since 1973 if they are nanoseconds).
_SECONDS_BELOW, _MICROSECONDS_FROM, _NANOSECONDS_FROM = 10**11, 10**14, 10**17
# A whole number that fits 64 bits; `1600033585575.0` is one, too.
_WHOLE = r"^-?\d{1,18}(\.0*)?$|^[1-8]\d{18}(\.0*)?$"
_OTHER = (
    (r"^\d{9,10}\.\d+$", "seconds with a fraction; multiply by 1000 and round"),
    (r"^-?\d+([.,]\d+)?[eE][+-]?\d+$", "a number in exponent notation, which is rounded; needed are all digits"),
    (r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", "a date; needed are milliseconds since 1970 (UTC)"),
)


def check_times(events: LogFile, now: float) -> None:
    """Report what is wrong with the column `time`, and make it int64.

    Args:
        events: the file; its column of text becomes one of numbers, 0 where the text is none.
        now: seconds since 1970; later times lie in the future.
    """
    texts = pa.array(events.table["time"], pa.string())
    whole = np.asarray(pc.and_(pc.ascii_is_decimal(texts), pc.less_equal(pc.binary_length(texts), 18)))
    times = np.zeros(len(texts), dtype=np.int64)
    if whole.all():
        times = texts.cast(pa.int64()).to_numpy()
    else:
        rest = np.flatnonzero(~whole)
        whole[rest] = np.asarray(pc.match_substring_regex(texts.take(pa.array(rest)), _WHOLE))
        digits = pc.replace_substring_regex(texts.filter(pa.array(whole)), r"\..*", "")
        times[whole] = digits.cast(pa.int64()).to_numpy()
        _report_text(events, texts, whole)
    positive = times > 0
    events.flag(whole & (times < 0), "time", "negative time")
    events.flag(whole & (times == 0), "time", "time 0, which stands for a missing time", value=False)
    events.flag(positive & (times < _SECONDS_BELOW), "time", "seconds instead of milliseconds? (multiply by 1000)")
    future = times > now * 1000 + DAY_MS
    events.flag(times >= _NANOSECONDS_FROM, "time", "nanoseconds instead of milliseconds? (divide by 1,000,000)")
    events.flag(
        (times >= _MICROSECONDS_FROM) & (times < _NANOSECONDS_FROM),
        "time",
        "microseconds instead of milliseconds? (divide by 1000)",
    )
    events.flag(future & (times < _MICROSECONDS_FROM), "time", "a time in the future")
    events.table["time"] = pd.Series(times, dtype=np.int64)


def _report_text(events: LogFile, texts: pa.Array, whole: np.ndarray) -> None:
    open_rows = ~whole
    missing = np.asarray(pc.equal(pc.utf8_trim_whitespace(texts), ""))
    events.flag(open_rows & missing, "time", "no value", value=False)
    open_rows &= ~missing
    # What holds a line break has been reported as such.
    open_rows &= ~np.asarray(pc.match_substring_regex(texts, "[\r\n]"))
    for pattern, what in _OTHER:
        matches = open_rows & np.asarray(pc.match_substring_regex(texts, pattern))
        events.flag(matches, "time", what)
        open_rows &= ~matches
    events.flag(open_rows, "time", "no whole number of milliseconds since 1970 (UTC)")
