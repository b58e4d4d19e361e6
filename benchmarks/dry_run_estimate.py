"""What `bench run --dry-run` foresees, beside what the same run then takes: seconds and memory of each model.

    python benchmarks/dry_run_estimate.py --models gensr,unisar,sasrec --dataset ml-100k
    python benchmarks/dry_run_estimate.py --models gensr --only estimate      # without the run, which may take long

Each part is a process of its own with one thread, and seconds are those of its CPU: on a machine that does nothing else
they are the seconds of the clock, on a busy one they still say what the work takes. Exit code 1 where an estimate is off
by more than a factor of 2.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("estimate", "run")


def part(name: str, model: str, dataset: str) -> dict[str, float]:
    """One part in this process: seconds of the CPU, MB at most; of an estimate also the least seconds."""
    time.perf_counter = time.process_time  # type: ignore[assignment]  # before anything takes it
    from bench.experiments.estimate import probe
    from bench.experiments.job import execute
    from bench.experiments.plan import plan
    from bench.experiments.process import peak_memory_mb
    from bench.experiments.progress import Reporter
    from bench.experiments.run import RunRequest

    with tempfile.TemporaryDirectory() as folder:
        (only,) = plan(RunRequest(model, (dataset,), threads=1, trivial=False, out=Path(folder)))
        (job,) = only.jobs
        if name == "estimate":
            found = probe(job, Reporter())
            return {"seconds": found.seconds, "least": found.least, "memory": found.memory_mb}
        started = time.process_time()
        execute(job)
        seconds = time.process_time() - started
        return {"seconds": seconds, "least": seconds, "memory": peak_memory_mb()}


def main() -> int:
    """Estimate and run each model, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gensr,unisar,sasrec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part, options.models, options.dataset)))
        return 0
    off = 0
    for model in options.models.split(","):
        found = {}
        for name in (options.only,) if options.only else PARTS:
            words = [sys.executable, __file__, "--part", name, "--models", model, "--dataset", options.dataset]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            facts = found[name]
            print(
                f"{model} {name}: {facts['seconds']:.0f} s of CPU ({facts['least']:.0f} at least), {facts['memory']:.0f} MB",
                flush=True,
            )
        if len(found) == len(PARTS):
            before, after = found["estimate"], found["run"]
            # Patience may end a fit anywhere between the least and the most that were foreseen.
            nearest = min(max(after["seconds"], before["least"]), before["seconds"])
            ratios = {"time": nearest / after["seconds"], "memory": before["memory"] / after["memory"]}
            print(f"{model}: foreseen by measured: " + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items()))
            off += any(not 0.5 <= ratio <= 2 for ratio in ratios.values())
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
