"""Every trained model finds a planted signal, and finds nothing where there is nothing."""

import importlib.util
from functools import cache

import numpy as np
import pytest
import torch

from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.log import TASKS
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.metrics import parse
from bench.evaluation.scoring import RowValidation, rank
from bench.ranker import backbone, registry
from bench.ranker.contract import Context

SIZE = {"users": 250, "items": 1_200, "events": 36_000, "topics": 8}
SIGNAL = {"taste": 0.9, "relevance": 0.9}
NOISE = {"taste": 0, "transition": 0, "relevance": 0, "popularity": 0}
STEPS = 200
# Least N@10 among 100 candidates with the signal. A uniform rank has .045, popularity .095 (rec) and .075 (search).
# A model or task that is not here has to be clear of chance.
FLOORS = {
    "bert4rec": {"rec": 0.1},
    "gru4rec": {"rec": 0.08},
    "lightgcn": {"rec": 0.25},
    "sasrec": {"rec": 0.1},
    "seqrec": {"rec": 0.15},
}
# Cloze needs many more steps than the others; these make the most of a few.
SETTINGS = {"bert4rec": {"lr": 5e-3, "schedule": "constant", "dropout": 0.2}}
# Mean and variance of N@10 of a row whose positive has a uniform rank among 100.
GAINS = np.r_[1 / np.log2(np.arange(1, 11) + 1), np.zeros(90)]
TRAINED = [name for name, entry in registry.entries().items() if entry.group != "trivial"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """(model, strengths) -> (N@10, test rows) by task, after a short training."""
    root = tmp_path_factory.mktemp("planted")

    @cache
    def prepared(options: tuple[tuple[str, float], ...]):
        log = sources.load("simulated", SIZE | dict(options), root / str(len(options)))
        parts = split(log, "last-day")
        return log, Batches(parts), draw(parts)

    def fit(name: str, options: dict[str, float]) -> dict[str, tuple[float, int]]:
        log, batches, candidates = prepared(tuple(options.items()))
        try:
            cls = registry.get(name)
            entry = cls.entry
            torch.manual_seed(0)
            config = cls.Config(
                **cls.quick | {"max_steps": STEPS, "steps_per_epoch": STEPS // 2} | SETTINGS.get(name, {})
            )
            model = cls(config, Context(Catalog(log), seed=0, tasks=entry.tasks, backbones=backbone.load))
        except RunError as error:
            if "RecBole" in str(error) and importlib.util.find_spec("recbole") is None:
                pytest.skip(str(error))
            raise
        model.fit(TrainData(batches, entry.tasks, 0), RowValidation(batches, entry.tasks, model.window))
        served = np.isin(log.events.task[candidates.rows], [TASKS.index(task) for task in entry.tasks])
        arrays = (candidates.rows[served], candidates.items[served], candidates.position[served])
        ranks = rank(model.score, batches, CandidateSet(*arrays, candidates.meta), model.window)
        return {task: (ranks.only(task).mean(parse("N@10")), len(ranks.only(task))) for task in entry.tasks}

    return fit


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_planted_signal_is_found(name, fitted):
    for task, (mean, rows) in fitted(name, SIGNAL).items():
        clear = GAINS.mean() + 4 * (GAINS.var() / rows) ** 0.5
        assert mean >= FLOORS.get(name, {}).get(task, clear), (task, mean, rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_nothing_is_found_in_noise(name, fitted):
    """A model that does better than chance here reads what it should not."""
    for task, (mean, rows) in fitted(name, NOISE).items():
        assert abs(mean - GAINS.mean()) < 4 * (GAINS.var() / rows) ** 0.5, (task, mean, rows)
