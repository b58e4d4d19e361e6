"""A run again, by force, after a stop, and on further candidates: the same bytes each time."""

from pathlib import Path

import pytest

import bench
from bench.experiments.checkpoints import DiskCheckpoints
from bench.store.results import Store

LOG = {"simulated": {"users": 150, "items": 400, "events": 8_000}}
SMALL = {"d": 16, "embedding": 8, "heads": 1, "experts": 1, "history_rec": 5, "history_search": 5}
SHORT = {"unisar": {"epochs": 3, "steps_per_epoch": 3, "batch_size": 64} | SMALL}


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch):
    """The plain files are what is compared; the view of them has tests of its own."""
    import bench.store.mlflow_view as tracking

    class Nothing:
        def __init__(self, *_):
            pass

        start = log_run = fail = finish = lambda *_: None

    monkeypatch.setattr(tracking, "Tracker", Nothing)


def run(out, settings=SHORT, **options):
    return bench.run(
        "unisar", "simulated", out=out, trivial=False, quiet=True, threads=1, set=settings | LOG, **options
    )


def files(out: Path) -> dict[str, bytes]:
    """Ranks and weights by the name of their run's folder."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(out.glob("simulated/*/*"))
        if path.suffix == ".safetensors" or path.name.startswith("ranks-")
    }


class Stopped(BaseException):
    """Stands for Ctrl-C or a lost machine; no handler of errors may take it for one."""


def test_repeat_force_and_resume_give_the_same_bytes(tmp_path, monkeypatch):
    first = run(tmp_path / "a")
    assert first.fresh == 1 and not first.failed
    expected = files(tmp_path / "a")
    assert len(expected) == 2

    assert run(tmp_path / "a").fresh == 0, "a finished run is not repeated"
    assert run(tmp_path / "a", force=True).fresh == 1
    assert files(tmp_path / "a") == expected, "by force: the same bytes"

    # Stopped in the second epoch, in another folder; the same command goes on there.
    original, calls = DiskCheckpoints.save, []

    def stop(self, state):
        calls.append(state["step"])
        if len(calls) == 2:
            raise Stopped
        original(self, state)

    monkeypatch.setattr(DiskCheckpoints, "save", stop)
    with pytest.raises(Stopped):
        run(tmp_path / "b")
    assert files(tmp_path / "b") == {} and list(tmp_path.glob("b/simulated/*.part/checkpoint.pt"))
    monkeypatch.setattr(DiskCheckpoints, "save", original)
    assert run(tmp_path / "b").fresh == 1
    assert files(tmp_path / "b") == expected, "resumed: the same bytes"
    assert not list(tmp_path.glob("b/simulated/*.part"))
    curve = (next(tmp_path.glob("b/simulated/unisar*")) / "curve.jsonl").read_text()
    assert [line.split(",")[0] for line in curve.splitlines()] == ['{"epoch": 1', '{"epoch": 2', '{"epoch": 3']


@pytest.mark.slow
def test_evaluating_later_equals_evaluating_at_once(tmp_path):
    run(tmp_path / "a", candidates="uniform,same-query,full")
    run(tmp_path / "b")
    record = next(iter(Store(tmp_path / "b").runs()))[1]
    bench.evaluate(record.id, "same-query,full", out=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(next(iter(Store(tmp_path / "b").runs()))[1].evaluations) == 3


def test_tasks_and_seeds_are_part_of_the_key_and_share_candidates(tmp_path):
    once = {"unisar": SHORT["unisar"] | {"epochs": 1}}
    both, rec, other = run(tmp_path, once), run(tmp_path, once, tasks="rec"), run(tmp_path, once, seeds=1)
    assert len(set(both.runs) | set(rec.runs) | set(other.runs)) == 3
    fingerprints = {
        key for outcome in (both, rec, other) for record in outcome.runs.values() for key in record.evaluations
    }
    assert len(fingerprints) == 1
