"""CPU time of a training step, here and at another commit, in turns on the same core.

    python benchmarks/two_commits.py 5a06346 --models gensr,unisar --rounds 3

The other commit is built from git into a folder of its own and runs with this environment's packages; what is not committed
here counts for this side. Each side makes the run that `bench run --models MODEL --dataset ml-100k --threads 1` makes, until
the steps are measured. A line per round; the last line of a model has the middle of the ratios.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FIRST = {"gensr": 500}
"""Steps passed over in a side's first run of a model: GenSR fits its collaborative table then, the next runs find it."""
ROOT = Path(__file__).resolve().parent.parent
STEPS = """
import os, sys, time
import torch
from bench.cli.main import main
skip, take = int(sys.argv.pop(1)), int(sys.argv.pop(1))
backward, seen = torch.Tensor.backward, []
def counted(*args, **kwargs):
    backward(*args, **kwargs)
    seen.append(time.process_time())
    if len(seen) > skip + take:
        print("seconds of a step:", (seen[-1] - seen[-1 - take]) / take, flush=True)
        os._exit(0)
torch.Tensor.backward = counted
main()
"""


def build(commit: str, folder: Path) -> Path:
    """The code of a commit as a folder for PYTHONPATH.

    Raises:
        SystemExit: there is no such commit, or it cannot be built.
    """
    source, site = folder / "source", folder / "site"
    source.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"{commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    return site


def step(site: Path | None, model: str, skip: int, take: int, folder: Path) -> float:
    """CPU seconds of one of `take` steps, after `skip` others.

    Args:
        site: of the other commit; None for this one.
        model: name.
        skip: steps that are passed over.
        take: steps that are measured.
        folder: for data and results of this side.
    """
    out = tempfile.mkdtemp(dir=folder)
    command = ["run", "--models", model, "--no-trivial", "--dataset", "ml-100k", "--threads", "1", "--quiet"]
    places = ["--data", str(folder / "data"), "--out", out]
    environment = os.environ | {"PYTHONPATH": str(site) if site else ""}
    call = [sys.executable, "-c", STEPS, str(skip), str(take), *command, *places]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("seconds of a step:")]
    if not found:
        raise SystemExit(f"{model} made fewer than {skip + take} steps: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return float(found[-1].rpartition(":")[2])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--models", default="gensr,unisar")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sides = {"here": None, options.commit: build(options.commit, Path(scratch))}
        folders = {name: Path(scratch) / str(number) for number, name in enumerate(sides)}
        for folder in folders.values():
            folder.mkdir()
        for model in options.models.split(","):
            if model in FIRST:
                for name, site in sides.items():
                    step(site, model, FIRST[model], 1, folders[name])
            ratios = []
            for number in range(options.rounds):
                seconds = {}
                for name, site in sides.items() if number % 2 else reversed(sides.items()):
                    seconds[name] = step(site, model, 4, options.steps, folders[name])
                ratios.append(seconds["here"] / seconds[options.commit])
                words = ", ".join(f"{name} {value:.4f} s" for name, value in seconds.items())
                print(f"{model}: {words}; ratio {ratios[-1]:.2f}", flush=True)
            print(
                f"{model}: {statistics.median(ratios):.2f} of {options.commit}'s CPU time, middle of {options.rounds}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
