"""Whether the ranks of two versions are equal, byte for byte.

    python benchmarks/compare_ranks.py ../old ../new --models gensr,unisar --seeds 0     # two checkouts, each with a .venv
    python benchmarks/compare_ranks.py --folders results/old results/new                 # two results folders

Runs are paired by data set, model, seed, budget and tasks; keys and ids may differ. Of each candidate set both the lists
(by their fingerprint) and the columns of the ranks are compared, the name of the file and its metadata are not. Exit code 1
when a pair differs or nothing can be paired.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

Key = tuple[str, ...]


def run(checkout: Path, out: Path, words: list[str]) -> None:
    """`bench run` of a checkout into a results folder."""
    command = [str(checkout / ".venv" / "bin" / "bench"), "run", "--out", str(out), "--threads", "1", "--quiet", *words]
    print(f"{checkout}: bench {' '.join(command[1:])}", flush=True)
    if subprocess.call(command, cwd=checkout, env=os.environ | {"OMP_NUM_THREADS": "1"}):
        print(f"{checkout}: some runs failed", flush=True)


def runs(root: Path) -> dict[Key, list[tuple[Path, dict]]]:
    """Records of a results folder, by what makes two runs the same; read as plain JSON, since formats differ."""
    by_key: dict[Key, list[tuple[Path, dict]]] = {}
    for path in sorted(root.glob("*/*/run.json")):
        if path.parent.suffix == ".part" or path.parent.name.startswith("."):
            continue
        record = json.loads(path.read_text())
        tasks = ",".join(record["tasks"])
        key = (record["dataset"]["name"], record["model"], f"seed {record['seed']}", record["budget"], tasks)
        by_key.setdefault(key, []).append((path.parent, record))
    return by_key


def difference(left: tuple[Path, dict], right: tuple[Path, dict]) -> str:
    """What differs between the ranks of two runs; empty where they are equal."""
    evaluations = [
        {each["fingerprint"]: each["ranks"] for each in run[1]["evaluations"].values()} for run in (left, right)
    ]
    shared = evaluations[0].keys() & evaluations[1].keys()
    if not shared:
        return "no candidate set in common"
    for fingerprint in sorted(shared):
        sides = zip((left, right), evaluations, strict=True)
        tables = [pq.read_table(run[0] / names[fingerprint]).replace_schema_metadata() for run, names in sides]
        if tables[0].schema != tables[1].schema or len(tables[0]) != len(tables[1]):
            return f"other columns or numbers of rows on {fingerprint[:12]}"
        for name in tables[0].column_names:
            columns = [table.column(name).to_numpy() for table in tables]
            if columns[0].tobytes() != columns[1].tobytes():
                return f"{name} differs in {int((columns[0] != columns[1]).sum()):,} of {len(tables[0]):,} rows on {fingerprint[:12]}"
    return ""


def compare(left: Path, right: Path) -> bool:
    """Print one line per run; True where all pairs are equal."""
    sides = runs(left), runs(right)
    equal = bool(sides[0].keys() & sides[1].keys())
    for key in sorted(sides[0].keys() | sides[1].keys()):
        missing = [str(root) for root, side in zip((left, right), sides, strict=True) if key not in side]
        if missing:
            print(f"{', '.join(key)}: not in {missing[0]}")
            continue
        found = difference(sides[0][key][-1], sides[1][key][-1])
        equal &= not found
        print(f"{', '.join(key)}: {found or 'equal'}")
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT")
    parser.add_argument("--folders", nargs=2, type=Path, metavar="DIR", help="compare these results instead of running")
    given, words = parser.parse_known_args()
    if given.folders:
        sys.exit(not compare(*given.folders))
    if len(given.checkouts) != 2:
        parser.error("name two checkouts, or two results folders with --folders")
    with tempfile.TemporaryDirectory() as scratch:
        outs = [Path(scratch) / side for side in ("left", "right")]
        for checkout, out in zip(given.checkouts, outs, strict=True):
            run(checkout.resolve(), out, words or ["--models", "trivial"])
        sys.exit(not compare(*outs))


if __name__ == "__main__":
    main()
