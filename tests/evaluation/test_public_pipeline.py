"""The defects of the published preprocessing, re-enacted on MovieLens-100K, are found; under our rules they do not occur.

The public pipeline turns every rating into a recommendation and a search, sorts by (user, time, score) with searches
last, and attaches to each row all that stands before it; a search loses the last recommendation where that is its own
item. The expected shares were measured by running that pipeline apart from this harness.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.baselines.copy_detector import CopyDetector
from bench.data.batch import Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.history import Guards, Histories, Window
from bench.data.log import SEARCH, Log
from bench.data.split import split
from bench.evaluation import leaks
from bench.evaluation.candidates import draw
from bench.evaluation.metrics import Metric
from bench.evaluation.scoring import rank
from bench.ranker.contract import Context

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)
DAY = 86_400
UNGUARDED = Guards(own_event=False, own_item=False)


def ratings() -> pd.DataFrame:
    folder = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    table = pd.read_csv(folder / "ml-100k.inter", sep="\t")
    return table.set_axis([name.partition(":")[0] for name in table], axis=1)


def mirrored(days: bool, published_order: bool) -> Log:
    """Every rating as a recommendation and a search; times in seconds or cut to days."""
    rows = ratings().reset_index(names="act")
    time = rows["timestamp"].to_numpy() // DAY * DAY if days else rows["timestamp"].to_numpy()
    events = pd.DataFrame({"act": rows["act"], "user": rows["user_id"], "item": rows["item_id"], "time": time * 1000})
    both = pd.concat([events.assign(task=0, query=""), events.assign(task=1, query="q")], ignore_index=True)
    if published_order:
        # Within an instant: recommendations by rating, then the searches. Milliseconds of the time carry the score.
        both["time"] += np.r_[rows["rating"].to_numpy(np.int64), np.full(len(rows), 100)]
    both[["user", "item"]] = both[["user", "item"]].astype(str)
    items = pd.DataFrame({"id": both["item"].unique(), "text": ""})
    queries = pd.DataFrame({"id": ["q"], "text": ["q"]})
    return build("movies", "mirror", both, items, queries, seed=0)


def last_searches(log: Log) -> np.ndarray:
    """The public test rows of search: the last search of each user."""
    search = np.flatnonzero(log.events.task == SEARCH)
    return search[np.r_[log.events.user[search][1:] != log.events.user[search][:-1], True]]


@pytest.mark.parametrize(
    ("days", "prefix", "last_30", "last_20"), [(False, 0.160, None, 1.0), (True, 0.667, 0.481, 0.25)], ids=["s", "days"]
)
def test_the_published_shares_of_targets_in_their_own_history(days, prefix, last_30, last_20):
    log = mirrored(days, published_order=True)
    rows = last_searches(log)
    target = log.events.item[rows][:, None]
    past = Histories(log, UNGUARDED).gather(rows, Window(None, None, 1))
    assert len(rows) == 943
    # The public rule: a recommendation prefix loses its last item where that is the target.
    length = past.rec_len - (np.take_along_axis(past.rec_items, past.rec_len[:, None] - 1, 1) == target)[:, 0]
    place = np.arange(past.rec_items.shape[1])
    held = (past.rec_items == target) & (place < length[:, None])
    assert held.any(1).mean() == pytest.approx(prefix, abs=0.02)
    if last_30 is not None:
        assert (held & (place >= length[:, None] - 30)).any(1).mean() == pytest.approx(last_30, abs=0.03)
    # The merged prefix has no such rule.
    items = np.where(
        past.merged_task == 0,
        np.take_along_axis(past.rec_items, np.where(past.merged_task == 0, past.merged_column, 0), 1),
        np.take_along_axis(past.search_items[..., 0], np.where(past.merged_task == 1, past.merged_column, 0), 1),
    )
    total = past.rec_len + past.search_len
    found = (items == target) & (np.arange(items.shape[1]) < total[:, None])
    assert found.any(1).mean() == 1
    recent = found & (np.arange(items.shape[1]) >= total[:, None] - 20)
    assert recent.any(1).mean() == pytest.approx(last_20, abs=0.05)


def copied(batches: Batches) -> float:
    """R@5 of the copy detector on search."""
    model = CopyDetector(CopyDetector.Config(), Context(Catalog(batches.split.log)))
    chosen = draw(batches.split, tasks=("search",))
    return rank(model.score, batches, chosen, model.window).mean(Metric("R", 5))


@pytest.mark.parametrize("days", [False, True], ids=["s", "days"])
def test_our_rules_leave_no_leak_and_without_the_guards_counters_and_copy_detector_find_it(days):
    batches = Batches(split(mirrored(days, published_order=False)))
    counted = leaks.counters(batches, draw(batches.split))
    assert {name: value for name, value in counted.items() if name.startswith("zero:") and value} == {}
    assert copied(batches) == pytest.approx(0.05, abs=1e-9)
    batches.histories = Histories(batches.split.log, UNGUARDED)
    rows = batches.split.test
    found = leaks.counters(batches, draw(batches.split))[leaks.TARGET_IN_HISTORY]
    assert found >= len(rows) // 2, "every search follows its twin"
    assert copied(batches) > 0.99
