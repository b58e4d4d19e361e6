"""What a command claims: runs that are gone at its end, commands at once, and when MLflow is written."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.errors import UsageError
from bench.experiments import run as command
from bench.experiments.progress import PlainReporter, Reporter
from bench.experiments.run import RunRequest, run
from bench.store.results import Store

pytest.importorskip("recbole", reason="ml-100k comes with RecBole (pip install --no-deps recbole==1.2.1)")


class Calls:
    """In place of the tracker: who called what."""

    def __init__(self, *_):
        self.names: list[str] = []
        Calls.last = self

    def __getattr__(self, name):
        return lambda *_: self.names.append(name)


@pytest.fixture(autouse=True)
def tracked(monkeypatch):
    Calls.last = None
    monkeypatch.setattr("bench.store.mlflow_view.Tracker", Calls)


def request(out, models="popularity", **options) -> RunRequest:
    return RunRequest(models, trivial=False, threads=1, out=out, **options)


def test_mlflow_is_written_from_the_first_change_on(tmp_path):
    run(request(tmp_path))
    assert Calls.last.names == ["start", "log_run", "finish"]
    Calls.last = None
    again = run(request(tmp_path), table=lambda store: pytest.fail("nobody reads this table"))
    assert (len(again.runs), again.fresh, Calls.last) == (1, 0, None)
    more = run(request(tmp_path, "popularity,item-knn"))
    assert more.fresh == 1 and Calls.last.names == ["start", "log_run", "log_run", "finish"]
    run(request(tmp_path, tracking_uri="http://nowhere"))
    assert Calls.last.names == ["start", "log_run", "finish"], "a store that the user names is always written"


@pytest.mark.parametrize("lost", ["results", "ranks"])
def test_what_was_removed_while_the_command_ran_is_not_claimed(tmp_path, monkeypatch, lost):
    run(request(tmp_path))
    describe = command._look_again

    def removed(store, jobs, runs, record):
        folder = store.folder("ml-100k", jobs[0].id)
        shutil.rmtree(store.root) if lost == "results" else next(folder.glob("ranks-*")).unlink()
        describe(store, jobs, runs, record)

    monkeypatch.setattr(command, "_look_again", removed)
    result = run(request(tmp_path))
    assert result.runs == {} and result.command.runs == []
    (line,) = result.failed.values()
    assert "was removed while the command ran" in line


def test_commands_at_once_wait_for_each_other_and_use_the_result(tmp_path, monkeypatch):
    from bench.experiments.fitting import Fitting

    lines, fits = [], []

    class Lines(Reporter):
        def note(self, line):
            lines.append(line)

    original = Fitting.fit

    def slow(self, *arguments):
        fits.append(self.name)
        with pytest.raises(Exception, match="another process"), Store(tmp_path).locked("ml-100k", self.folder.stem):
            pass
        deadline = time.monotonic() + 60
        while not any("waiting for it" in line for line in lines) and time.monotonic() < deadline:
            time.sleep(0.01)
        return original(self, *arguments)

    monkeypatch.setattr(Fitting, "fit", slow)
    with ThreadPoolExecutor(2) as pool:
        results = [done.result() for done in [pool.submit(run, request(tmp_path), Lines()) for _ in range(2)]]
    assert fits == ["popularity"] and sorted(result.fresh for result in results) == [0, 1]
    assert not any(result.failed for result in results)
    assert any("another process has finished it" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": (-1,)}, "--seeds -1"),
        ({"seeds": (2**40,)}, "expected whole numbers from 0"),
        ({"seeds": (3, 1, 3)}, "3 is there twice"),
        ({"seeds": ()}, "no seeds given"),
        ({"tracking_uri": " "}, "--tracking-uri is empty"),
        ({"validation_rows": -5}, "--validation-rows -5"),
    ],
)
def test_a_request_that_cannot_be_is_refused(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        run(request(tmp_path, **options))
    with pytest.raises(UsageError, match="--threads 100000"):
        run(RunRequest("popularity", threads=100_000, out=tmp_path))
    with pytest.raises(UsageError, match="--out is empty"):
        run(RunRequest("popularity", out=""))


def test_a_line_of_a_pipe_shows_loss_metric_and_the_time_left(capsys, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("bench.experiments.progress.time.perf_counter", lambda: next(clock))
    with PlainReporter().fit("m (seed 0)", patience=3) as view:
        view.begin(100)
        for epoch, metric in enumerate((0.2, 0.3, 0.25), 1):
            view.epoch(
                epoch, {"stage": "fit", "step": epoch, "train/loss": 1.5, "train/part": 9.0, "mean/N@10": metric}
            )
        view.begin(2)
        view.epoch(1, {"stage": "table", "step": 1, "train/loss": 1.5, "seconds": 4.0})
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1]
        == "m (seed 0): epoch 1/100: loss 1.5000, N@10 0.2000; 3.0 s left if nothing gets better, at most 1 min 39 s"
    )
    assert lines[3].endswith("N@10 0.2500; 2.0 s left if nothing gets better, at most 1 min 37 s")
    assert lines[4] == "m (seed 0): table epoch 1/2: loss 1.5000; about 1.0 s left"
    with PlainReporter().fit("m", patience=50) as view:
        view.begin(3)
        view.epoch(1, {"train/loss": 1.0, "mean/N@10": 0.1})
    assert "at most 2.0 s left" in capsys.readouterr().out
