"""How much of a planted structure do models of both tasks find, beside the scorer that knows it, and what do they find where none is?

    python benchmarks/known_answer.py [--models gensr,unisar] [--seeds 1] [--full] [--out known_answer.jsonl]

`planted` is the simulated log as it comes: clicks follow tastes, the searches before them and popularity, and a clicked search result
is of the intent of its search four times in five. In `nothing` every strength is 0, so that a click is a uniform draw: there a
model must be at chance. `oracle` scores with the simulation's own structure, which no model sees; it is what a perfect model would
reach. A world is simulated anew for each seed, which is the seed of the fits as well; all scorers of a world rank the same
candidates. Quick budgets, or with `--full` until the validation gets no better.

N@10 by users, and how far 95 % of scorers without knowledge stay from chance. Each run is one line of the file that `--out` names; what
stands there is not run again.
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

from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.split import split
from bench.data.training import TrainData
from bench.datasets.simulated.source import Parameters, oracle
from bench.evaluation.candidates import draw
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks
from bench.evaluation.scoring import RowValidation, rank
from bench.experiments.process import configure_torch
from bench.ranker import backbone, registry
from bench.ranker.contract import Context

TASKS = ("rec", "search")
WORLDS: dict[str, dict[str, Any]] = {
    "planted": {},
    "nothing": {"taste": 0.0, "transition": 0.0, "relevance": 0.0, "popularity": 0.0},
}
ORACLE = "oracle"
VALUE = str(PRIMARY)
VALID_ROWS = 3000
# Mean and variance of the metric of a row whose positive has a uniform rank among 100.
_GAINS = np.r_[1 / np.log2(np.arange(1, 11) + 1), np.zeros(90)]
CHANCE, _VARIANCE = float(_GAINS.mean()), float(_GAINS.var())


def measured(ranks: Ranks) -> dict[str, dict[str, float]]:
    """By task: the mean over users, and the half width of the interval in which 95 % of scorers without knowledge lie."""
    found = {}
    for task in TASKS:
        kept = ranks.only(task)
        rows = np.unique(kept.user, return_counts=True)[1]
        half = 1.96 * np.sqrt(_VARIANCE * (1 / rows).sum()) / len(rows)
        found[task] = {VALUE: float(kept.mean(PRIMARY)), "half": float(half)}
    return found


def run(name: str, world: str, seed: int, full: bool, root: Path) -> dict[str, Any]:
    """One scorer, ranked on the test rows of both tasks."""
    log = sources.load("simulated", WORLDS[world] | {"seed": seed}, root)
    parts = split(log, "last-day")
    batches, started = Batches(parts), time.process_time()
    if name == ORACLE:
        settings = {key: log.manifest["config"][key] for key in Parameters.model_fields}
        return measured(rank(oracle(log, Parameters(**settings)), batches, draw(parts, "test", TASKS), Window()))
    cls = registry.get(name)
    torch.manual_seed(seed)
    context = Context(Catalog(log), seed=seed, tasks=TASKS, backbones=backbone.load)
    model: Any = cls(cls.Config(**({} if full else cls.quick)), context)
    validation = RowValidation(batches, TASKS, model.window, model=name, limit=VALID_ROWS)
    facts = model.fit(TrainData(batches, TASKS, seed), validation)
    with model.scoring(), torch.no_grad():
        ranks = rank(model.score, batches, draw(parts, "test", TASKS), model.window, model=name)
    fit = {key: facts[key] for key in ("steps", "converged") if key in facts}  # the trivial ones have no steps
    return measured(ranks) | fit | {"seconds": round(time.process_time() - started, 1)}


def table(lines: list[dict[str, Any]]) -> str:
    """Means over the seeds in Markdown; in `planted` also as a share of what the oracle reaches."""
    found = {(line["world"], line["model"], line["seed"]): line for line in lines}
    shown = ["| world | scorer | worlds | rec | of the oracle | search | of the oracle |", "|" + "---|" * 7]
    for world in WORLDS:
        names = dict.fromkeys(line["model"] for line in lines if line["world"] == world)
        best = means(found, world, ORACLE)
        for name in names:
            values = means(found, world, name)
            cells = []
            for task in TASKS:
                share = f"{values[task] / best[task]:.0%}" if world == "planted" and best else ""
                cells += [f"{values[task]:.3f}", share]
            seeds = sum(key[:2] == (world, name) for key in found)
            shown.append("| " + " | ".join(map(str, (world, name, seeds, *cells))) + " |")
    halves = {
        task: np.mean([line[task]["half"] for line in lines if line["world"] == "nothing"] or [np.nan])
        for task in TASKS
    }
    chance = ", ".join(f"{task} {CHANCE:.3f} ± {halves[task]:.3f}" for task in TASKS)
    return "\n".join([*shown, "", f"Chance in one world: {chance}."])


def means(found: dict[tuple[str, str, int], dict[str, Any]], world: str, name: str) -> dict[str, float]:
    """By task, the mean over the seeds of a scorer in a world; empty where it has none."""
    lines = [line for (at, model, _), line in found.items() if (at, model) == (world, name)]
    return {task: float(np.mean([line[task][VALUE] for line in lines])) for task in TASKS} if lines else {}


def plan(models: list[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """(scorer, world, seed), seed by seed."""
    for seed in range(seeds):
        for world in WORLDS:
            for name in (ORACLE, *models):
                yield name, world, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gensr,unisar", help="with commas; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="train to convergence instead of quick budgets")
    parser.add_argument("--out", type=Path, default=Path("known_answer.jsonl"))
    options = parser.parse_args()
    configure_torch(1)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["model"], line["world"], line["seed"]) for line in lines}
    with tempfile.TemporaryDirectory() as root, options.out.open("a") as out:
        for name, world, seed in plan(options.models.split(","), options.seeds):
            if (name, world, seed) in done:
                continue
            result = run(name, world, seed, options.full, Path(root))
            lines.append({"model": name, "world": world, "seed": seed} | result)
            out.write(json.dumps(lines[-1]) + "\n")
            out.flush()
            print(lines[-1], flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
