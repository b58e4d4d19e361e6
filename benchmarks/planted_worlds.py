"""Does a model use what the other behaviour tells, and does sharing help it? Two worlds in which the answer is planted.

    python benchmarks/planted_worlds.py [--models NAMES] [--seeds 5] [--steps 200] [--out planted_worlds.jsonl]

`history`: the topic of a click is that of the user's last act of the OTHER behaviour with probability `strength` (recommendation
clicks that follow searches, and searches whose queries say nothing that follow recommendation clicks; a log each). Each model is
trained and ranked twice for the task: with both behaviours in its histories, and with the other one masked in training,
validation and test.

`sharing`: with probability `strength` a click or search follows the user's favourite topics, and few rows are recommendations: one
in twelve, and for UniSAR, which learns from so many what there is to be learnt, one in fifty, with queries that say nothing. Each
model of both tasks is trained on the recommendations alone, and on both tasks; both times the same recommendation rows are ranked,
with the same histories.

In both all items are alike but for their topics, so that at strength 0 there is nothing to be found. A world is simulated anew for each
seed, which is the seed of the fit as well. The difference of N@10 is taken in each world; a two-sided t-test over the worlds (so
that it covers data, users and fits), Holm's correction over the rows of a question and a strength. Each run is one line of the file that
`--out` names; what stands there is not run again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data import sources
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.log import SEARCH, Log
from bench.data.sequences import SequenceStream
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.data.views import ViewStream
from bench.evaluation.candidates import draw
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.scoring import RowValidation, rank
from bench.evaluation.significance import holm
from bench.experiments.process import configure_torch
from bench.ranker import backbone, registry
from bench.ranker.contract import Context

# Short histories and small batches keep a run within half a minute; a model takes those of them that it has.
SMALL = {"history_rec": 4, "history_search": 4, "length": 10, "batch_size": 128}
# Where the rate of a model is meant for longer trainings it gets a higher one. UniSAR's search task gets the weight of a row
# of recommendation, for in so few steps a tenth of it teaches nothing. USER is small, so that it can have more steps, its logits are
# not bounded, and a session lasts a day: with the half hour of its authors nearly every act of these logs is a session of its own.
# BSR reads more clicks, for it knows its user by nothing else, has a shorter warm-up and more steps.
OWN: dict[str, dict[str, Any]] = {
    "nrhub": {"lr": 5e-3},
    "seqrec": {"lr": 5e-3},
    "sesrec": {"lr": 5e-3},
    "unisar": {"search_weight": 1.0},
    "user": {"d": 32, "hidden": 32, "heads": 2, "gap": 86_400.0, "output": "linear", "lr": 3e-3, "max_steps": 400},
    "bsr": {"history_rec": 10, "warmup": 50, "max_steps": 450},
}
# The last of the days is the test.
COMMON = {
    "users": 200, "items": 200, "topics": 8, "intents": 2, "days": 4.0, "clickable": 1.0, "popularity": 0.0, "relevance": 1.0,
}  # fmt: skip
STRENGTHS = (0.9, 0.0)
VALUE = str(PRIMARY)
# Models that read the other behaviour in a task (UnifiedSSR reads each task's own).
READERS = ("nrhub", "seqrec", "sesrec", "unisar", "user")


@dataclass(frozen=True)
class World:
    """A question, the task and the models that it is asked of, and the settings of the simulation by strength."""

    question: str  # "history" or "sharing"
    task: str
    models: tuple[str, ...]
    settings: dict[str, Any]
    strength: str  # the setting that is planted

    def log(self, strength: float, seed: int, root: Path) -> Log:
        """The simulated log."""
        return sources.load("simulated", COMMON | self.settings | {self.strength: strength, "seed": seed}, root)


WORLDS = (
    World(
        "history", "rec", READERS, {"events": 40_000, "search_share": 0.6, "taste": 0.0, "direction": "to-rec"}, "transition"
    ),
    World(
        "history",
        "search",
        READERS,
        {
            "events": 40_000, "search_share": 0.3, "taste": 0.0, "direction": "to-search", "vague": 1.0, "vague_intents": 1,
        },
        "transition",
    ),
    World(
        "sharing",
        "rec",
        ("jsr", "user", "unifiedssr", "bsr"),
        {"events": 40_000, "search_share": 0.92, "transition": 0.0},
        "taste",
    ),
    World(
        "sharing",
        "rec",
        ("unisar",),
        {"events": 80_000, "search_share": 0.98, "transition": 0.0, "vague": 1.0, "days": 3.0},
        "taste",
    ),
)  # fmt: skip
# What is compared, the first with the second.
VARIANTS = {"history": ("both behaviours", "own behaviour"), "sharing": ("both tasks", "one task")}


class OwnBehaviour(Batches):
    """Batches whose rows know the past of their own task only."""

    def rows(self, rows: np.ndarray, cand: np.ndarray, window: Window) -> Batch:
        """As `Batches.rows`, without searches in histories of recommendations and the other way round."""
        batch = super().rows(rows, cand, window)
        search = batch.task == SEARCH
        rec_len, search_len = batch.rec_len.masked_fill(search, 0), batch.search_len.masked_fill(~search, 0)
        kept = torch.arange(batch.merged_column.shape[1]) < (rec_len + search_len)[:, None]
        return replace(
            batch,
            rec_len=rec_len,
            search_len=search_len,
            rec_items=batch.rec_items.where(batch.rec_mask & ~search[:, None], 0),
            search_query=batch.search_query.where(batch.search_mask & search[:, None], 0),
            search_items=batch.search_items.where(batch.search_click_mask & search[:, None, None], 0),
            merged_task=torch.where(kept, batch.task[:, None], 0),
            merged_column=torch.where(kept, torch.arange(batch.merged_column.shape[1]), 0),
        )


class OwnTrainData(TrainData):
    """Training data whose sequences hold one task only."""

    def sequences(self, batch_size: int, **options: Any) -> SequenceStream:
        """As `TrainData.sequences`, whatever `every_task` says."""
        return super().sequences(batch_size, **options | {"every_task": False})

    def views(self, batch_size: int, **options: Any) -> ViewStream:
        """As `TrainData.views`, whatever `every_task` says."""
        return super().views(batch_size, **options | {"every_task": False})


def fitted(
    name: str, log: Log, parts: LogSplit, tasks: tuple[str, ...], masked: bool, settings: dict, seed: int
) -> Any:
    """A model trained on tasks, with the batches that it was trained on; `settings` go over those that are `SMALL`."""
    cls = registry.get(name)
    small = {key: value for key, value in SMALL.items() if key in cls.Config.model_fields}
    settings = small | settings
    batches = (OwnBehaviour if masked else Batches)(parts)
    torch.manual_seed(seed)
    model: Any = cls(
        cls.Config(**cls.quick | settings), Context(Catalog(log), seed=seed, tasks=tasks, backbones=backbone.load)
    )
    data = (OwnTrainData if masked else TrainData)(batches, tasks, seed)
    model.fit(data, RowValidation(batches, tasks, model.window))
    return model, batches


def run(
    name: str, world: World, strength: float, seed: int, variant: str, settings: dict, root: Path
) -> dict[str, Any]:
    """One fit, ranked on the test rows of the world's task."""
    log = world.log(strength, seed, root)
    parts = split(log, "last-day")
    tasks = registry.entries()[name].tasks if variant == "both tasks" else (world.task,)
    started = time.process_time()
    model, batches = fitted(name, log, parts, tasks, variant == "own behaviour", settings, seed)
    ranks = rank(model.score, batches, draw(parts, "test", (world.task,)), model.window, model=name)
    value = ranks.per_user(PRIMARY)[1].mean()
    return {"rows": len(ranks), VALUE: float(value), "seconds": round(time.process_time() - started, 1)}


