"""Twins of a sound model that only the audit of a finished run can tell from it, each broken in one way."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.data.build import build
from bench.data.log import Log
from bench.data.split import LogSplit
from bench.ranker.contract import Context
from bench.ranker.registry import register

from ..broken_twins import Sound, TwinConfig


def _registered(name: str):
    return register(name, title=name, tasks=("rec", "search"), group="unified")


@_registered("bf16-probabilities")
class Bf16Probabilities(Sound):
    """Answers with float32 numbers that were computed in bfloat16."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else torch.sigmoid(scores.bfloat16()).float()


@_registered("noise-of-the-query")
class NoiseOfTheQuery(Sound):
    """Every query changes the scores and none of them says anything."""

    def wish(self, batch: Batch) -> Tensor:
        return self.out(self.past(batch) + self.users(batch.user))

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + 1e-3 * ((batch.query * 7919)[:, None] * batch.cand % 101)


class _Remembers(Sound):
    """Lifts the pairs of user and item that it has seen."""

    def __init__(self, config: TwinConfig, context: Context):
        super().__init__(config, context)
        self.register_buffer("seen", torch.zeros(self.catalog.n_users + 1, self.catalog.n_items + 1))

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + 5.0 * self.seen[batch.user[:, None], batch.cand]

    def remember(self, split: LogSplit, parts: tuple[str, ...]) -> None:
        """Take in the pairs of some parts of a split."""
        for part in parts:
            rows = split.rows(part)
            self.seen[split.log.events.user[rows].astype(np.int64), split.log.events.item[rows].astype(np.int64)] = 1


@_registered("remembers-training")
class RemembersTraining(_Remembers):
    """The sound twin: the pairs of the training."""

    parts = ("train",)


@_registered("trained-on-test")
class TrainedOnTest(_Remembers):
    """Has seen the rows that it is tested on."""

    parts = ("train", "test")


@_registered("item-numbers")
class ItemNumbers(Sound):
    """Later items first."""

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) * 1e-6 + batch.cand.float() if not self.training else super().score(batch)


@_registered("one-score")
class OneScore(Sound):
    """The same for every candidate."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else torch.zeros_like(scores)


@_registered("copies-the-history")
class CopiesTheHistory(Sound):
    """Lifts what stands in the history: harmless where the target never does."""

    def score(self, batch: Batch) -> Tensor:
        past = torch.cat(
            [batch.rec_items * batch.rec_mask, (batch.search_items * batch.search_click_mask).flatten(1)], 1
        )
        there = (batch.cand[:, :, None] == past[:, None, :]).any(-1)
        return super().score(batch) + 9.0 * there


USERS, CLUSTERS, EACH, LENGTH = 110, 6, 30, 14


def tastes(days: bool = False, again: float = 0.0) -> Log:
    """A log that is learnt within seconds: users keep to a cluster of items in half of their acts, the query of a search
    names the cluster of its item.

    Args:
        days: cut the times to weeks, so that many events share one.
        again: share of users whose last recommendation and last search are on items that they touched before.
    """
    rng = np.random.default_rng(0)
    n_items = CLUSTERS * EACH
    user = np.repeat(np.arange(USERS), LENGTH)
    items, tasks = [], []
    for each in range(USERS):
        own = rng.permutation(np.arange(each % CLUSTERS, n_items, CLUSTERS))[: LENGTH // 2]
        search = rng.permutation(np.setdiff1d(np.arange(n_items), own))[: LENGTH - len(own)]
        order = rng.permutation(LENGTH)
        items.append(np.concatenate([own, search])[order])
        tasks.append((np.arange(LENGTH) >= len(own)).astype(int)[order])
        if each < again * USERS:
            for kind in (0, 1):
                places = np.flatnonzero(tasks[-1] == kind)
                items[-1][places[-1]] = items[-1][places[0]]
    item, task = np.concatenate(items), np.concatenate(tasks)
    time = np.tile(np.arange(LENGTH), USERS) * 1_000_000 + user
    if days:
        time = time // 7_000_000 * 7_000_000
    query = np.where(task == 1, [f"q{i % CLUSTERS}" for i in item], "")
    names = np.char.add("i", item.astype(str))
    events = pd.DataFrame(
        {"act": np.arange(len(user)), "user": np.char.add("u", user.astype(str)), "item": names, "time": time}
    ).assign(query=query, task=task)
    of_item = pd.DataFrame(
        {"id": [f"i{i}" for i in range(n_items)], "text": [f"title{i} c{i % CLUSTERS}" for i in range(n_items)]}
    )
    of_item["queries"] = [[f"q{i % CLUSTERS}"] for i in range(n_items)]
    of_query = pd.DataFrame({"id": [f"q{i}" for i in range(CLUSTERS)], "text": [f"c{i}" for i in range(CLUSTERS)]})
    return build("tastes", "natural", events, of_item, of_query, seed=0).with_fingerprint()
