"""A results folder of its own for every test, and one with trained models whose report is examined."""

import pytest

import bench.api
from bench.evaluation.metrics import PRIMARY
from bench.report.detail.data import TableData, open_table_data
from bench.report.html.page import Report
from bench.report.table import table
from bench.store.results import Store

from .results_by_hand import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results")


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Three models that serve both tasks or one, with lists, on drawn candidates and on the full catalogue."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.experiments.tracking.CommandTracker._start", lambda self: pytest.fail("no view is needed"))
        patch.setattr("bench.experiments.tracking.CommandTracker.log_run", lambda *_: None)
        size = {"users": 90, "items": 300, "events": 6000}
        bench.api.run(
            "popularity,item-knn,matcher,lightgcn",
            "simulated",
            candidates="uniform,full",
            seeds=[0, 1],
            split="leave-one-out",
            set={"simulated": size, "train": {"epochs": 3}},
            top_lists=True,
            trivial=False,
            threads=1,
            data=root / "data",
            out=root / "results",
            quiet=True,
        )
    return Store(root / "results")


@pytest.fixture(scope="session")
def data_root(store):
    return store.root.parent / "data"


@pytest.fixture(scope="module")
def block(store):
    (made,) = table(store, candidates="uniform").blocks
    made.test((PRIMARY,))
    return made


@pytest.fixture(scope="module")
def data(block, data_root):
    opened = open_table_data(block.group.dataset, data_root)
    assert isinstance(opened, TableData), opened
    return opened


@pytest.fixture(scope="module")
def report(store, data_root):
    return Report(table(store, candidates="uniform"), data_root, "bench report")


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return path