def settings_of(name: str, steps: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """What a model is trained with: `steps` where it has no number of its own, and what was chosen over all."""
    settings = {"max_steps": steps} | OWN.get(name, {}) | chosen
    return {"steps_per_epoch": max(1, settings["max_steps"] // 3)} | settings


def summary(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each model, world and strength the mean of both variants over the seeds, their difference and its p-value."""
    from scipy.stats import t as student

    cells: dict[tuple, dict[str, dict[int, float]]] = {}
    for line in lines:
        key = (line["world"], line["task"], line["model"], line["strength"])
        cells.setdefault(key, {}).setdefault(line["variant"], {})[line["seed"]] = line[VALUE]
    rows = []
    for (question, task, model, strength), found in cells.items():
        first, second = (found.get(variant, {}) for variant in VARIANTS[question])
        seeds = sorted(first.keys() & second.keys())
        if len(seeds) < 2:
            continue
        with_it, without = (np.asarray([values[seed] for seed in seeds]) for values in (first, second))
        differences = with_it - without
        error = float(differences.std(ddof=1) / len(seeds) ** 0.5)
        half = float(student.ppf(0.975, len(seeds) - 1)) * error
        row = {"world": question, "task": task, "model": model, "strength": strength, "seeds": len(seeds)}
        row |= {
            "with": float(with_it.mean()),
            "without": float(without.mean()),
            "difference": float(differences.mean()),
        }
        row |= {
            "half": half,
            "p": float(2 * student.sf(abs(differences.mean()) / error, len(seeds) - 1)) if error else 1.0,
        }
        rows.append(row)
    for family in dict.fromkeys((row["world"], row["strength"]) for row in rows):
        members = [row for row in rows if (row["world"], row["strength"]) == family]
        for row, adjusted in zip(members, holm([row["p"] for row in members]), strict=True):
            yield row | {"holm": float(adjusted)}


def table(lines: list[dict[str, Any]]) -> str:
    """The summary in Markdown."""
    head = "| world | task | model | strength | worlds | with | without | difference (95 %) | p (Holm) |"
    shown = [head, "|" + "---|" * 9]
    for row in sorted(summary(lines), key=lambda row: (row["world"], row["task"], -row["strength"], row["model"])):
        interval = f"{row['difference']:+.3f} ± {row['half']:.3f}"
        p = f"{row['holm']:.3f}" if row["holm"] >= 0.001 else "< .001"
        cells = (
            row["world"],
            row["task"],
            row["model"],
            row["strength"],
            row["seeds"],
            f"{row['with']:.3f}",
            f"{row['without']:.3f}",
        )
        shown.append("| " + " | ".join(str(cell) for cell in (*cells, interval, p)) + " |")
    return "\n".join(shown)


def plan(models: list[str], seeds: int, strengths: tuple[float, ...] = STRENGTHS) -> Iterator[dict[str, Any]]:
    """The runs, seed by seed, so that an unfinished file has all models."""
    entries = registry.entries()
    for seed in range(seeds):
        for world in WORLDS:
            for name in models:
                if name not in world.models or world.task not in entries[name].tasks:
                    continue
                for strength in strengths:
                    for variant in VARIANTS[world.question]:
                        yield {
                            "world": world.question,
                            "task": world.task,
                            "model": name,
                            "strength": strength,
                            "variant": variant,
                            "seed": seed,
                        }


def main() -> None:
    known = list(dict.fromkeys(name for world in WORLDS for name in world.models if name in registry.entries()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(known), help="with commas; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=200, help="optimiser steps of a fit, where a model has none of its own"
    )
    parser.add_argument("--set", action="append", default=[], metavar="MODEL.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("planted_worlds.jsonl"))
    options = parser.parse_args()
    configure_torch(1)
    own: dict[str, dict[str, Any]] = {}
    for entry in options.set:
        name, _, value = entry.partition("=")
        model, _, key = name.partition(".")
        own.setdefault(model, {})[key] = json.loads(value)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = [{key: line[key] for key in ("world", "task", "model", "strength", "variant", "seed")} for line in lines]
    worlds = {(world.question, world.task, name): world for world in WORLDS for name in world.models}
    with tempfile.TemporaryDirectory() as root, options.out.open("a") as out:
        for job in plan(options.models.split(","), options.seeds):
            if job in done:
                continue
            settings = settings_of(job["model"], options.steps, own.get(job["model"], {}))
            world = worlds[job["world"], job["task"], job["model"]]
            result = run(job["model"], world, job["strength"], job["seed"], job["variant"], settings, Path(root))
            lines.append(job | result)
            out.write(json.dumps(lines[-1]) + "\n")
            out.flush()
            print(f"{job['world']} {job['task']} {job['model']} {job['strength']} seed {job['seed']}, {job['variant']}: "
                  f"{VALUE} {result[VALUE]:.3f} in {result['seconds']} s", flush=True)  # fmt: skip
    print(table(lines))
    print(f"longest run {max(line['seconds'] for line in lines):.0f} s of processor time")


if __name__ == "__main__":
    main()
