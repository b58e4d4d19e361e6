"""The audit of a prepared data set with one candidate set: leaks, give-aways, and how much chance is in a number."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bench.data import hashing
from bench.data.few_users import few_test_users
from bench.data.history import Window
from bench.data.log import TASKS, Log
from bench.data.split import split
from bench.errors import UsageError
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.finding import Finding, in_order
from bench.evaluation.metrics import PRIMARY, Metric, values
from bench.evaluation.ranks import Ranks
from bench.experiments.prepared_data import PreparedData

DRAWS = 5  # of candidates, and orders of events of one time
_ROWS = 4096  # histories that are gathered at a time
_BINS = 10
_SURE = 1e-6  # p-value below which columns of the clicked items are no chance
_MANY_TIES, _FEW_TEXTS, _MANY_COLD = 0.05, 0.5, 0.1
_LIMIT = 20_000  # rows a task that draws and orders are compared on
_TEN = Metric("R", 10)


def audit_data(prepared: PreparedData, candidates: CandidateSet) -> list[Finding]:
    """The findings on a data set, its split and its candidates, the gravest first.

    Raises:
        UsageError: the candidates do not fit the data.
    """
    return in_order(finding for check in CHECKS for finding in check(prepared, candidates))


def leaks(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """Counters that must be zero."""
    for name, value in prepared.leaks(candidates).items():
        if name.startswith("zero:") and value:
            yield Finding(
                "severe",
                "leaks",
                prepared.name,
                f"{name.removeprefix('zero:')}",
                f"{value:,} times",
                "prepare the data again, and rank on candidates drawn from them",
            )


def copies(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """A scorer that looks whether the candidate stands in the history must do no better than chance."""
    if candidates.items is None:
        return
    events = prepared.log.events
    for task, chosen in _tasks(prepared, candidates):
        rows, items = candidates.rows[chosen], candidates.items[chosen]
        there = np.concatenate(list(_in_history(prepared, rows, items)))
        own = there[np.arange(len(rows)), candidates.position[chosen]]
        counted = _counts(there.astype(np.int32), items, candidates.position[chosen])
        hit, chance = (float(values(_TEN, *each).mean()) for each in (counted, _constant(items)))
        deviation = (chance * (1 - chance) / len(np.unique(events.user[rows]))) ** 0.5
        if own.any():
            yield Finding(
                "severe",
                "copies",
                f"{prepared.name}, {task}",
                "the clicked item stands in the history that models read",
                f"in {own.mean():.1%} of {len(own):,} test rows; copying the history has R@10 {hit:.3f}, chance {chance:.3f}",
                "give the twin events of one act the same event id, and remove repeated pairs of user and item",
            )
        elif hit < chance - 3 * deviation:
            yield Finding(
                "warning",
                "copies",
                f"{prepared.name}, {task}",
                "negatives stand in the histories, so that avoiding what was seen is enough to win",
                f"copying the history has R@10 {hit:.3f}, chance {chance:.3f}",
                "draw negatives that the user never touched",
            )


def positions(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """The clicked item's column must be uniform: where scores tie, an unstable sort would follow it."""
    if candidates.items is None:
        return
    from scipy.stats import chisquare

    lengths = (candidates.items > 0).sum(axis=1)
    for task, chosen in _tasks(prepared, candidates):
        bins = candidates.position[chosen] * min(_BINS, int(lengths[chosen].min())) // lengths[chosen]
        counts = np.bincount(bins, minlength=min(_BINS, int(lengths[chosen].min())))
        if len(counts) > 1 and counts.sum() >= 5 * len(counts) and chisquare(counts).pvalue < _SURE:
            first = float((candidates.position[chosen] == np.bincount(candidates.position[chosen]).argmax()).mean())
            column = int(np.bincount(candidates.position[chosen]).argmax())
            yield Finding(
                "severe",
                "positions",
                f"{prepared.name}, {task}",
                "the column of the clicked item tells which it is",
                f"column {column} in {first:.1%} of the lists of {int(lengths[chosen].max())}",
                "shuffle every list by a hash of its row",
            )


