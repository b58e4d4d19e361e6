"""The models of docs/add-a-model.md with stages and over sequences: they are fitted as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.scoring import RowValidation
from bench.ranker.contract import Context

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"


def model(name):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    (block,) = [block for block in blocks if f'@register("{name}"' in block]
    scope = {"__name__": f"docs_{name.replace('-', '_')}"}
    exec(compile(block, str(PAGE), "exec"), scope)
    return next(value for value in scope.values() if getattr(value, "entry", None) is not None)


@pytest.mark.parametrize("name", ["two-steps", "next-click"])
def test_the_model_is_fitted(make_log, name):
    log = make_log(n_users=30, n_items=130, length=14)
    batches, cls = Batches(split(log)), model(name)
    torch.manual_seed(0)
    ranker = cls(cls.Config(epochs=2, batch_size=32), Context(Catalog(log), tasks=("rec",)))
    before = {key: value.clone() for key, value in ranker.state().items()}
    facts = ranker.fit(TrainData(batches, ("rec",), 0), RowValidation(batches, ("rec",), ranker.window))
    assert all(not torch.equal(value, before[key]) for key, value in ranker.state().items())
    assert np.isfinite(facts["best"])
    if name == "two-steps":
        assert [(stage["stage"], stage["epochs"]) for stage in facts["stages"]] == [("vectors", 20), ("fit", 2)]
