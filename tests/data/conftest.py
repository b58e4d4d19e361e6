"""Logs as real ones are: acts of several rows, acts that overlap, repeated items, twins, baskets."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from bench.data.build import build
from bench.data.log import Log


@pytest.fixture(scope="session")
def make_messy() -> Callable[..., Log]:
    """Factory of logs with overlapping acts; see `messy_log`."""
    return messy_log


def messy_log(
    seed: int = 0,
    n_users: int = 4,
    acts: int = 15,
    n_items: int = 12,
    instants: int = 40,
    mode: str = "natural",
    strict: bool = False,
) -> Log:
    """Users with `acts` acts each at `instants` possible times; items repeat.

    Natural: an act is a click, a basket (several rec rows) or a search with one to four clicks, rows up to three
    instants apart. Mirror: an act is a rec row and its search row.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for act in range(n_users * acts):
        user, time = act % n_users, int(rng.integers(instants))
        if mode == "mirror":
            item = int(rng.integers(n_items))
            rows += [(act, user, item, time, 0, ""), (act, user, item, time, 1, f"q{rng.integers(3)}")]
            continue
        kind, size = rng.integers(3), int(rng.integers(1, 5))
        query = f"q{rng.integers(3)}" if kind == 2 else ""
        for item in rng.permutation(n_items)[: 1 if kind == 0 else size]:
            rows.append((act, user, int(item), time + int(rng.integers(4)), int(kind == 2), query))
    events = pd.DataFrame(rows, columns=["act", "user", "item", "time", "task", "query"])
    events["time"] *= 1000
    events[["user", "item"]] = events[["user", "item"]].astype(str)
    items = pd.DataFrame({"id": [str(item) for item in range(n_items)], "text": ""})
    queries = pd.DataFrame({"id": ["q0", "q1", "q2"], "text": ["q0", "q1", "q2"]})
    return build("messy", mode, events, items, queries, seed=seed, manifest={"strict_time": strict})
