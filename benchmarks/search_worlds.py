"""Do personalised search models find taste where it is planted, and nothing where it is not?

    python benchmarks/search_worlds.py [--seeds 5] [--steps 4000] [--out search_worlds.jsonl]

A clicked search result is of the intent of its search, so that a query says which items are relevant; but half of the queries are
vague, taken from any intent, so that there only the user tells. With `taste` .9 a search follows its user's few favourite topics; with
0 it follows any, and history and user tell nothing. All items are alike but for their intents. QEM reads the query alone; HEM
knows the user, AEM, ZAM, TEM and CoPPS the clicks of past searches. A fit ends when five checks of the validation brought nothing
better, or after `--steps`. A world is simulated anew for each seed, which is the seed of the fits as well; all models of a world
rank the same candidates.

The difference to QEM is N@10 by users in each world, with a two-sided t-test over the worlds, so that it covers data, users and fits;
Holm's correction over the five models of a strength. A model is marked where it beats QEM at 5 %; one that is worse has its interval below
0, for reading what means nothing costs a little of a finite log. Each run is one line of the file that `--out` names; what stands there is
not run again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.candidates import draw
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.scoring import RowValidation, rank
from bench.evaluation.significance import holm
from bench.experiments.process import configure_torch
from bench.ranker import registry
from bench.ranker.contract import Context

WORLD = {
    "users": 300, "items": 300, "events": 120_000, "search_share": 0.9, "topics": 10, "intents": 3, "days": 4.0,
    "clickable": 1.0, "popularity": 0.0, "relevance": 1.0, "transition": 0.0, "vague": 0.5,
}  # fmt: skip
TASTES = (0.9, 0.0)
BASE = "qem"
PERSONAL = ("hem", "aem", "zam", "tem", "copps")
VALUE = str(PRIMARY)
LEVEL = 0.05
VALID_ROWS = 5000  # of the day before the last one; enough to tell .01


def run(name: str, taste: float, seed: int, settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """One fit on searches, ranked on those of the last of the four days."""
    log = sources.load("simulated", WORLD | {"taste": taste, "seed": seed}, root)
    parts = split(log, "last-day")
    batches, tasks = Batches(parts), ("search",)
    cls = registry.get(name)
    torch.manual_seed(seed)
    started = time.process_time()
    model: Any = cls(cls.Config(**cls.quick | settings), Context(Catalog(log), seed=seed, tasks=tasks))
    validation = RowValidation(batches, tasks, model.window, limit=VALID_ROWS)
    facts = model.fit(TrainData(batches, tasks, seed), validation)
    ranks = rank(model.score, batches, draw(parts, "test", tasks), model.window, model=name)
    value = float(ranks.per_user(PRIMARY)[1].mean())
    seconds = round(time.process_time() - started, 1)
    fit = {name: facts[name] for name in ("steps", "converged")}
    return {"rows": len(ranks), VALUE: value, **fit, "seconds": seconds}


def summary(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Per strength and personalised model: its mean, QEM's, their difference with interval and adjusted p-value."""
    found = {(line["taste"], line["model"], line["seed"]): line[VALUE] for line in lines}
    for taste in TASTES:
        rows = []
        for name in PERSONAL:
            seeds = sorted(
                seed for at, model, seed in found if (at, model) == (taste, name) and (at, BASE, seed) in found
            )
            if len(seeds) < 2:
                continue
            own, base = (np.asarray([found[taste, model, seed] for seed in seeds]) for model in (name, BASE))
            test = stats.ttest_1samp(own - base, 0.0)
            low, high = test.confidence_interval()
            rows.append(
                {"taste": taste, "model": name, "worlds": len(seeds), "mean": own.mean(), BASE: base.mean(),
                 "difference": (own - base).mean(), "low": low, "high": high, "p": test.pvalue}
            )  # fmt: skip
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            yield row | {"holm": float(adjusted), "beats": bool(adjusted < LEVEL and row["difference"] > 0)}


def table(lines: list[dict[str, Any]]) -> str:
    """The summary in Markdown."""
    shown = [f"| taste | model | worlds | {VALUE} | QEM | difference (95 %) | p (Holm) | beats QEM |", "|" + "---|" * 8]
    for row in summary(lines):
        p = f"{row['holm']:.3f}" if row["holm"] >= 0.001 else "< .001"
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        cells = (
            row["taste"],
            row["model"],
            row["worlds"],
            f"{row['mean']:.3f}",
            f"{row[BASE]:.3f}",
            interval,
            p,
            "yes" if row["beats"] else "no",
        )
        shown.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join((BASE, *PERSONAL)), help="with commas; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000, help="most optimiser steps of a fit")
    parser.add_argument("--every", type=int, default=100, help="steps between two checks of the validation")
    parser.add_argument("--out", type=Path, default=Path("search_worlds.jsonl"))
    options = parser.parse_args()
    configure_torch(1)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["taste"], line["model"], line["seed"]) for line in lines}
    # A pass is a few dozen steps, so that the usual bound of passes would end a fit that still gets better.
    settings = {"max_steps": options.steps, "epochs": options.steps, "check_every": options.every}
    jobs = [(t, m, s) for s in range(options.seeds) for t in TASTES for m in options.models.split(",")]
    with tempfile.TemporaryDirectory() as root, options.out.open("a") as out:
        for taste, name, seed in jobs:
            if (taste, name, seed) in done:
                continue
            lines.append({"taste": taste, "model": name, "seed": seed} | run(name, taste, seed, settings, Path(root)))
            out.write(json.dumps(lines[-1]) + "\n")
            out.flush()
            print(lines[-1], flush=True)
    print(table(lines))
    stopped = sum(bool(line["converged"]) for line in lines)
    print(f"{stopped} of {len(lines)} runs ended because the validation got no better; "
          f"the longest took {max(line['seconds'] for line in lines):.0f} s of processor time")  # fmt: skip


if __name__ == "__main__":
    main()
