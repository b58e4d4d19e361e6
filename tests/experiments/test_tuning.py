"""Searches of settings: proposals, data without test rows, records, and (slow) whole searches under Ray Tune."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from bench.cli.main import main
from bench.data.split import split
from bench.errors import RunError
from bench.experiments.plan import plan
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides
from bench.experiments.tuning.proposals import proposals
from bench.experiments.tuning.trial import Trial, TrialPlan, run_trial
from bench.experiments.tuning.without_test import search_data, without_test
from bench.report.tuning import describe, importance, noise, write_figures
from bench.store.results import Store
from bench.store.studies import Study, StudyRecord, TrialRecord, read_study, studies, write_study, write_trial

from .faulty_models import write_log, write_package

SPACE = {"lr": ("loguniform", 1e-4, 1e-1), "dim": [4, 8, 16]}
DEFAULT = {"lr": 1e-2, "dim": 8}


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_proposals_repeat_by_seed_begin_with_the_default_and_stay_inside(search):
    def drawn(seed):
        made = proposals(search, SPACE, seed, lambda values: values["dim"] != 16, DEFAULT)
        listed = []
        for number in range(9):
            listed.append(made.ask(number))
            lr = listed[-1].get("lr", 1e-2)
            made.tell(number, None if number == 3 else -abs(np.log10(lr) + 2))
        return listed

    first = drawn(0)
    assert first == drawn(0) != drawn(1)
    assert first[0] == {}
    assert all(1e-4 <= values["lr"] <= 1e-1 and values["dim"] in (4, 8) for values in first[1:])
    assert len({json.dumps(values) for values in first}) == 9


def test_optuna_learns_from_values_and_random_draws_do_not():
    def last(search):
        made = proposals(search, {"lr": ("loguniform", 1e-6, 1.0)}, 5, lambda values: True, {"lr": 1e-2})
        away = []
        for number in range(40):
            values = made.ask(number)
            away.append(abs(np.log10(values.get("lr", 1e-2)) + 4))
            made.tell(number, -away[-1])
        return float(np.median(away[-15:]))

    assert last("optuna") < 0.5 * last("random")


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_space_that_is_used_up_says_so(search):
    made = proposals(search, {"dim": [4, 8, 16]}, 0, lambda values: True, {"dim": 8})
    assert sorted(made.ask(number).get("dim", 8) for number in range(3)) == [4, 8, 16]
    with pytest.raises(RunError, match="no more than 3 settings"):
        made.ask(3)


@pytest.mark.parametrize("mode", ["disjoint", "mirror"])
def test_what_a_trial_opens_has_no_test_row_and_the_same_training_and_validation_rows(make_log, mode):
    whole = split(make_log(n_users=25, length=14, mode=mode, seed=3))
    log = without_test(whole)
    part = split(log, "given", allow_empty=True)
    assert len(whole.test) and not len(part.test)

    def rows(of, name):
        events = of.log.events
        columns = (events.user, events.event_id, events.item, events.time, events.task, events.query)
        return sorted(zip(*(column[of.rows(name)].tolist() for column in columns), strict=True))

    assert rows(part, "train") == rows(whole, "train") and rows(part, "valid") == rows(whole, "valid")
    events, kept = whole.log.events, log.events
    held = set(events.event_id[whole.test].tolist())
    pairs = set(zip(events.user[whole.test].tolist(), events.item[whole.test].tolist(), strict=True))
    assert not held & set(kept.event_id.tolist())
    assert not pairs & set(zip(kept.user.tolist(), kept.item.tolist(), strict=True))
    assert len(log.items) == len(whole.log.items) and len(log.users) == len(whole.log.users)


def a_study(folder: Path, values: list[float | None], spread: list[float] = ()) -> Study:
    """A study by hand; setting `lr` decides the values alone."""
    facts = {"name": "toy", "fingerprint": "f", "split": "leave-one-out"}
    space, default = {"lr": ["loguniform", 1e-4, 1e-1], "dim": [4, 8]}, {"lr": 1e-3, "dim": 8}
    names = {"budget": "quick", "search": "random", "scheduler": "none", "device": "cpu", "code": "c"}
    record = StudyRecord(
        id="m-quick-1", key="k", model="m", title="M", dataset=facts, tasks=["rec"], seed=0, space=space, default=default,
        validation_rows=0, threads=1, trials=len(values), spread=len(spread), **names,
    )  # fmt: skip
    write_study(folder, record)
    for number, value in enumerate(values):
        given = {} if number == 0 else {"lr": 1e-3 * (1 + (value or 0)), "dim": (4, 8)[number % 2]}
        status = "failed" if value is None else "finished"
        write_trial(
            folder,
            TrialRecord(
                number, "search", given, 0, status, value, steps=10, seconds=1.5, reason="bad" * (value is None)
            ),
        )
    for seed, value in enumerate(spread, 1):
        write_trial(folder, TrialRecord(-seed, "spread", {}, seed, "finished", value, steps=10))
    return read_study(folder)


def test_a_study_says_what_it_found_and_whether_it_is_more_than_noise(tmp_path):
    study = a_study(tmp_path, [0.30, 0.5, None, 0.2, 0.41, 0.33], [0.31, 0.29])
    assert study.best.number == 1 and study.spent() == {"trials": 6, "steps": 60, "seconds": 9.0}
    assert study.of_default == [0.30, 0.31, 0.29]
    text = "\n".join(describe(study))
    assert (
        "spent 6 of 6 trials, 60 steps" in text
        and "failed: bad" in text
        and "best N@10 on validation 0.5000 in trial 2" in text
    )
    assert "+0.2000 from their mean, 20.0 times their standard deviation" in noise(study)
    assert "a seed of the default settings does as well" in noise(a_study(tmp_path / "b", [0.30, 0.31], [0.32]))
    assert "no trial beats the default" in noise(a_study(tmp_path / "c", [0.30, 0.29], [0.32]))
    shares = importance(study)
    assert list(shares) == ["lr", "dim"] and shares["lr"] > 0.7, "lr decides"
    for path in write_figures(study):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
    assert {path.name for path in tmp_path.glob("*.png")} == {"history.png", "importance.png", "parallel.png"}


def test_a_trial_over_its_time_did_not_finish_and_its_attempts_count_together(tmp_path):
    folder = write_log(tmp_path / "log")
    overrides = Overrides({"train": {"max_steps": 30}, "jsr": {"item": "id"}})
    asked = RunRequest("jsr", (f"log:{folder}",), threads=1, trivial=False, overrides=overrides, out=tmp_path)
    (planned,) = plan(replace(asked, data=tmp_path / "data"))
    (job,), data = planned.jobs, search_data(planned.prepared)

    def last(name: str, limit: float, spent: float | None = None) -> dict:
        own, reports = tmp_path / name, []
        if spent is not None:
            own.mkdir()
            (own / "curve.jsonl").write_text(json.dumps({"stage": "fit", "step": 1, "seconds": spent}) + "\n")
        facts = TrialPlan(job.model, job.tasks, data, job.device, job.threads, job.code, 0, limit)
        run_trial(Trial(0, "search", {}, job.config, 0, str(own)), facts, reports.append)
        return reports[-1]

    finished = last("unbound", 0)
    assert finished["final"] and not finished["reason"] and finished["best"] > 0
    assert last("ample", 600) == finished | {"seconds": pytest.approx(finished["seconds"], abs=60)}
    reason = "did not finish: more than 0.001 s (--time-limit)"
    assert last("short", 0.001)["reason"].endswith(reason)
    assert last("before", 600, spent=601)["reason"].endswith("more than 600 s (--time-limit)")


def test_a_time_limit_is_part_of_the_budget(tmp_path):
    study = a_study(tmp_path, [0.3, 0.4])
    assert "a trial" not in describe(study)[0]
    study.record.time_limit = 90.0
    write_study(tmp_path, study.record)
    assert "at most 90 s a trial" in describe(read_study(tmp_path))[0]


def test_wrong_requests_are_one_line(tmp_path):
    def fails(*words):
        done = CliRunner().invoke(main, ["tune", *words, "--out", str(tmp_path)])
        assert done.exit_code in (1, 2) and len(done.stderr.splitlines()) == 1, done.output
        return done.stderr

    assert "unknown model" in fails("--models", "sasrek")
    assert "no data set" in fails("--models", "sasrec", "--dataset", "")
    assert "--trials" in fails("--models", "sasrec", "--trials", "0")
    for limit in ("-1", "nan", "inf"):
        assert "--time-limit" in fails("--models", "sasrec", "--time-limit", limit)


# Whole searches


@pytest.fixture(scope="module")
def env(tmp_path_factory) -> dict[str, str]:
    folder = write_package(tmp_path_factory.mktemp("package"))
    own = {"PYTHONPATH": str(folder), "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    return os.environ | own | {"BENCH_DATA": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return write_log(tmp_path_factory.mktemp("log") / "events")


def words(log: Path, out: Path, *more: str) -> list[str]:
    asked = ["--models", "steps,other-steps", "--dataset", f"log:{log}", "--threads", "1", "--out", str(out), *more]
    return [sys.executable, "-m", "bench", "tune", "--trials", "3", "--spread", "1", *asked]


def found(out: Path) -> dict[str, list]:
    """What must not depend on interruptions: trials by study, and the best settings."""
    return {
        study.record.id: [
            *((t.number, t.values, t.status, t.value, [c["value"] for c in t.checks], t.steps) for t in study.trials),
            yaml.safe_load((study.folder / "best.yaml").read_text())["dataset"],
            study.best.number,
        ]
        for study in studies(Store(out))
    }


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_same_trials(env, log, tmp_path):
    pause = ("--set", "train.pause=0.05")
    done = subprocess.run(
        words(log, tmp_path / "a", *pause), env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = found(tmp_path / "a")
    assert [len(each) for each in expected.values()] == [6, 6], "four trials each"
    spent = [study.spent()["trials"] for study in studies(Store(tmp_path / "a"))]
    assert spent == [3, 3]
    for study in studies(Store(tmp_path / "a")):
        assert study.best.value >= study.trials[0].value
    # No trial leaves a metric of a test row, nor ranks, nor weights.
    left = {path.name for path in (tmp_path / "a" / "tuning").rglob("*") if path.is_file()}
    assert left == {"study.json", "best.yaml", "trial.json", "curve.jsonl"}

    moments, finished = random.Random(0), {}
    for _ in range(2):
        driver = subprocess.Popen(
            words(log, tmp_path / "b", *pause), env=env, stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 500
        wanted = len(list(tmp_path.glob("b/tuning/*/*/trials/*/trial.json"))) + 1 + moments.randrange(2)
        while len(list(tmp_path.glob("b/tuning/*/*/trials/*/trial.json"))) < wanted and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 1))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        finished |= {path: path.stat().st_mtime_ns for path in tmp_path.glob("b/tuning/*/*/trials/*/trial.json")}
    done = subprocess.run(
        words(log, tmp_path / "b", *pause), env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "b") == expected
    assert finished and all(path.stat().st_mtime_ns == when for path, when in finished.items()), "none is repeated"

    tuned = ["run", "--models", "steps", "--tuned", "--dataset", f"log:{log}", "--no-trivial", "--threads", "1", *pause]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *tuned, "--out", str(tmp_path / "b")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = CliRunner().invoke(main, ["table", "--out", str(tmp_path / "b")]).stdout
    assert "settings tuned on validation rows: Steps (3 trials, random" in " ".join(table.split())
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'b' / 'mlflow' / 'mlflow.db'}")
    experiments = [one.experiment_id for one in client.search_experiments() if one.name.endswith(" tuning")]
    kinds = [run.data.tags["bench.kind"] for run in client.search_runs(experiments, max_results=1000)]
    assert sorted(kinds) == ["study"] * 2 + ["trial"] * 8
