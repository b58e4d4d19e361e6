"""GenSR on a small log."""

import pytest

from bench.data.batch import Batch
from bench.models.gensr.model import GenSR

from .gensr_world import World


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture(scope="module")
def model(world) -> GenSR:
    return world.model()


@pytest.fixture
def batch(world, model) -> Batch:
    return world.batch(model)
