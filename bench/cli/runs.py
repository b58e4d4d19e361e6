"""`bench runs`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.errors import RunError


@click.group("runs", cls=options.WithList, short_help="List finished runs, their costs; copy or remove some.")
def command() -> None:
    """Finished runs: list them (the default), say what they cost, copy or remove some."""


@command.command("list", short_help="Finished runs, oldest first (the default).")
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@options.output_format("text", "json")
@options.out
@options.debug
def list_(dataset: str | None, form: str, out: Path) -> None:
    """Finished runs, oldest first."""
    from bench.store.results import Store

    records: list[dict[str, Any]] = [
        {
            "run": record.id,
            "dataset": record.dataset["name"],
            "model": record.model,
            "kind": record.kind,
            "seed": record.seed,
            "budget": record.budget,
            "tasks": ",".join(record.tasks),
            "candidates": ",".join(sorted(entry.label for entry in record.evaluations.values())),
            "seconds": round(record.seconds, 2),
            "finished": record.finished,
            "folder": str(folder),
        }
        for folder, record in Store(out).runs()
        if dataset in (None, record.dataset["name"])
    ]
    if form == "json":
        import json

        print(json.dumps(records, indent=1))
        return
    if not records:
        print(f"no finished runs in {out}")
    for entry in records:
        where = f"{entry['dataset']}, {entry['budget'] or entry['kind']}, {entry['candidates']}"
        print(f"{entry['run']:<44} {where}; {entry['seconds']:.1f} s; {entry['finished'][:16]}")


@command.command("costs", short_help="What each run cost: steps, time, memory.")
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@options.output_format("text", "markdown", "json")
@options.out
@options.debug
def costs_(dataset: str | None, form: str, out: Path) -> None:
    """What each run cost: steps and seconds of the fit, milliseconds for each ranked row, parameters, peak memory.

    Times are those of the machine and of what else it did; compare runs of one machine.
    """
    from bench.report.detail.costs import cost
    from bench.store.results import Store

    found: list[dict[str, Any]] = []
    for _, record in Store(out).runs():
        if dataset in (None, record.dataset["name"]) and record.kind == "fit":
            facts = {"model": record.model, "seed": record.seed, "budget": record.budget, "threads": record.threads}
            trained = {name: record.fit[name] for name in ("steps", "converged") if "steps" in record.fit}
            spent = asdict(cost([record], record.evaluations.values()))
            found.append(facts | {"steps": None, "converged": None} | trained | spent)
    if form == "json":
        import json

        print(json.dumps(found, indent=1))
    elif not found:
        print(f"no finished runs in {out}")
    else:
        from tabulate import tabulate

        header = [
            "model",
            "seed",
            "budget",
            "threads",
            "steps",
            "ended by",
            "parameters",
            "fit, s",
            "ms a row",
            "peak MB",
        ]
        ended = {True: "patience", False: "budget", None: ""}
        lines = [
            [
                entry["model"], entry["seed"], entry["budget"], entry["threads"], _number(entry["steps"]),
                ended[entry["converged"]], _number(entry["parameters"]), _number(entry["training_seconds"], 1),
                _number(entry["query_milliseconds"], 2), _number(entry["peak_memory_mb"]),
            ]
            for entry in found
        ]  # fmt: skip
        sides = ["left", "right", "left", "right", "right", "left", *["right"] * 4]
        style = "github" if form == "markdown" else "simple"
        print(tabulate(lines, header, style, colalign=sides, disable_numparse=True))


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


@command.command("copy", short_help="Copy runs into another results folder, without weights.")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--to",
    "target",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Results folder.",
)
@click.option("--dataset", metavar="NAME", help="Only runs on this data set.")
@options.out
@options.debug
def copy(runs: tuple[str, ...], target: Path, dataset: str | None, out: Path) -> None:
    """Copy runs into another results folder, to keep or to publish them: records, curves, ranks and candidates.

    Without RUN all runs are copied. RUN is an id of `bench runs list`, the start of one, or the path of a run's folder.
    Weights stay behind: `bench table`, `bench report` and `bench audit` do without them, and `bench run --out DIR` takes the
    fits as done. A record holds the command line as it was typed, paths included.
    """
    from bench.errors import UsageError
    from bench.store.copies import copy_run
    from bench.store.results import Store

    store = Store(out)
    if target.resolve() == store.root:
        raise UsageError(f"--to {target} is the results folder itself; choose another")
    chosen = [store.find(run) for run in dict.fromkeys(runs)] if runs else list(store.runs())
    folders = [folder for folder, record in chosen if dataset in (None, record.dataset["name"])]
    if not folders:
        raise RunError(f"no finished runs{f' on {dataset}' if dataset else ''} in {out}")
    copied = sum(copy_run(store, folder, Store(target)) for folder in folders)
    there = f"; {len(folders) - copied} were there already" if copied < len(folders) else ""
    print(f"copied {copied} run{'s' * (copied != 1)} without weights to {target}{there}")


@command.command("remove", short_help="Delete runs.")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.out
@options.debug
def remove(runs: tuple[str, ...], yes: bool, out: Path) -> None:
    """Delete runs. RUN is an id of `bench runs list`, the start of one, or the path of a run's folder."""
    from bench.store.results import Store

    store = Store(out)
    # Without reading the records: a run with a damaged one can be removed too.
    folders = list(dict.fromkeys(store.locate(run) for run in runs))
    for folder in folders:
        print(f"{folder.name}  {folder}")
    count = f"{len(folders)} run{'s' if len(folders) > 1 else ''}"
    try:
        sure = yes or click.confirm(f"Delete {count} with weights and ranks?")
    except click.Abort:  # nobody there to answer
        raise RunError("nothing removed; --yes removes without asking") from None
    if not sure:
        print("nothing removed")
        return
    for folder in folders:
        store.remove(folder)
    print(f"removed {len(folders)}")
