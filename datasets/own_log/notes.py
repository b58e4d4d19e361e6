"""What is worth knowing of an own log without problems."""

import pandas as pd

from bench.data.log import TASKS
from bench.data.words import UNSPACED, covered, scripts, tokenize
from bench.datasets.own_log.codes import EventCodes
from bench.datasets.own_log.columns import FEATURE
from bench.datasets.own_log.problem import quoted
from bench.datasets.own_log.read import LogFile
from bench.datasets.own_log.spelling import plain_text, spelled_differently

# Texts whose scripts are looked at; more would say the same and take longer.
_SAMPLE = 5_000


def event_notes(events: LogFile, codes: EventCodes, query_file: bool) -> list[str]:
    """Repeats, ties, missing tasks, and queries that differ in their spelling only.

    Args:
        events: the file without problems.
        codes: its rows as numbers.
        query_file: whether queries are ids of a file of queries; else they are texts.
    """
    notes = []
    twice = int(codes.repeated.sum())
    if twice:
        notes.append(f"{twice:,} events are there more than once in all columns; each is used once")
    notes += [
        f"no {task} events; models of {task} cannot be compared on this log"
        for code, task in enumerate(TASKS)
        if not (codes.table["task"] == code).any()
    ]
    notes.append(f"{codes.tied.mean():.1%} of the events share user and time with another; a hash orders those")
    if not query_file and len(codes.queries):
        spellings = spelled_differently(codes.queries, plain_text(codes.queries))
        apart = "blanks, case or width of letters alone tell them apart"
        notes += [f"{events.name}, column query: {spellings}; {apart}"] if spellings else []
    return notes


def text_notes(files: dict[str, LogFile], queries: pd.Index, unclicked: int) -> list[str]:
    """What there is to read of items and queries, and which features there are.

    Args:
        files: the files by name ("events", "items", ...), without problems.
        queries: the distinct queries of the events.
        unclicked: number of items that occur in no event.
    """
    notes = []
    items = files.get("items")
    if items is None or not ("text" in items or "words" in items):
        notes.append("items have no text; models that read text see ids only")
    elif "text" in items:
        notes.append(f"{(items.table['text'] != '').mean():.1%} of the items have a text")
    if unclicked:
        notes.append(
            f"{unclicked:,} items that nobody clicked are candidates all the same (--set log.unclicked_items=false leaves "
            "them out)"
        )
    if items is not None and "text" in items and "words" not in items:
        notes += _script_notes("items", items.table["text"])
    query_file = files.get("queries")
    if query_file is None or not ("text" in query_file or "words" in query_file):
        notes += _script_notes("queries", queries)
    elif "words" not in query_file:
        notes += _script_notes("queries", query_file.table["text"])
    features = [
        f"{name}.{column}" for name, file in files.items() for column in file.table if column.startswith(FEATURE)
    ]
    return notes + ([f"features: {', '.join(features)}"] if features else [])


def _script_notes(name: str, texts: pd.Series | pd.Index) -> list[str]:
    """Scripts that put no blanks between words, scripts that no rule covers, and texts that give no word at all."""
    sample = [text for text in texts[:: max(1, -(-len(texts) // _SAMPLE))] if text]
    counts = scripts(sample)
    pairs = {script: count for script, count in counts.items() if script in UNSPACED}
    unknown = {script: count for script, count in counts.items() if not covered(script)}
    mute = [text for text in sample if not tokenize(text)]
    notes = []
    if pairs:
        notes.append(f"{name}: {_shares(pairs, sample)}; pairs of neighbouring characters stand for words there")
    if unknown:
        notes.append(
            f"{name}: {_shares(unknown, sample)}, whose words no rule here covers; give your own in a column words"
        )
    if mute:
        notes.append(f"{name}: {len(mute) / len(sample):.1%} of the texts hold no word, such as {quoted(mute[0])}")
    return notes


def _shares(counts: dict[str, int], sample: list[str]) -> str:
    return ", ".join(f"{count / len(sample):.1%} of the texts hold {script}" for script, count in counts.items())
