"""Equal single-thread jobs through the executors, beside the same jobs as bare processes, on the same cores in the same run.

    python benchmarks/side_by_side.py --jobs 8 --at-once 2

Prints the seconds of each way (the middle of --rounds, which take turns), the share of the bare processes' throughput, and
what the Ray executor adds to a run on a warm worker, with the load of the machine. Loading the libraries is part of every
bare process; Ray's own start is not measured.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.experiments.executors.choose import Placement
from bench.experiments.executors.contract import Limits
from bench.experiments.executors.in_process import InProcess
from bench.experiments.executors.job_process import supervise
from bench.experiments.executors.on_ray import OnRay, cluster
from bench.experiments.executors.processes import Processes
from bench.experiments.job import Job
from bench.experiments.plan import plan
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides

BARE = """
import pickle, sys
from bench.experiments.job import execute
execute(pickle.load(open(sys.argv[1], "rb")))
"""


def jobs_for(count: int, steps: int, out: Path, model: str, dataset: str) -> list[Job]:
    """Jobs of one model with different seeds."""
    overrides = Overrides({"train": {"max_steps": steps, "patience": 1000}})
    seeds = tuple(range(count))
    (only,) = plan(RunRequest(model, (dataset,), seeds=seeds, overrides=overrides, threads=1, trivial=False, out=out))
    return only.jobs


def bare(jobs: list[Job], at_once: int, folder: Path) -> float:
    """Seconds of the jobs as processes of their own, `at_once` at the same time."""
    import pickle

    started, waiting, working = time.perf_counter(), list(jobs), []
    while waiting or working:
        working = [process for process in working if process.poll() is None]
        while waiting and len(working) < at_once:
            path = folder / f"{len(waiting)}.pkl"
            path.write_bytes(pickle.dumps(waiting.pop()))
            working.append(subprocess.Popen([sys.executable, "-c", BARE, str(path)]))
        time.sleep(0.02)
    return time.perf_counter() - started


def timed(executor: Processes | OnRay | InProcess, jobs: list[Job]) -> float:
    """Seconds of the jobs through an executor; every one must succeed."""
    started = time.perf_counter()
    outcomes = list(executor.run(jobs, Reporter()))
    seconds = time.perf_counter() - started
    if len(outcomes) != len(jobs) or any(outcome.error for outcome in outcomes):
        raise SystemExit(f"a job failed: {[str(outcome.error) for outcome in outcomes if outcome.error]}")
    return seconds


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--model", default="unisar")
    parser.add_argument("--dataset", default="ml-100k")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    seconds: dict[str, list[float]] = {"bare": [], "processes": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder, cluster(None, options.at_once) as ray:
        address = ray.get_runtime_context().gcs_address

        def jobs(out: str) -> list[Job]:
            return jobs_for(options.jobs, options.steps, Path(folder) / out, options.model, options.dataset)

        on_ray = Placement("ray", options.at_once, address).make()
        assert isinstance(on_ray, OnRay)
        on_ray.connected = ray  # a cluster that stays between the rounds
        timed(on_ray, jobs("warm")[: options.at_once])
        for number in range(options.rounds):
            seconds["bare"].append(bare(jobs(f"bare{number}"), options.at_once, Path(folder)))
            seconds["processes"].append(timed(Processes(options.at_once, Limits()), jobs(f"processes{number}")))
            seconds["ray"].append(timed(on_ray, jobs(f"ray{number}")))
            print(
                f"round {number + 1}: " + ", ".join(f"{name} {each[-1]:.1f} s" for name, each in seconds.items()),
                flush=True,
            )
        # What Ray adds: one job on a warm worker beside the same job in a process that the driver forks.
        alone, through = [], []
        for number in range(2 * options.rounds):
            (job, *_) = jobs(f"alone{number}")
            started = time.perf_counter()
            supervise(job, Limits(), lambda message: None)
            alone.append(time.perf_counter() - started)
            through.append(timed(on_ray, [replace(job, out=str(Path(folder) / f"through{number}"))]))
    print(f"load {os.getloadavg()[0]:.1f}")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in middle.items():
        listed = ", ".join(f"{each:.1f}" for each in seconds[name])
        print(f"{name:<10} {value:7.1f} s ({listed}); throughput {middle['bare'] / value:.0%} of bare processes")
    added = statistics.median(b - a for a, b in zip(alone, through, strict=True))
    print(
        f"one run: {statistics.median(alone):.2f} s in a process, {statistics.median(through):.2f} s through Ray (warm); "
        f"Ray adds {added:.2f} s (middle of {len(alone)} pairs)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
