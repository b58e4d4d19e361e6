"""Which runs stand in a table: those that share data, split, candidates and budget, and nothing else."""

import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from bench.errors import UsageError, unknown
from bench.experiments.settings import BUDGETS
from bench.messages import comma_list, split_commas
from bench.report.rows import ComparableRuns, RankedRun, Row, position
from bench.report.unfinished import without_numbers
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store

_START = "run something first: bench run --models gensr,unisar --dataset ml-100k"


def select(
    store: Store,
    from_dirs: Sequence[Path] = (),
    *,
    dataset: str | Sequence[str] | None = None,
    candidates: str | Sequence[str] | None = None,
    budget: str | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[ComparableRuns]:
    """The groups of a table.

    Without `from_dirs` the newest command that fits the options decides data sets, candidates and budget, and every
    finished run of the store that shares them belongs to the table; where no command fits, the newest run decides. With
    `from_dirs` all runs below those folders that fit the options belong to it. Models that are closed forms, and
    imported scores, stand beside runs of every budget, because a budget only concerns training.

    Of several runs of one (model, seed) those with the settings and sources of the newest run count. The newest
    command, and each of `from_dirs`, may bring a row of its own for one model: rows are then labelled with the settings
    that differ.

    Raises:
        UsageError: there is nothing to show, an option names what is not there, or the runs differ in data, candidates
            or budget within a data set.
    """
    entries = _of_folders(from_dirs) if from_dirs else _of_store(store)
    if not entries:
        where = " or ".join(map(str, from_dirs)) if from_dirs else str(store.root)
        raise UsageError(f"no finished runs in {where}; {_START}")
    names, draws = _listed(dataset), _listed(candidates)
    matching = _filtered(entries, names, draws, budget, tasks, seeds)
    order: list[str] = []
    asked: list[CommandRecord] = []  # whose unfinished runs are shown
    if from_dirs:
        chosen = matching
        anchors = list({(entry.source, entry.scope, entry.record.model): entry for entry in matching}.values())
    else:
        anchors = []
        budgets: dict[tuple[str, str, str, str], str] = {}
        # Each data set and each kind of candidates that was named must be found, if need be by different commands.
        for name, draw in product(names or [""], draws or [""]):
            own = [
                e
                for e in matching
                if name in ("", e.record.dataset["name"]) and (not draw or _is_called(e.evaluation, draw))
            ]
            command, leading = _newest(store.commands(), store, own, budget)
            anchors += leading
            budgets |= {entry.scope: command.budget if command else entry.record.budget for entry in leading}
            order += command.datasets if command else []
            # A later command without a finished run was also asked for.
            asked += [each for each in store.commands() if command is None or each.started >= command.started]
        chosen = [e for e in matching if e.scope in budgets and (e.any_budget or e.record.budget == budgets[e.scope])]
    _refuse_mixture(chosen)
    found: dict[tuple[str, ...], list[RankedRun]] = {}
    for entry in chosen:
        found.setdefault(entry.scope, []).append(entry)
    groups = []
    for scope, part in found.items():
        there = {f"{entry.record.dataset['name']}/{entry.record.id}" for entry in entries if entry.scope == scope}
        groups.append(without_numbers(_group(part, anchors), asked, there, tasks, seeds))
    first = {name: number for number, name in enumerate(dict.fromkeys(order))}
    return sorted(
        groups, key=lambda g: (first.get(g.dataset["name"], len(first)), g.dataset["name"], g.candidates.label)
    )


def _of_store(store: Store) -> list[RankedRun]:
    return _entries((pair for pair in store.runs() if not pair[0].name.startswith(".")), 0)


def _of_folders(folders: Sequence[Path]) -> list[RankedRun]:
    """Runs of results folders, of one of their data sets, or of single runs."""
    found: dict[Path, RankedRun] = {}
    for number, folder in enumerate(map(Path, folders)):
        if not folder.is_dir():
            raise UsageError(f"--from {folder}: no such folder")
        store = Store(folder)
        paths = [path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}run.json")]
        places = sorted({path.resolve() for path in paths if not path.name.startswith(".") and path.suffix != ".part"})
        entries = _entries(store.readable(places), number)
        if not entries:
            raise UsageError(f"--from {folder}: no finished runs in it; expected <data set>/<run>/run.json")
        found |= {entry.folder / entry.evaluation.ranks: entry for entry in entries}
    return sorted(found.values(), key=lambda entry: entry.age)


def _entries(runs: Iterable[tuple[Path, RunRecord]], source: int) -> list[RankedRun]:
    found = [
        RankedRun(folder, record, evaluation, source)
        for folder, record in runs
        for evaluation in record.evaluations.values()
    ]
    return sorted(found, key=lambda entry: entry.age)


def _filtered(
    entries: list[RankedRun],
    datasets: list[str],
    candidates: list[str],
    budget: str | None,
    tasks: Sequence[str] | None,
    seeds: Sequence[int] | None,
) -> list[RankedRun]:
    """The entries that fit every option; each option alone must name something that is there."""
    for name in datasets:
        if name not in (known := {entry.record.dataset["name"] for entry in entries}):
            raise unknown("data set", name, known, "(among the finished runs)")
    kept = [entry for entry in entries if not datasets or entry.record.dataset["name"] in datasets]
    for name in candidates:
        hits = {entry.evaluation.fingerprint for entry in kept if _is_called(entry.evaluation, name)}
        if not hits:
            raise UsageError(f"no finished run on the candidates '{name}'; there are {_sets(kept)}")
    kept = [e for e in kept if not candidates or any(_is_called(e.evaluation, name) for name in candidates)]
    if budget is not None and budget not in (known := {*BUDGETS, *(entry.record.budget for entry in kept)}):
        raise unknown("budget", budget, known)
    kept = [e for e in kept if budget is None or e.any_budget or e.record.budget == budget]
    kept = [e for e in kept if tasks is None or set(tasks) & set(e.evaluation.rows)]
    if not kept:
        asked = f"budget {budget}" if budget else f"the tasks {comma_list(tasks or ())}"
        raise UsageError(f"no finished run fits {asked} and the other options; {_START} or see `bench runs list`")
    fitting = [entry for entry in kept if seeds is None or entry.record.seed in seeds]
    if not fitting:
        there = comma_list(sorted({entry.record.seed for entry in kept}))
        raise UsageError(f"no finished run with the seeds {comma_list(seeds or ())}; there are {there}")
    return fitting


def _newest(
    commands: list[CommandRecord], store: Store, entries: list[RankedRun], budget: str | None
) -> tuple[CommandRecord | None, list[RankedRun]]:
    """The newest command with a run among the entries, and its entries; without such a command the newest entry."""
    for command in reversed(commands):
        places = {store.folder(*place.rsplit("/", 1)) for place in command.runs}
        own = [e for e in entries if e.folder in places and e.evaluation.fingerprint in command.candidates]
        if own and budget in (None, command.budget):
            return command, own
    trained = [entry for entry in entries if not entry.any_budget] or entries
    return None, trained[-1:]


def _refuse_mixture(entries: list[RankedRun]) -> None:
    """Raise UsageError where a data set would mix data, or one kind of candidates several draws, or budgets."""
    for name in dict.fromkeys(entry.record.dataset["name"] for entry in entries):
        own = [entry for entry in entries if entry.record.dataset["name"] == name]
        data = {(entry.record.dataset["fingerprint"], entry.record.dataset["split"]): entry for entry in own}
        draws = {entry.evaluation.fingerprint: entry for entry in own}
        options = " or ".join(f"--candidates {fingerprint[:12]}" for fingerprint in sorted(draws))
        if len(data) > 1:
            different = ", ".join(
                f"{key[0][:12]} (split {key[1]}, mode {e.record.dataset.get('mode', '')})"
                for key, e in sorted(data.items())
            )
            raise UsageError(
                f"{name}: these runs stand on different data, {different}, and cannot share a table; choose {options}"
            )
        labels = [entry.evaluation.label for entry in draws.values()]
        if len(set(labels)) < len(labels):
            raise UsageError(
                f"{name}: these runs were ranked on different candidates, {_sets(own)}, and cannot share a table; "
                f"choose {options}, or rank them on the same ones with bench evaluate RUN --candidates STRATEGY"
            )
        budgets = sorted({entry.record.budget for entry in own if not entry.any_budget})
        if len(budgets) > 1:
            choices = " or ".join(f"--budget {name}" for name in budgets)
            raise UsageError(f"{name}: these runs had different budgets ({comma_list(budgets)}); choose {choices}")


def _group(entries: list[RankedRun], anchors: list[RankedRun]) -> ComparableRuns:
    """The rows of entries that share a scope (oldest first)."""
    rows: list[Row] = []
    notes = []
    used = 0
    for model in dict.fromkeys(entry.record.model for entry in entries):
        own = [entry for entry in entries if entry.record.model == model]
        leading = {entry.settings: entry for entry in own if entry in anchors} or {own[-1].settings: own[-1]}
        differing = _differing([entry.record for entry in leading.values()])
        for settings, leader in leading.items():
            same = [e for e in own if e.settings == settings and e.record.code == leader.record.code]
            by_seed = {entry.record.seed: entry for entry in same}
            used += len(by_seed)
            runs = tuple(by_seed[seed] for seed in sorted(by_seed))
            rows.append(Row(model, leader.record.title + differing[settings], leader.record.group, runs))
    if used < len(entries):
        notes.append(f"left out: {len(entries) - used} older runs of these models (other settings, code or threads)")
    newest = entries[-1]
    budgets = sorted({entry.record.budget for entry in entries if not entry.any_budget})
    shown = comma_list(budgets) or newest.record.budget
    return ComparableRuns(
        newest.record.dataset, newest.evaluation, shown, tuple(_ordered(_distinct(rows))), tuple(notes)
    )


def _differing(records: list[RunRecord]) -> dict[str, str]:
    """For each of several runs of one model the settings that tell it from the others, as ` (lr=0.01)`, by settings."""
    values = [record.config | {"tasks": "+".join(record.tasks)} for record in records]
    keys = [
        key
        for key in dict.fromkeys(key for each in values for key in each)
        if len({str(v.get(key)) for v in values}) > 1
    ]
    named = [", ".join(f"{key}={each.get(key)}" for key in keys) for each in values]
    return {
        json.dumps([record.config, record.tasks], sort_keys=True, default=str): f" ({text})" if text else ""
        for record, text in zip(records, named, strict=True)
    }


def _distinct(rows: list[Row]) -> list[Row]:
    """Rows of different models that share a title also carry the model's name."""
    labels = [row.label for row in rows]
    return [
        row if labels.count(row.label) == 1 else Row(row.model, f"{row.label} ({row.model})", row.group, row.runs)
        for row in rows
    ]


def _ordered(rows: list[Row]) -> list[Row]:
    """By group, the trivial models last, then by name."""
    return sorted(rows, key=lambda row: (position(row.group), row.label.casefold()))


def _is_called(evaluation: Evaluation, name: str) -> bool:
    """Whether candidates go by a name: label, strategy, or the start of the fingerprint."""
    return name in (evaluation.label, evaluation.strategy) or evaluation.fingerprint.startswith(name)


def _sets(entries: list[RankedRun]) -> str:
    draws = {entry.evaluation.fingerprint: entry.evaluation for entry in entries}
    return ", ".join(
        f"{e.label} seed {e.seed} ({e.fingerprint[:12]})"
        for e in sorted(draws.values(), key=lambda e: (e.label, e.seed))
    )


def _listed(value: str | Sequence[str] | None) -> list[str]:
    """An option as a list: one name, names with commas, or several."""
    return [part for each in ([value] if isinstance(value, str) else value or ()) for part in split_commas(each)]
