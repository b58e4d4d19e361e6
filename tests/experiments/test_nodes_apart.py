"""A node without the folders of the command, with a stand-in for Ray that carries tasks out where they are asked for.

`test_ray` does the same with two real nodes, slowly.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import RunError
from bench.experiments import prepared_data
from bench.experiments.candidate_export import export_candidates
from bench.experiments.executors import apart, on_ray
from bench.experiments.executors.contract import Limits
from bench.experiments.executors.on_ray import OnRay
from bench.experiments.job import execute
from bench.experiments.plan import plan
from bench.experiments.prepared_data import open_candidates, open_data
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest

from .faulty_models import write_log

_HEAD, _WORKER = "0a" * 28, "0b" * 28  # ids of nodes, as Ray has them


class OtherNode:
    """The part of Ray that the executor uses; every task runs with the environment of a second node."""

    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: Path):
        self._monkeypatch, self._data = monkeypatch, data
        self.objects: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": 1}} for name in (_HEAD, _WORKER)]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: _HEAD)

    def put(self, value: Any) -> int:
        self.objects.append(value)
        return len(self.objects) - 1

    def get(self, reference: Any) -> Any:
        return [self.get(each) for each in reference] if isinstance(reference, list) else self.objects[reference]

    def wait(self, references: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return references[:1], references[1:]

    def remote(self, **_: Any) -> Any:
        def task(work: Any) -> Any:
            def call(*arguments: Any) -> int:
                with self._monkeypatch.context() as there:
                    there.setenv("BENCH_DATA", str(self._data))
                    there.setattr(prepared_data, "_OPENED", prepared_data.OrderedDict())
                    return self.put(work(*arguments))

            return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=call))

        return task


@pytest.fixture
def node(monkeypatch, tmp_path):
    pytest.importorskip("ray.util.scheduling_strategies")
    made = OtherNode(monkeypatch, tmp_path / "elsewhere")
    nowhere = SimpleNamespace(remote=lambda *_: made.put([]))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=made.get))
    monkeypatch.setattr(on_ray, "_mailbox", lambda ray: SimpleNamespace(put=nowhere, drain=nowhere))
    monkeypatch.setattr(on_ray, "supervise", lambda job, *_: execute(job))
    return made


def carried_out(node: OtherNode, log: Path, out: Path, **options: Any) -> list[str]:
    """The work of each run of a command: fitted, ranked, none."""
    executor = OnRay("head:1", 0, None, Limits())
    executor.connected = node
    request = RunRequest("popularity,seq-knn", (f"log:{log}",), trivial=False, out=out, threads=1, **options)
    (only,) = plan(request)
    outcomes = list(executor.run(only.jobs, Reporter()))
    assert not [str(each.error) for each in outcomes if each.error]
    return [each.result.work for each in outcomes if each.result]


def files(out: Path) -> dict[str, bytes]:
    kept = [
        path for path in out.glob("*/*/*") if path.suffix in (".safetensors", ".parquet") and path.parent.name[0] != "."
    ]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(kept)}


def test_data_go_there_once_and_runs_come_back(node, tmp_path):
    log, out, here = write_log(tmp_path / "log" / "events"), tmp_path / "ray", tmp_path / "here"
    prepared = open_data(f"log:{log}")
    lists = tmp_path / "lists.parquet"
    export_candidates(prepared, open_candidates(prepared, "popularity", prepared.tasks, 0), lists)
    for candidates, work in (
        (("uniform",), "fitted"),
        (("uniform", f"given:{lists}"), "ranked"),
        (("uniform",), "none"),
    ):
        assert carried_out(node, log, out, candidates=candidates) == [work] * 2
        (only,) = plan(
            RunRequest("popularity,seq-knn", (f"log:{log}",), trivial=False, out=here, threads=1, candidates=candidates)
        )
        assert [execute(job).work for job in only.jobs] == [work] * 2
        copies = list(node._data.glob("prepared/*/manifest.json"))
        assert len(copies) == 1 and len({*map(str, copies)}) == 1
    assert files(out) == files(here) and len(files(out)) > 6
    assert not list(node._data.glob("results/ray/*/*/run.json")) and not list(out.glob(".seen-*"))


def test_a_node_with_the_folders_of_the_command_gets_nothing(node, tmp_path):
    log = write_log(tmp_path / "log" / "events")
    node._data = Path(open_data(f"log:{log}").choice().root)
    assert carried_out(node, log, tmp_path / "out") == ["fitted"] * 2
    assert not any(isinstance(each, dict) for each in node.objects), "nothing was sent"


def test_a_node_that_joins_later_gets_the_data_then(node, tmp_path, monkeypatch):
    log = write_log(tmp_path / "log" / "events")
    monkeypatch.setattr(apart, "_some_apart", lambda *_: False)  # nobody of those who are there at the start
    assert carried_out(node, log, tmp_path / "ray") == ["fitted"] * 2
    assert len(list(node._data.glob("prepared/*/manifest.json"))) == 1
    assert carried_out(node, log, tmp_path / "ray") == ["none"] * 2
    assert not list(node._data.glob("results/ray/*/*/run.json"))


def test_a_run_that_another_command_has_finished_meanwhile_stands(node, tmp_path):
    log = write_log(tmp_path / "log" / "events")
    (only,) = plan(RunRequest("popularity", (f"log:{log}",), trivial=False, out=tmp_path / "out", threads=1))
    (job,) = only.jobs
    first = execute(job)
    later = apart.store_returned(job, apart.Returned(first, {}), Reporter())
    assert (later.work, later.record.finished) == ("none", first.record.finished)


def test_a_node_without_room_says_so(node, tmp_path, monkeypatch):
    log = write_log(tmp_path / "log" / "events")
    (only,) = plan(RunRequest("popularity", (f"log:{log}",), trivial=False, out=tmp_path / "out", threads=1))
    sent = apart.Sender(node, apart.Folders("token", only.jobs[0].data.root), True).of(only.jobs[0])
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(RunError, match="cannot"):
        apart.settle(node, only.jobs[0], sent)
