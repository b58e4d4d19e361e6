"""`bench run --dry-run`: it says what is there and what is not, runs nothing, and its estimates come near what is measured."""

import re
import sys

import pytest

from bench.experiments.estimate import dry_run
from bench.experiments.run import RunRequest, run
from bench.experiments.settings import Overrides
from bench.ranker import registry

from .faulty_models import write_log, write_package


@pytest.fixture
def request_(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write_package(tmp_path / "package"))
    registry.entries.cache_clear()

    class Nothing:
        def __init__(self, *_):
            pass

        start = log_run = fail = finish = lambda *_: None

    monkeypatch.setattr("bench.store.mlflow_view.Tracker", Nothing)
    log = write_log(tmp_path / "log")

    def run_request(models, **options):
        pause = Overrides({"steps": {"pause": 0.1, "epochs": 5, "steps_per_epoch": 6}} if "steps" in models else {})
        return RunRequest(
            models, (f"log:{log}",), trivial=False, out=tmp_path / "out", threads=1, overrides=pause, **options
        )

    yield run_request
    registry.entries.cache_clear()
    sys.modules.pop("faulty_models", None)


def test_it_says_what_is_there_and_estimates_the_rest(request_, tmp_path):
    asked = request_("steps,fine,broken")
    lines = dry_run(asked)
    assert not list(tmp_path.glob("out/*/*/run.json")) and not list(tmp_path.glob("out/*/*.part"))
    steps = next(line for line in lines if "/steps-" in line)
    estimate = float(re.search(r"at most ([\d.]+) s", steps).group(1))
    # Thirty steps that each sleep for .1 s; a check of sixty users costs next to nothing.
    assert estimate >= 3 and "from a few timed steps" in steps
    assert any("/broken-" in line and "no estimate: broken" in line for line in lines)
    assert any("/fine-" in line and "from a whole fit" in line for line in lines)
    run(request_("steps"))
    again = dry_run(request_("steps", seeds=(0, 1)))
    assert (
        again[0].endswith("there already")
        and "from 1 earlier run" in again[1]
        and again[2].startswith("2 runs, 1 of them")
    )
