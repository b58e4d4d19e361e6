"""The conformance battery on every registered model. Registering a model adds it here; nothing else is to be done."""

import importlib.util

import pytest

import bench.testing
from bench.errors import RunError
from bench.ranker import registry


@pytest.mark.parametrize("name", registry.entries())
def test_model_conforms(name):
    try:
        report = bench.testing.check(name)
    except RunError as error:
        if "RecBole" in str(error) and importlib.util.find_spec("recbole") is None:
            pytest.skip(str(error))
        raise
    if not report.ok:
        pytest.fail(report.text(), pytrace=False)
