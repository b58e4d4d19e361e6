"""Shared fixtures: small logs with known content, isolated folders."""

import importlib.util
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest

from bench.data.build import build
from bench.data.log import Log

needs_recbole = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's data folder or the results of this checkout."""
    monkeypatch.setenv("BENCH_DATA", str(tmp_path_factory.getbasetemp() / "data"))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def exact_tiny_numbers() -> Iterator[None]:
    """After a run in this process the smallest numbers count again; hypothesis refuses to draw floats where they do not."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def make_log() -> Callable[..., Log]:
    """Factory of random logs; see `random_log`."""
    return random_log


def random_log(
    seed: int = 0,
    n_users: int = 12,
    n_items: int = 40,
    n_queries: int = 6,
    length: int = 12,
    mode: str = "disjoint",
    days: bool = False,
    shuffle: int | None = None,
    only: int | None = None,
) -> Log:
    """Every user touches `length` distinct items; a coin decides the task (mode mirror: both). `days` cuts times to days,
    `shuffle` permutes the raw rows, `only` names the one task (0 or 1).
    """
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), length)
    item = np.concatenate([rng.permutation(n_items)[:length] for _ in range(n_users)])
    time = rng.integers(0, 5 * 86_400_000, len(user))
    if days:
        time = time // 86_400_000 * 86_400_000
    task = rng.integers(0, 2, len(user)) if only is None else np.full(len(user), only)
    carried = [[f"q{query}" for query in sorted(rng.permutation(n_queries)[:2])] for _ in range(n_items)]
    query = np.asarray([carried[i][rng.integers(2)] for i in item], dtype=object)
    events = pd.DataFrame(
        {"act": np.arange(len(user)), "user": user, "item": item, "time": time, "query": query, "task": task}
    )
    if mode == "mirror":
        events = pd.concat([events.assign(task=0, query=""), events.assign(task=1)], ignore_index=True)
    else:
        events["query"] = np.where(events["task"] == 1, events["query"], "")
    if shuffle is not None:
        events = events.sample(frac=1, random_state=shuffle)
    events[["user", "item"]] = events[["user", "item"]].astype(str)
    items = pd.DataFrame(
        {
            "id": [str(i) for i in range(n_items)],
            "text": [f"title{i} {' '.join(keys)}" for i, keys in enumerate(carried)],
            "categories": carried,
            "queries": carried,
            "feature:kind": [str(i % 3) for i in range(n_items)],
        }
    )
    queries = pd.DataFrame({"id": [f"q{query}" for query in range(n_queries)]})
    queries["text"] = queries["id"]
    return build("random", mode, events, items, queries, seed=seed)
