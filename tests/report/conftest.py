"""A results folder of its own for every test."""

import pytest

from .results_by_hand import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results")
