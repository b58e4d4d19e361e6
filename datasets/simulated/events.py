"""Deliveries and searches of simulated users, as arrays: who, when, what was shown, what was clicked and why."""

from dataclasses import dataclass

import numpy as np

from bench.datasets.simulated.structure import DAY_MS, START_MS, Structure, generator

_BATCH = 4  # rows of a delivery, on average
_SESSION = 3  # rows of a search
_CLICKED_SESSIONS = 0.6


@dataclass(frozen=True)
class Delivered:
    """Rows of the recommendation file, by time."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray  # ms, the same for all rows of a delivery
    click: np.ndarray


@dataclass(frozen=True)
class Searched:
    """Rows of the search file, in a random order."""

    user: np.ndarray
    session: np.ndarray
    time: np.ndarray
    intent: np.ndarray  # of the query
    query: np.ndarray  # number of the query within its intent
    item: np.ndarray  # from `items` on: users, live streams and others, which no catalogue lists
    click: np.ndarray
    other: np.ndarray  # bool, not a video


def simulate(structure: Structure) -> tuple[Delivered, Searched]:
    """All events of a simulation."""
    parameters = structure.parameters
    rng = generator("events", parameters)
    n_search = max(1, round(parameters.events * parameters.search_share))
    n_rec = parameters.events - n_search
    activity = rng.lognormal(0, 0.6, parameters.users)
    batch_user, batch_time, batch_rows = _units(rng, activity, n_rec, _BATCH, parameters.days)
    user, session_time, session_rows = _units(rng, activity, n_search, _SESSION, parameters.days)

    # Recommendation rows and searches with clicks; a search without one leaves no trace in anybody's next step.
    click = rng.random(n_rec) < 0.5
    clicked_batch = np.repeat(np.arange(len(batch_user)), batch_rows)[click]
    has_click = rng.random(len(user)) < _CLICKED_SESSIONS
    has_click[0] = True
    clicked_session = np.flatnonzero(has_click)
    topic_of_row, topic_of_session = _topics(
        structure, rng, batch_user[clicked_batch], batch_time[clicked_batch], user, session_time, clicked_session
    )
    item = rng.integers(parameters.items, size=n_rec, dtype=np.int32)
    low = topic_of_row * parameters.intents
    item[click] = structure.draw(rng, low, low + parameters.intents)
    rec = Delivered(np.repeat(batch_user, batch_rows), item, np.repeat(batch_time, batch_rows), click.astype(np.int8))
    order = np.argsort(rec.time, kind="stable")
    rec = Delivered(**{name: column[order] for name, column in vars(rec).items()})
    return rec, _search_rows(structure, rng, user, session_time, session_rows, clicked_session, topic_of_session)


def _units(
    rng: np.random.Generator, activity: np.ndarray, rows: int, size: int, days: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deliveries or searches by (user, time): user, time, number of rows; at least one a user where rows allow."""
    count = max(1, rows // size)
    n_users = len(activity)
    user = rng.choice(n_users, size=count, p=activity / activity.sum()).astype(np.int32)
    everybody = min(n_users, count)
    user[:everybody] = np.arange(everybody)
    time = START_MS + rng.integers(int(days * DAY_MS), size=count)
    order = np.lexsort((time, user))
    size_of = 1 + np.bincount(rng.integers(count, size=rows - count), minlength=count)
    return user[order], time[order], size_of


def _topics(
    structure: Structure,
    rng: np.random.Generator,
    row_user: np.ndarray,
    row_time: np.ndarray,
    user: np.ndarray,
    time: np.ndarray,
    clicked: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Topic of each clicked row and of each session.

    Both are sorted by (user, time). Each takes the topic of the user's last unit of the other kind before it with
    probability `transition` (one of the two kinds only, if `direction` says so), else a favourite topic with probability
    `taste`, else any: a row one by the weight of its items, so that the item is a draw from all of them, a session each
    alike.
    """
    parameters = structure.parameters
    n_rows, n_sessions = len(row_user), len(user)
    span = int(parameters.days * DAY_MS) + 2
    row_key = row_user.astype(np.int64) * span + (row_time - START_MS)
    key = user.astype(np.int64) * span + (time - START_MS)
    before_row = np.searchsorted(key[clicked], row_key) - 1
    has = before_row >= 0
    has[has] = user[clicked][before_row[has]] == row_user[has]
    before_session = np.searchsorted(row_key, key) - 1
    had = before_session >= 0
    had[had] = row_user[before_session[had]] == user[had]

    whose = np.concatenate([row_user, user])
    has &= parameters.direction != "to-search"
    had &= parameters.direction != "to-rec"
    copies = np.concatenate([has, had]) & (rng.random(n_rows + n_sessions) < parameters.transition)
    source = np.concatenate([n_rows + clicked[before_row], before_session])
    parent = np.where(copies, source, np.arange(n_rows + n_sessions))
    mass = structure.topic_mass()
    any_for_row = rng.choice(parameters.topics, size=n_rows, p=mass / mass.sum())
    anything = np.concatenate([any_for_row, rng.integers(parameters.topics, size=n_sessions)])
    own = np.where(rng.random(n_rows + n_sessions) < parameters.taste, structure.liked(rng, whose), anything)
    # Copies of copies: follow the pointers, twice as far each time.
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            break
        parent = further
    topic = own[parent]
    return topic[:n_rows], topic[n_rows:]


def _search_rows(
    structure: Structure,
    rng: np.random.Generator,
    user: np.ndarray,
    time: np.ndarray,
    rows: np.ndarray,
    clicked: np.ndarray,
    topic: np.ndarray,
) -> Searched:
    parameters = structure.parameters
    n_sessions, n_rows = len(user), int(rows.sum())
    intent = (topic * parameters.intents + rng.integers(parameters.intents, size=n_sessions)).astype(np.int32)
    # Few queries of an intent are frequent.
    query = (parameters.queries * rng.random(n_sessions) ** 2).astype(np.int32)
    session = np.repeat(np.arange(n_sessions), rows)
    position = np.arange(n_rows) - np.repeat(np.cumsum(rows) - rows, rows)
    wanted = np.zeros(n_sessions, dtype=np.int64)
    wanted[clicked] = rng.geometric(0.7, size=len(clicked))
    click = position < wanted[session]
    item = rng.integers(parameters.items, size=n_rows, dtype=np.int32)
    relevant = rng.random(int(click.sum())) < parameters.relevance
    of = intent[session[click]]
    item[click] = structure.draw(
        rng, np.where(relevant, of, 0), np.where(relevant, of + 1, parameters.topics * parameters.intents)
    )
    # Some results are shown twice with conflicting clicks, some are no videos.
    again = np.flatnonzero(~click & (position > 0) & (rng.random(n_rows) < 0.02))
    item[again] = item[again - 1]
    other = rng.random(n_rows) < 0.05
    item[other] = parameters.items + rng.integers(1000, size=int(other.sum()), dtype=np.int32)
    # The release uses ids of sessions again.
    number = rng.integers(1, max(2, n_sessions // 3) + 1, size=n_sessions)
    order = rng.permutation(n_rows)
    asked = intent
    if parameters.vague:
        # Random numbers of their own: nothing else of the log depends on how vague its queries are.
        own = generator("vague queries", parameters)
        every = parameters.topics * parameters.intents
        limit = min(parameters.vague_intents or every, every)
        elsewhere = own.integers(limit, size=n_sessions, dtype=np.int32)
        asked = np.where(own.random(n_sessions) < parameters.vague, elsewhere, intent)
    columns = {
        "user": user[session],
        "session": number[session],
        "time": time[session],
        "intent": asked[session],
        "query": query[session],
        "item": item,
        "click": np.where(click, rng.integers(1, 4, size=n_rows), 0).astype(np.int8),
        "other": other,
    }
    return Searched(**{name: column[order] for name, column in columns.items()})
