"""Several `bench run` at once with one model list on one fresh results folder: every command succeeds, nothing is done twice.

    python benchmarks/concurrent_commands.py --processes 2 --repeat 10
    python benchmarks/concurrent_commands.py --ray-workers 16 --repeat 1    # one command, as many runs at work at once

Checks after each round that all exit codes are 0, that each model was fitted once, that MLflow holds each run once and
complete, and that no run of it is left RUNNING. Exit code 1 and the reasons where something does not hold.
"""

import argparse
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil

from bench.store.mlflow_content import run_key
from bench.store.records import content_digest
from bench.store.results import Store

SHOWN = """
    SELECT r.run_uuid, r.status, k.value, d.value, b.value, (SELECT count(*) FROM latest_metrics m WHERE m.run_uuid = r.run_uuid)
    FROM runs r JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'bench.kind'
    LEFT JOIN tags d ON d.run_uuid = r.run_uuid AND d.key = 'bench.digest'
    LEFT JOIN tags b ON b.run_uuid = r.run_uuid AND b.key = 'bench.run'
    WHERE r.lifecycle_stage = 'active'
"""


def write_log(folder: Path) -> None:
    """A small log of events: 120 users, 150 items, both tasks; fewer users would be warned of."""
    folder.mkdir(parents=True)
    lines = ["user,item,time,task,query"]
    for user in range(120):
        for place in range(12):
            task = ("rec", "search")[place % 2]
            query = f"q{place}" if task == "search" else ""
            lines.append(f"u{user},i{(user * 7 + place * 13) % 150},{1_600_000_000_000 + place * 1000},{task},{query}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    queries = [f"q{place},words {place}" for place in range(12)]
    (folder / "queries.csv").write_text("\n".join(["query,text", *queries]) + "\n")


def words_for(folder: Path, models: str, *more: str) -> list[str]:
    """A command on the small log, in a folder of its own."""
    words = ["run", "--models", models, "--no-trivial", "--dataset", f"log:{folder / 'log'}", "--threads", "1", *more]
    return [sys.executable, "-m", "bench", *words, "--data", str(folder / "data"), "--out", str(folder / "results")]


def run_round(folder: Path, processes: int, models: str) -> list[str]:
    """Some commands at once in an empty folder; returns what does not hold."""
    write_log(folder / "log")
    words = words_for(folder, models)
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    return problems_of(folder / "results", [each.returncode for each in running], outputs, len(models.split(",")))


def run_on_ray(folder: Path, workers: int, model: str) -> list[str]:
    """One command whose runs are at work in as many Ray workers; returns what does not hold."""
    write_log(folder / "log")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    place = tempfile.mkdtemp(prefix="rt", dir="/tmp")  # short, for the paths of sockets
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", f"--num-cpus={workers}"]
    start += ["--node-ip-address=127.0.0.1", "--object-store-memory=200000000", f"--temp-dir={place}", "--block"]
    start += ["--include-dashboard=false"]
    head = subprocess.Popen(
        start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        seeds = ",".join(map(str, range(workers)))
        words = words_for(folder, model, "--seeds", seeds, "--executor", "ray", "--address", f"127.0.0.1:{port}")
        done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=20)
        shutil.rmtree(place, ignore_errors=True)
    return problems_of(folder / "results", [done.returncode], [done.stdout], workers)


def _warned(output: str) -> bool:
    """Whether there is a warning on anything but the size of the log."""
    return any(line.startswith("warning") and "users only" not in line for line in output.splitlines())


def problems_of(out: Path, codes: list[int], outputs: list[str], runs: int) -> list[str]:
    """What does not hold of a results folder after commands with these exit codes and outputs."""
    problems = [
        f"exit code {code}:\n{output}"
        for code, output in zip(codes, outputs, strict=True)
        if code or "Traceback" in output or _warned(output)
    ]
    if problems:
        return problems
    records = [record for _, record in Store(out).runs()]
    started = Counter(line for output in outputs for line in output.splitlines() if line.endswith(": started"))
    if len(records) != runs or sorted(started.values()) != [1] * len(records):
        problems.append(f"{len(records)} runs; fits: {dict(started)}")
    with closing(sqlite3.connect(out / "mlflow" / "mlflow.db")) as base:
        shown = base.execute(SHOWN).fetchall()
    children = sorted((key, digest) for _, _, kind, digest, key, metrics in shown if kind == "fit" and metrics > 10)
    if children != sorted((run_key(record), content_digest(record)) for record in records):
        problems.append(f"MLflow shows {children}")
    if unfinished := [row for row in shown if row[1] != "FINISHED"]:
        problems.append(f"MLflow holds unfinished runs: {unfinished}")
    if not any(kind == "command" for _, _, kind, *_ in shown):
        problems.append("MLflow holds no command")
    if leftovers := [*out.glob("*/*.part"), *out.glob("*/.*.old*"), *out.glob("mlflow/.*mlflow.db*")]:
        problems.append(f"left over: {leftovers}")
    return problems


def main() -> int:
    """Run the rounds and print what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10, help="rounds, each in a fresh folder")
    parser.add_argument("--processes", type=int, default=6, help="commands at once")
    parser.add_argument("--models", default="popularity,item-knn,seq-knn", help="the model list of every command")
    parser.add_argument("--ray-workers", type=int, default=0, help="one command on a Ray cluster with this many CPUs")
    options = parser.parse_args()
    failed = 0
    for number in range(1, options.repeat + 1):
        with tempfile.TemporaryDirectory() as folder:
            if options.ray_workers:
                problems = run_on_ray(Path(folder), options.ray_workers, options.models.split(",")[0])
            else:
                problems = run_round(Path(folder), options.processes, options.models)
        print(f"round {number}: {'; '.join(problems) or 'all hold'}", flush=True)
        failed += bool(problems)
    print(f"{options.repeat - failed} of {options.repeat} rounds hold")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
