"""The conformance checks on every registered model. Registering a model adds it here; nothing else is to be done."""

import importlib.util
from functools import cache

import pytest

import bench.testing
from bench.errors import RunError
from bench.ranker import registry
from bench.testing import Result

# One worker runs all checks of a model, so that it is fitted once (pytest-xdist, --dist loadgroup).
CASES = [
    pytest.param(model, check, marks=pytest.mark.xdist_group(f"conformance of {model}"))
    for model in registry.entries()
    for check in bench.testing.CHECKS
]


@cache
def results(model: str) -> dict[str, Result]:
    """The results of all checks of a model, by check."""
    return {result.check: result for result in bench.testing.check(model).results}


@pytest.mark.parametrize(("model", "check"), CASES)
def test_conformance(model, check):
    try:
        result = results(model)[check]
    except RunError as error:
        if "RecBole" in str(error) and importlib.util.find_spec("recbole") is None:
            pytest.skip(str(error))
        raise
    if result.status == "failed":
        pytest.fail(f"{model}: {check}: {result.sentence}", pytrace=False)
