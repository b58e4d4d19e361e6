"""Time and peak memory of every step from KuaiSAR's raw files to training batches, at any scale, on generated files.

    python benchmarks/kuaisar_scale.py FOLDER [--scale 1.0] [--batches 50] [--batch-size 1024]

FOLDER is used as data root. Where FOLDER/kuaisar holds no release, one is generated (the full size takes about 4 GB);
scale 1.0 has the counts of the full release: 25,877 users, 6,890,707 items, 19,664,885 rows. Each step runs in a
process of its own. The peak is the process's largest resident set, mapped pages of files included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def generate(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.datasets.simulated.source import full_size, write_raw

    folder = root / "kuaisar" / "KuaiSAR_v2"
    started = time.perf_counter()
    if folder.exists():
        detail = "was there already"
    else:
        write_raw(folder, full_size(options.scale))
        detail = f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e9:.2f} GB"
    return time.perf_counter() - started, detail


def checksums(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data.log import file_sha256

    started = time.perf_counter()
    paths = sorted((root / "kuaisar" / "KuaiSAR_v2").glob("*.csv"))
    for path in paths:
        file_sha256(path)
    return time.perf_counter() - started, f"{len(paths)} files, part of prepare and load"


def prepare(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data import sources

    started = time.perf_counter()
    log = sources.load("kuaisar", root=root, fresh=True)
    seconds = time.perf_counter() - started
    counts = log.manifest["counts"]
    for step in log.manifest["steps"]:
        facts = (f"{key} {value:,}" if isinstance(value, int) else value for key, value in step.items())
        print("  " + ", ".join(facts), file=sys.stderr)
    clicks = f"{counts['rec']:,} + {counts['search']:,} clicks"
    return seconds, f"{counts['users']:,} users, {counts['items']:,} items, {clicks}"


def load(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data import log as logs

    started = time.perf_counter()
    logs.load(_prepared(root))
    return time.perf_counter() - started, "prepared files only"


def split(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data.split import split

    log = _log(root)
    started = time.perf_counter()
    parts = split(log, "last-day")
    return time.perf_counter() - started, f"{len(parts.train):,} / {len(parts.valid):,} / {len(parts.test):,} rows"


def candidates(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data.split import split
    from bench.evaluation.candidates import draw

    parts = split(_log(root), "last-day")
    started = time.perf_counter()
    drawn = draw(parts, "test")
    return time.perf_counter() - started, f"{len(drawn):,} rows x 99 negatives"


def shown(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data.split import split
    from bench.evaluation.candidates import draw

    parts = split(_log(root), "last-day")
    started = time.perf_counter()
    drawn = draw(parts, "test", strategy="shown")
    return time.perf_counter() - started, f"{len(drawn):,} rows x 99 negatives, what the session displayed first"


def batches(root: Path, options: argparse.Namespace) -> tuple[float, str]:
    from bench.data.batch import Batches
    from bench.data.history import Window
    from bench.data.split import split
    from bench.data.training import TrainData

    log = _log(root)
    mapped = not log.events.item.flags.owndata and not log.events.item.flags.writeable
    train = TrainData(Batches(split(log, "last-day")), ("rec", "search"), seed=0)
    stream = train.events(options.batch_size, negatives=4, window=Window())
    next(stream.batches(0, 1))
    started = time.perf_counter()
    for _ in stream.batches(1, options.batches):
        pass
    seconds = time.perf_counter() - started
    kind = "mapped" if mapped else "not mapped"
    each = 1000 * seconds / options.batches
    return seconds, f"{options.batches} x {options.batch_size:,} rows, {each:.1f} ms each, events {kind}"


STEPS: dict[str, Callable[[Path, argparse.Namespace], tuple[float, str]]] = {
    step.__name__: step for step in (generate, checksums, prepare, load, split, candidates, shown, batches)
}


def _prepared(root: Path) -> Path:
    return next(iter((root / "prepared").glob("kuaisar-*")))


def _log(root: Path) -> Any:
    from bench.data import log as logs

    return logs.load(_prepared(root))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--step", choices=list(STEPS), help="run one step in this process and print it as JSON")
    options = parser.parse_args()
    root = options.folder.resolve()
    if options.step:
        seconds, detail = STEPS[options.step](root, options)
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        print(json.dumps({"seconds": seconds, "peak": peak, "detail": detail}))
        return
    print(f"scale {options.scale:g}, {os.cpu_count()} cores")
    print(f"{'step':<12}{'seconds':>9}{'process s':>11}{'peak GB':>9}  what")
    for name in STEPS:
        started = time.perf_counter()
        command = [sys.executable, __file__, str(root), "--step", name, "--scale", str(options.scale)]
        command += ["--batches", str(options.batches), "--batch-size", str(options.batch_size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{name} failed")
        facts = json.loads(done.stdout.splitlines()[-1])
        whole = time.perf_counter() - started
        print(
            f"{name:<12}{facts['seconds']:>9.1f}{whole:>11.1f}{facts['peak'] / 1e9:>9.2f}  {facts['detail']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
