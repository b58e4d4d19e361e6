"""`bench data check` on a large CSV, by two checkouts in turns: processor time, wall time and their ratios.

    python benchmarks/own_log_check.py OLD NEW [--rows 1600000] [--rounds 5] [--folder DIR]

OLD and NEW are folders of checkouts, each with its environment in `.venv`. Three folders of own logs are checked: bare
values, values in quotes, and files of items and queries beside the events. Run it alone on the machine.
"""

import argparse
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd


def events(rows: int, query: str) -> pd.DataFrame:
    """Events of users whose activity is uneven, 40 % of them searches; `query` is the pattern of a query's text."""
    rng = np.random.default_rng(0)
    search = rng.random(rows) < 0.4
    numbers = rng.integers(0, 40_000, rows)
    return pd.DataFrame(
        {
            "user": np.char.add("u", (rng.zipf(1.3, rows) % 60_000).astype(str)),
            "item": np.char.add("i", rng.integers(0, 100_000, rows).astype(str)),
            "time": 1_700_000_000_000 + rng.integers(0, 10**9, rows),
            "task": np.where(search, "search", "rec"),
            "query": np.where(search, np.char.mod(query, numbers), ""),
            "session": np.where(search, np.char.add("s", (np.arange(rows) // 3).astype(str)), ""),
        }
    )


def write_logs(folder: Path, rows: int) -> list[Path]:
    """The folders to check."""
    logs = [folder / name for name in ("bare", "quoted", "texts")]
    for log in logs:
        log.mkdir(parents=True, exist_ok=True)
    events(rows, "query %d").to_csv(logs[0] / "events.csv", index=False)
    events(rows, 'query "%d", red').to_csv(logs[1] / "events.csv", index=False)
    table = events(rows, "q%d")
    table.to_csv(logs[2] / "events.csv", index=False)
    items = pd.DataFrame({"item": [f"i{number}" for number in range(100_000)]})
    items.assign(text="Kettle, red, 1.7 l " + items["item"]).to_csv(logs[2] / "items.csv", index=False)
    queries = pd.DataFrame({"query": [f"q{number}" for number in range(40_000)]})
    queries.assign(text="red kettle " + queries["query"]).to_csv(logs[2] / "queries.csv", index=False)
    return logs


def measure(checkout: Path, log: Path) -> tuple[float, float]:
    """Processor seconds and wall seconds of one check."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", "bench", "data", "check", str(log)]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the logs are written; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for log in write_logs(given.folder or Path(scratch), given.rows):
            taken: dict[Path, list[tuple[float, float]]] = {given.old: [], given.new: []}
            for turn in range(given.rounds):
                # Who goes first changes, so that a warm file helps both alike.
                for checkout in list(taken)[:: 1 if turn % 2 else -1]:
                    taken[checkout].append(measure(checkout, log))
            medians = {
                checkout: [statistics.median(column) for column in zip(*pairs, strict=True)]
                for checkout, pairs in taken.items()
            }
            old, new = medians[given.old], medians[given.new]
            print(
                f"{log.name}: {given.rows:,} rows, median of {given.rounds}: processor {old[0]:.2f} s -> {new[0]:.2f} s "
                f"(ratio {new[0] / old[0]:.2f}), wall {old[1]:.2f} s -> {new[1]:.2f} s (ratio {new[1] / old[1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
