"""FMLP-Rec, SASRec, GRU4Rec and BERT4Rec on Amazon Beauty (5-core) as FMLP-Rec's authors measured: 99 uniform negatives.

    python benchmarks/beauty.py FOLDER [--models fmlp,sasrec,gru4rec,bert4rec] [--max-steps N] [--out results/beauty]

FOLDER holds `user_sequence.txt` (gzipped or not): 22,363 users, 12,101 items, 198,502 reviews in the order of their time.
Each user's last review is tested and the one before validated; HR@10 is R@10 of one relevant item. All models read the last
50 reviews and are trained with `--budget full`: until the validation's N@10 gets no better, or for at most `--max-steps`
updates (0: the model's own bound). It is `bench run` underneath: what is finished is not repeated, an interrupted fit goes
on. The table of all that is finished in OUT is also written to OUT/beauty.md after each model, so that models can be trained
by several commands at once. Published by the authors of FMLP-Rec for FMLP-Rec (their log): HR@10 .4935, N@10 .3317.
"""

import argparse
from pathlib import Path

import bench
from bench.evaluation.metrics import parse
from bench.store.records import RunRecord
from bench.store.results import Store, read_ranks

PUBLISHED = {"fmlp": {"HR@10": 0.4935, "N@10": 0.3317}}
WITHIN = 0.05
METRICS = {"HR@10": "R@10", "N@10": "N@10"}
# What each loss reads beside the clicked item; FMLP-Rec has one loss.
LOSSES = {"fmlp": "BCE, 1 negative", "CE": "CE, all items"}
# BERT4Rec's 50 places hold 49 reviews and the mask.
SETTINGS: dict[str, dict[str, object]] = {
    "sequences": {"queries": "none", "mode": "mirror"},
    "train": {"history_rec": 50},
    "bert4rec": {"history_rec": 49},
}


def line(folder: Path, record: RunRecord) -> str:
    """A row of the table: the two metrics, how the model was trained, what was published, and the distance to it."""
    ((_, evaluation),) = [pair for pair in record.evaluations.items() if pair[1].label == "uniform-99"]
    ranks = read_ranks(folder, evaluation).only("rec")
    found = {name: ranks.mean(parse(metric)) for name, metric in METRICS.items()}
    loss = LOSSES.get(record.model) or LOSSES[record.config["loss_type"]]
    ended = "patience" if record.fit["converged"] else "budget"
    cells = [record.model, loss, *(f"{value:.4f}" for value in found.values())]
    cells += [f"{record.fit['steps']:,}", f"{record.fit['best_epoch']} of {record.fit['epochs']}", ended]
    printed = PUBLISHED.get(record.model, {})
    distance = {metric: found[metric] / value - 1 for metric, value in printed.items()}
    cells.append(", ".join(f"{metric} {value:.4f}" for metric, value in printed.items()))
    within = "within" if all(abs(value) <= WITHIN for value in distance.values()) else "not within"
    distances = ", ".join(f"{value:+.1%}" for value in distance.values())
    cells.append(f"{within} {WITHIN:.0%} ({distances})" if printed else "")
    return "| " + " | ".join(cells) + " |"


def table(store: Store) -> str:
    """The newest run of each model."""
    head = ["model", "loss", *METRICS, "updates", "best epoch", "ended by", "published", "distance"]
    newest = {record.model: (folder, record) for folder, record in store.runs()}
    rows = [line(folder, record) for folder, record in newest.values()]
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows]) + "\n"


def main() -> None:
    """Parse the arguments, run the models one after the other, write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="fmlp,sasrec,gru4rec,bert4rec")
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/beauty"))
    given = parser.parse_args()
    bound = {"train": SETTINGS["train"] | {"max_steps": given.max_steps}} if given.max_steps else {}
    for name in given.models.split(","):
        own = {key: value for key, value in SETTINGS.items() if key in ("sequences", "train", name)}
        result = bench.run(
            name, f"sequences:{given.folder}", tasks="rec", budget="full", threads=1, trivial=False, out=given.out,
            set=own | bound,
        )  # fmt: skip
        for model, why in result.failed.items():
            raise SystemExit(f"{model}: {why}")
        (given.out / "beauty.md").write_text(table(result.store))
        print(table(result.store), flush=True)


if __name__ == "__main__":
    main()
