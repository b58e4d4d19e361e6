"""SIGKILL of the driver at seeded random moments: the same command again must end with what an undisturbed one leaves.

    python benchmarks/kill_the_driver.py --kills 20                 # bench run, three models
    python benchmarks/kill_the_driver.py --kills 20 --tune          # bench tune, two models

Compares ranks, weights, trials and best settings byte by byte; looks for MLflow runs that are there twice or left running,
and for processes that outlive the driver. Exit code 1 and the reasons where something does not hold.
"""

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil
from concurrent_commands import write_log

RUN = ["run", "--no-trivial", "--models", "unisar,seq-knn,popularity", "--set", "train.max_steps=200"]
TUNE = ["tune", "--models", "unisar,gru4rec", "--trials", "3", "--spread", "0", "--set", "train.max_steps=100"]
# Seconds that a process may outlive its driver: two agents of Ray try for 60 s to report that their node is gone.
_PATIENCE = 90.0


def left_behind(out: Path) -> dict[str, bytes]:
    """The files that must not depend on kills; of a trial's record what is no time."""
    import json

    kept = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if name.startswith("mlflow"):  # copies under names that MLflow draws
            continue
        if path.suffix == ".safetensors" or path.name.startswith("ranks-"):
            kept[name] = path.read_bytes()
        elif path.name == "trial.json":
            record = json.loads(path.read_text())
            checks = [check["value"] for check in record["checks"]]
            kept[name] = repr([record["values"], record["status"], record["value"], record["steps"], checks]).encode()
        elif path.name == "best.yaml":
            kept[name] = b"\n".join(line for line in path.read_bytes().splitlines() if not line.startswith(b"#"))
    return kept


def mlflow_problems(out: Path) -> list[str]:
    """Runs that are shown twice, or left running."""
    with closing(sqlite3.connect(out / "mlflow" / "mlflow.db")) as base:
        rows = base.execute(
            "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'bench.run' "
            "JOIN tags d ON d.run_uuid = r.run_uuid AND d.key = 'bench.digest' WHERE r.lifecycle_stage = 'active'"
        ).fetchall()
        running = base.execute(
            "SELECT name FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
        ).fetchall()
    twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
    return [f"MLflow shows twice: {twice}"] * bool(twice) + [f"MLflow shows as running: {running}"] * bool(running)


def killed(words: list[str], seconds: float, env: dict[str, str]) -> list[psutil.Process]:
    """Start a command and kill it after some seconds; returns the processes that it had started."""
    driver = subprocess.Popen(
        words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    family: set[psutil.Process] = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until and driver.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family |= set(psutil.Process(driver.pid).children(recursive=True))
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return list(family)


def main() -> int:
    """Run undisturbed, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="bench tune instead of bench run")
    parser.add_argument("--jobs", type=int, default=0, help="as of the command")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-kill-"))
    write_log(folder / "log")
    env = os.environ | {"RAY_AUTH_MODE": "disabled"}
    common = [*(TUNE if options.tune else RUN), "--dataset", f"log:{folder / 'log'}", "--data", str(folder / "data")]
    common += ["--threads", "1", *(["--jobs", str(options.jobs)] if options.jobs else [])]

    def words(out: str) -> list[str]:
        return [sys.executable, "-m", "bench", *common, "--out", str(folder / out)]

    started = time.monotonic()
    subprocess.run(words("undisturbed"), env=env, check=True, stdout=subprocess.DEVNULL)
    length, expected = time.monotonic() - started, left_behind(folder / "undisturbed")
    print(f"undisturbed: {length:.0f} s, {len(expected)} files", flush=True)
    moments, failed = random.Random(options.seed), 0
    for number in range(1, options.kills + 1):
        after = moments.uniform(0.05, 0.95) * length
        family, died = killed(words(f"out{number}"), after, env), time.monotonic()
        done = subprocess.run(words(f"out{number}"), env=env, capture_output=True, text=True, check=False)
        _, alive = psutil.wait_procs(family, timeout=max(0.0, _PATIENCE - (time.monotonic() - died)))
        problems = [f"outlives the driver: {process}" for process in alive]
        problems += [f"exit code {done.returncode}: {done.stderr[-500:]}"] * bool(done.returncode)
        if left_behind(folder / f"out{number}") != expected:
            problems.append("the results differ")
        problems += mlflow_problems(folder / f"out{number}") if not done.returncode else []
        print(f"kill {number} after {after:.1f} s: {'; '.join(problems) or 'all hold'}", flush=True)
        failed += bool(problems)
        shutil.rmtree(folder / f"out{number}", ignore_errors=True)
    print(f"{options.kills - failed} of {options.kills} hold")
    shutil.rmtree(folder, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
