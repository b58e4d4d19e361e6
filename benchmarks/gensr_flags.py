"""What each difference between GenSR's paper and its released code does: one setting at a time, against the paper's reading.

    python benchmarks/gensr_flags.py [--flags cf_table,filter] [--seeds 0,1,2] [--out results/local/gensr-flags] [--remedies]

Every run is `bench run` under the quick budget, with the setting's released value and everything else as the paper has it;
what is there already is not repeated, so the script can be stopped and started again. After each run the table is written
anew to `<out>/flags.md`, from the runs that are complete so far.

The difference is over users of N@10 as the mean over the seeds that both sides have; its interval is Student's at 95 %, widened by
the variance between the seeds where there are several.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

import bench
from bench.evaluation.metrics import PRIMARY, PerUser
from bench.models.gensr.config import RELEASED
from bench.store.results import Store, read_ranks

# Setting -> difference between paper and released code in words, and what is expected of the released value.
DIFFERENCES: dict[str, tuple[str, str]] = {
    "query_in_prompt": ("the search prompt holds the query", "search falls to about the level of recommendation"),
    "third_segment": ("the third segment is its own text", "small"),
    "positions": ("learned positions in both views", "recommendation falls by about .01"),
    "semantic_history": ("one vector an item in the semantic view", "unclear; long titles weigh more"),
    "filter": ("cross-attention with values", "minor"),
    "history_title_tokens": ("as many title tokens in history and candidate", "small"),
    "cf_table": ("propagated rows of LightGCN", "recommendation falls, most for rare items"),
    "similarity": ("cosine over tau", "unclear; a hard arg-max contrast"),
    "contrast_of": ("contrast over users' views", "small"),
    "score_as": ("logit(Yes) - logit(No)", "none after training"),
    "first_check": ("checks from the first epoch on", "none where a run is one epoch"),
    "reshuffle": ("every pass in an order of its own", "slightly worse; none where a run is one pass"),
    "kind": ("prompts name the data's own kind of item", "small"),
    "match_norm": ("inserted vectors on the scale of words", "the training plateau"),
    "lr_new": ("1e-3 for new weights", "the training plateau"),
    "schedule": ("constant rate after the warm-up", "small"),
}
# Remedies of the plateau that are off by default, and switches of the paper's own analyses.
OPTIONS: dict[str, dict[str, Any]] = {
    "lambda warm-up": {"contrast_warmup": 500},
    "balanced start": {"balanced_batches": 400},
    "dot feature": {"dot_feature": True},
    "loss over the two answers": {"loss_over": "answers"},
    "CF view only": {"views": "cf"},
    "semantic view only": {"views": "semantic"},
    "no soft filter": {"filter": "mean"},
    "no contrast": {"contrast": 0.0},
}


def fit(out: Path, dataset: str, seed: int, settings: dict[str, Any]) -> None:
    """One run into `out`; nothing where it is there."""
    bench.run(
        "gensr", dataset, seeds=seed, set={"gensr": settings} if settings else None, out=str(out), trivial=False,
        threads=1, quiet=True,
    )  # fmt: skip


def values(out: Path) -> dict[str, dict[int, PerUser]]:
    """Per-user values of the runs of a folder, by task and seed."""
    found: dict[str, dict[int, PerUser]] = {}
    for folder, record in Store(out).runs():
        for evaluation in record.evaluations.values():
            ranks = read_ranks(folder, evaluation)
            for task in record.tasks:
                found.setdefault(task, {})[record.seed] = ranks.only(task).per_user(PRIMARY)
    return found


def effect(changed: dict[int, PerUser], paper: dict[int, PerUser]) -> str:
    """Difference of the means with its interval, over the seeds that both have; the means of both sides before it."""
    seeds = sorted(changed.keys() & paper.keys())
    if not seeds:
        return "not yet"
    differences = np.array([changed[seed][1] - paper[seed][1] for seed in seeds])  # (seeds, users)
    of_users = differences.mean(0)
    mean, users = float(of_users.mean()), len(of_users)
    variance, freedom = float(of_users.var(ddof=1)) / users, users - 1
    if len(seeds) > 1:
        between = float(differences.mean(1).var(ddof=1)) / len(seeds)
        freedom = users - 1 if between < variance else len(seeds) - 1
        variance += between
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    level = np.mean([changed[seed][1].mean() for seed in seeds])
    return f"{level:.3f}, {mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}), {len(seeds)} seeds"


def table(root: Path) -> str:
    """The Markdown table of what is complete so far."""
    paper = values(root / "paper")
    level = ", ".join(
        f"{task} {np.mean([each[1].mean() for each in by_seed.values()]):.3f} ({len(by_seed)} seeds)"
        for task, by_seed in paper.items()
    )
    lines = [
        f"N@10 of the paper's reading: {level or 'not yet'}",
        "",
        "| setting | released | expected | rec | search |",
    ]
    lines += ["|---|---|---|---|---|"]
    rows = [(name, f"`{RELEASED[name]}`", expected) for name, (_, expected) in DIFFERENCES.items()]
    rows += [(name, ", ".join(f"`{k}={v}`" for k, v in settings.items()), "") for name, settings in OPTIONS.items()]
    for name, value, expected in rows:
        found = values(root / _folder(name))
        if found:
            cells = [effect(found.get(task, {}), paper.get(task, {})) for task in ("rec", "search")]
            lines.append(f"| {name} | {value} | {expected} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _folder(name: str) -> str:
    return name.replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flags", help="comma list; default: all of them, the query first")
    parser.add_argument("--remedies", action="store_true", help="also remedies of the plateau and the paper's switches")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--out", type=Path, default=Path("results/local/gensr-flags"))
    parser.add_argument("--max-steps", type=int, default=0, help="fewer steps than the quick budget, to try the script")
    options = parser.parse_args()
    chosen = options.flags.split(",") if options.flags else [*DIFFERENCES, *(OPTIONS if options.remedies else ())]
    if unknown := [name for name in chosen if name not in DIFFERENCES and name not in OPTIONS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join([*DIFFERENCES, *OPTIONS])}")
    short = {"max_steps": options.max_steps} if options.max_steps else {}
    for seed in map(int, options.seeds.split(",")):
        for name in ["paper", *chosen]:
            settings = OPTIONS.get(name, {name: RELEASED[name]} if name in RELEASED else {})
            fit(options.out / _folder(name), options.dataset, seed, settings | short)
            (options.out / "flags.md").write_text(table(options.out))
            print(f"{name}, seed {seed}: done", flush=True)
    print(table(options.out))


if __name__ == "__main__":
    main()
