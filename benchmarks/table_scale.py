"""How long `bench table` takes over many users: models with drawn ranks, no training.

    python benchmarks/table_scale.py                    # two models, 180,000 users, both tasks
    python benchmarks/table_scale.py --step 0           # two models that do not differ: all sign flips are drawn
    python benchmarks/table_scale.py --models 25 --seeds 5 --users 68223 --step 0.05

It writes a results folder into a temporary place and calls `bench table` on it in a process of its own, once in each
format. CSV and JSON also hold the tests of the metrics that the text does not show. Printed are seconds of CPU, seconds
on the clock and the peak of the memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.data.log import file_sha256
from bench.evaluation.ranks import Ranks
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store

CANDIDATES = "c0" * 32
NEGATIVES = 99


def drawn_ranks(users: int, quality: float, seed: int) -> Ranks:
    """Ranks of a model on one rec and one search row per user; a higher `quality` puts fewer negatives above."""
    generator = np.random.default_rng(seed)
    rows = 2 * users
    return Ranks(
        user=np.repeat(np.arange(1, users + 1), 2),
        event_id=np.arange(rows),
        item=np.ones(rows),
        task=np.tile([0, 1], users),
        query=np.tile([0, 1], users),
        better=(NEGATIVES * generator.random(rows) ** quality).astype(np.int32),
        tied=np.zeros(rows),
        candidates=np.full(rows, NEGATIVES + 1),
        meta={"candidates": CANDIDATES},
    )


def write_results(root: Path, models: int, seeds: int, users: int, step: float) -> None:
    """A results folder with one command and its runs; each model is better than the one before by `step`."""
    store = Store(root)
    moment = "2030-01-01T00:00:00.000+00:00"
    runs = []
    for number in range(models):
        for seed in range(seeds):
            record = RunRecord(
                id=f"m{number}-s{seed}-{number:06x}{seed:06x}",
                fit_key=f"{number:06x}{seed:06x}",
                kind="fit",
                model=f"m{number}",
                title=f"Model {number}",
                group="unified",
                tasks=["rec", "search"],
                seed=seed,
                budget="quick",
                config={"lr": 0.1, "epochs": 3},
                dataset={
                    "name": "drawn",
                    "title": "Drawn ranks",
                    "options": {},
                    "fingerprint": "d0" * 32,
                    "mode": "natural",
                    "split": "leave-one-out",
                    "synthetic": "everything",
                    "counts": {},
                    "split_counts": {},
                },
                device="cpu",
                threads=1,
                code="c0",
                fit={"converged": True},
                finished=moment,
            )
            folder = store.folder("drawn", record.id)
            folder.mkdir(parents=True)
            path = folder / f"ranks-{CANDIDATES[:16]}.parquet"
            drawn_ranks(users, 2 + step * number, 1000 * number + seed).save(path)
            record.evaluations[CANDIDATES] = Evaluation(
                fingerprint=CANDIDATES,
                label=f"uniform-{NEGATIVES}",
                strategy="uniform",
                seed=0,
                rows={"rec": users, "search": users},
                tie_rate={"rec": 0.0, "search": 0.0},
                leaks={},
                ranks=path.name,
                sha256=file_sha256(path),
                seconds=0.0,
                finished=moment,
            )
            store.write(folder, record)
            runs.append(f"drawn/{record.id}")
    store.write_command(
        CommandRecord(
            id="drawn",
            line="bench run",
            started=moment,
            datasets=["drawn"],
            models=[f"m{number}" for number in range(models)],
            seeds=list(range(seeds)),
            budget="quick",
            candidates=[CANDIDATES],
            runs=runs,
            finished=moment,
        )
    )


def measure(root: Path, form: str, save: Path | None) -> str:
    """One call of `bench table`: CPU, clock and memory."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "bench", "table", "--out", str(root), "--format", form], stdout=subprocess.PIPE
    )
    output, _ = child.communicate()
    if child.returncode:
        sys.exit(f"bench table ended with exit code {child.returncode}")
    clock = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if save:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"table.{form}").write_bytes(output)
    # The counters add up over all children, so the caller forks a process for each measurement.
    cpu = used.ru_utime + used.ru_stime
    return f"{form:<8} {cpu:6.1f} s CPU {clock:6.1f} s clock {used.ru_maxrss / 2**20:5.2f} GB"


def main() -> None:
    """Write the folder, then measure each form in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--users", type=int, default=180_000)
    parser.add_argument("--step", type=float, default=0.5, help="how much the models differ; 0: not at all")
    parser.add_argument("--formats", default="text,markdown,latex,html,csv,json")
    parser.add_argument("--save", type=Path, help="folder for what `bench table` prints, to compare two versions")
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "FORM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.measure:
        print(measure(Path(given.measure[0]), given.measure[1], given.save))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder), given.models, given.seeds, given.users, given.step)
        print(
            f"{given.models} models, {given.seeds} seeds, {given.users:,} users, both tasks, quality step {given.step:g}"
        )
        for form in given.formats.split(","):
            words = [sys.executable, __file__, "--measure", folder, form]
            subprocess.run([*words, *(["--save", str(given.save)] if given.save else [])], check=True)


if __name__ == "__main__":
    main()
