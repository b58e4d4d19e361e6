"""Several `bench run` at once with one model list on one fresh results folder: every command succeeds, nothing is done twice.

    python benchmarks/concurrent_commands.py --repeat 10

Checks after each round that all exit codes are 0, that each model was fitted once, that MLflow holds each run once and
complete, and that no run of it is left RUNNING. Exit code 1 and the reasons where something does not hold.
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

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
    """A small log of events: 40 users, 150 items, both tasks."""
    folder.mkdir(parents=True)
    lines = ["user,item,time,task,query"]
    for user in range(40):
        for place in range(12):
            task = ("rec", "search")[place % 2]
            query = f"q{place}" if task == "search" else ""
            lines.append(f"u{user},i{(user * 7 + place * 13) % 150},{1_600_000_000_000 + place * 1000},{task},{query}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    queries = [f"q{place},words {place}" for place in range(12)]
    (folder / "queries.csv").write_text("\n".join(["query,text", *queries]) + "\n")


def run_round(folder: Path, processes: int, models: str) -> list[str]:
    """One round in an empty folder; returns what does not hold."""
    write_log(folder / "log")
    out = folder / "results"
    words = ["run", "--models", models, "--no-trivial", "--dataset", f"log:{folder / 'log'}", "--threads", "1"]
    words = [sys.executable, "-m", "bench", *words, "--data", str(folder / "data"), "--out", str(out)]
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    problems = [
        f"exit code {process.returncode}:\n{output}"
        for process, output in zip(running, outputs, strict=True)
        if process.returncode or "Traceback" in output or "warning" in output
    ]
    if problems:
        return problems
    records = [record for _, record in Store(out).runs()]
    started = Counter(line for output in outputs for line in output.splitlines() if line.endswith(": started"))
    if len(records) != len(models.split(",")) or sorted(started.values()) != [1] * len(records):
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
    options = parser.parse_args()
    failed = 0
    for number in range(1, options.repeat + 1):
        with tempfile.TemporaryDirectory() as folder:
            problems = run_round(Path(folder), options.processes, options.models)
        print(f"round {number}: {'; '.join(problems) or 'all hold'}", flush=True)
        failed += bool(problems)
    print(f"{options.repeat - failed} of {options.repeat} rounds hold")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