def future(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """How much of the training is later than the test events."""
    share = prepared.leaks(candidates)["share of training later than the test event"]
    if isinstance(share, float) and share > 0:
        yield Finding(
            "note",
            "future",
            prepared.name,
            "training knows events of other users that are later than the test events",
            f"{share:.1%} of the training on average",
            "say so, and add --split global-time",
        )


def tie_orders(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """Events of one time: what other orders of them do to the test items, and to the popularity ranking."""
    log, name = prepared.log, prepared.split.name
    if log.manifest.get("times") == "order" or name == "given":
        return
    base = _test_items(prepared.split.rows("test"), log)
    changed, metrics = [], []
    for seed in range(1, DRAWS + 1):
        try:
            other = split(retied(log, seed), name)
        except UsageError:
            return  # so few rows that another order leaves none
        changed.append(float((~np.isin(base, _test_items(other.rows("test"), other.log))).mean()))
        metrics.append(_popularity(PreparedData(prepared.name, prepared.entry, {}, other.log, other)))
    if max(changed) == 0:
        return
    spread = "; ".join(
        f"{task} popularity {PRIMARY} {min(each):.3f} to {max(each):.3f}"
        for task in prepared.tasks
        if (each := [one[task] for one in metrics if task in one])
    )
    yield Finding(
        "warning" if np.mean(changed) > _MANY_TIES else "note",
        "tie orders",
        prepared.name,
        "the order of events with the same time decides which of them is tested",
        f"{np.mean(changed):.1%} of the test items change between {DRAWS} orders; {spread}",
        "quote the spread, and read no difference that is smaller",
    )


def draws(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """How much the draw of the negatives moves a number."""
    if candidates.items is None or candidates.meta["strategy"] == "given":
        return
    seeds = [_popularity(prepared, candidates.meta["strategy"], seed) for seed in range(DRAWS)]
    each = {task: [one[task] for one in seeds if task in one] for task in prepared.tasks}
    spread = "; ".join(
        f"{task} popularity {PRIMARY} {np.mean(each[task]):.3f}, std {np.std(each[task], ddof=1):.4f}"
        for task in prepared.tasks
        if each[task]
    )
    yield Finding(
        "note",
        "draws",
        prepared.name,
        f"another draw of the candidates gives another number ({DRAWS} draws)",
        spread,
        "compare models on one draw only, and quote differences between draws as noise",
    )


def difficulty(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """What makes a search row easy: few negatives fit the query."""
    carrying = prepared.leaks(candidates).get("negatives that carry the query (mean)")
    if carrying is not None and carrying < 1:
        yield Finding(
            "note",
            "easy negatives",
            f"{prepared.name}, search",
            "few negatives fit the query, so matching it is nearly enough",
            f"{carrying:.2f} of {candidates.label} on average carry it",
            "add --candidates same-query",
        )


def content(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """What is made up or missing in the data."""
    facts = prepared.leaks(candidates)
    if prepared.synthetic:
        yield Finding(
            "note", "synthetic", prepared.name, f"made up: {prepared.synthetic}", "", "say so in every caption"
        )
    if prepared.log.items.text is not None and facts["items with text"] < _FEW_TEXTS:
        yield Finding(
            "warning",
            "texts",
            prepared.name,
            "few items have a text, so models of text read something else",
            f"{facts['items with text']:.1%} of {len(prepared.log.items):,} items",
            "find the texts, or show the result without words of the category",
        )
    for entity in ("users", "items"):
        rows = facts[f"test rows of {entity} without training"]
        if rows > _MANY_COLD * len(prepared.split.test):
            yield Finding(
                "note",
                "cold rows",
                prepared.name,
                f"test rows of {entity} without a training event",
                f"{rows:,} of {len(prepared.split.test):,}",
                "show them apart (bench report)",
            )


def size(prepared: PreparedData, candidates: CandidateSet) -> Iterator[Finding]:
    """Too few users to tell models apart, and rows without candidates."""
    for sentence in few_test_users(prepared.split):
        yield Finding("warning", "few users", prepared.name, sentence, "", "read no difference between models here")
    if left_out := candidates.meta.get("left_out"):
        yield Finding(
            "warning",
            "missing rows",
            prepared.name,
            f"{candidates.label} candidates leave out test rows whose users have too few items left",
            f"{left_out['rows']:,} rows",
            "use --candidates full",
        )


CHECKS: tuple[Callable[[PreparedData, CandidateSet], Iterator[Finding]], ...] = (
    leaks,
    copies,
    positions,
    future,
    tie_orders,
    draws,
    difficulty,
    content,
    size,
)


def retied(log: Log, seed: int) -> Log:
    """The log with another order of a user's events of one time; events of one act stay together in time as before."""
    events = log.events
    tie = hashing.draw(hashing.key("audit-ties", seed), events.user, events.event_id)
    order = np.lexsort((events.item, tie, events.time, events.user))
    return replace(log, events=events.take(order))


def popularity_ranks(prepared: PreparedData, candidates: CandidateSet) -> Ranks:
    """Ranks by the number of training events; lists of the full catalogue are not counted.

    Raises:
        UsageError: the candidates are the full catalogue.
    """
    if candidates.items is None:
        raise UsageError("popularity is ranked on drawn candidates only")
    events = prepared.log.events
    counts = np.bincount(events.item[prepared.split.train], minlength=len(prepared.log.items) + 1)
    counted = _counts(counts[candidates.items], candidates.items, candidates.position)
    columns = {key: getattr(events, key)[candidates.rows] for key in ("user", "event_id", "item", "task", "query")}
    return Ranks(**columns, better=counted[0], tied=counted[1], candidates=counted[2])


def _popularity(prepared: PreparedData, strategy: str = "uniform", seed: int = 0) -> dict[str, float]:
    """The primary metric of popularity on each task."""
    try:
        drawn = draw(prepared.split, "test", prepared.tasks, strategy, seed, limit=_LIMIT)
    except UsageError:
        return {}  # the catalogue is too small to draw from
    ranks = popularity_ranks(prepared, drawn)
    return {task: ranks.only(task).mean(PRIMARY) for task in ranks.tasks}


def _tasks(prepared: PreparedData, candidates: CandidateSet) -> Iterator[tuple[str, np.ndarray]]:
    """Each task with rows, and which rows of the candidates they are."""
    task = prepared.log.events.task[candidates.rows]
    for code, name in enumerate(TASKS):
        if (task == code).any():
            yield name, np.flatnonzero(task == code)


def _in_history(prepared: PreparedData, rows: np.ndarray, items: np.ndarray) -> Iterator[np.ndarray]:
    """(n, C) bool, in parts: whether a candidate stands in what a model may read of the past, 100 units deep."""
    width = np.int64(len(prepared.log.items) + 1)
    for low in range(0, len(rows), _ROWS):
        past = prepared.batches.histories.gather(rows[low : low + _ROWS], Window(rec=100, search=100, clicks=100))
        part = items[low : low + _ROWS]
        seen = np.concatenate([past.rec_items, past.search_items.reshape(len(part), -1)], axis=1)
        owner = np.arange(len(part), dtype=np.int64)[:, None] * width
        yield np.isin(owner + part, np.unique((owner + seen)[seen > 0])) & (part > 0)


def _counts(scores: np.ndarray, items: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negatives above and tied, and the length of each list, (n,) each, from whole numbers (n, C) as scores."""
    own = np.take_along_axis(scores, position[:, None], axis=1)
    valid = items > 0
    return ((scores > own) & valid).sum(1), ((scores == own) & valid).sum(1) - 1, valid.sum(1)


def _constant(items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = (items > 0).sum(1)
    return np.zeros_like(lengths), lengths - 1, lengths


def _test_items(rows: np.ndarray, log: Log) -> np.ndarray:
    """(n,) a number for each tested (user, task, item), distinct."""
    events = log.events
    person = events.user[rows].astype(np.int64) * len(TASKS) + events.task[rows]
    return np.unique(person * (len(log.items) + 1) + events.item[rows])
