"""FMLP-Rec, SASRec, GRU4Rec and BERT4Rec on Amazon Beauty (5-core) as FMLP-Rec's authors measured: 99 uniform negatives.

    python benchmarks/beauty.py FOLDER [--models fmlp,sasrec,gru4rec,bert4rec] [--epochs N] [--out results/beauty]

FOLDER holds `user_sequence.txt` (gzipped or not): 22,363 users, 12,101 items, 198,502 reviews in the order of their time.
Each user's last review is tested and the one before validated; HR@10 is R@10 of one relevant item. All models are trained
with `--budget full`, patience on validation N@10, and at most `--epochs` epochs (0: the model's own bound). It is
`bench run` underneath: what is finished is not repeated, an interrupted fit goes on. The table is also written to
OUT/beauty.md after each model. Published by the authors of FMLP-Rec for FMLP-Rec (their log): HR@10 .4935, N@10 .3317.
"""

import argparse
from pathlib import Path

import bench
from bench.evaluation.metrics import parse
from bench.store.records import RunRecord
from bench.store.results import Store, read_ranks

PUBLISHED = {"fmlp": {"HR@10": 0.4935, "N@10": 0.3317}}
WITHIN = 0.05


def line(name: str, store: Store, record: RunRecord) -> str:
    """A row of the table: the two metrics, what was published, and the distance to it."""
    folder, record = store.find(record.id)
    (evaluation,) = record.evaluations.values()
    ranks = read_ranks(folder, evaluation).only("rec")
    found = {"HR@10": ranks.mean(parse("R@10")), "N@10": ranks.mean(parse("N@10"))}
    cells = [f"{found[metric]:.4f}" for metric in found]
    if name in PUBLISHED:
        distance = {metric: found[metric] / value - 1 for metric, value in PUBLISHED[name].items()}
        verdict = "within 5 %" if all(abs(value) <= WITHIN for value in distance.values()) else "not within 5 %"
        published = ", ".join(f"{metric} {value:.4f}" for metric, value in PUBLISHED[name].items())
        cells += [published, f"{verdict} ({', '.join(f'{value:+.1%}' for value in distance.values())})"]
    else:
        cells += ["", ""]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Parse the arguments, run the models one after the other, write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="fmlp,sasrec,gru4rec,bert4rec")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/beauty"))
    given = parser.parse_args()
    settings: dict[str, dict[str, object]] = {"sequences": {"queries": "none", "mode": "mirror"}}
    if given.epochs:
        settings["train"] = {"epochs": given.epochs}
    lines = ["| model | HR@10 | N@10 | published | distance |", "|---|---|---|---|---|"]
    for name in given.models.split(","):
        result = bench.run(
            name, f"sequences:{given.folder}", tasks="rec", budget="full", threads=1, trivial=False, out=given.out,
            set=settings,
        )  # fmt: skip
        (record,) = result.runs.values()
        lines.append(line(name, result.store, record))
        (given.out / "beauty.md").write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
