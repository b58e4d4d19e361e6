"""A run's best lists and the clicked items, as a TREC run and relevance judgements for programs outside of bench."""

from functools import partial
from pathlib import Path

import numpy as np

from bench.errors import RunError, UsageError
from bench.evaluation.given import row_names
from bench.evaluation.ranks import Ranks
from bench.evaluation.top_lists import DEPTH, TopLists
from bench.evaluation.trec import check_ids, judgement_lines, run_lines
from bench.experiments.evaluate import data_of
from bench.files import write_atomically
from bench.messages import comma_list
from bench.store.records import Evaluation, RunRecord
from bench.store.results import Store, read_lists, read_ranks

RUN, JUDGEMENTS = "run.trec", "qrels.trec"


def export_run(
    store: Store, name: str, folder: Path, candidates: str | None = None, data: str | Path | None = None
) -> tuple[RunRecord, Evaluation, int]:
    """Write RUN and JUDGEMENTS into a folder; returns the record, the evaluation and the number of rows.

    The lists hold the ten best candidates of a row, so that metrics up to the cut-off 10 can be computed from them, for
    rows whose positive is tied with none: of ties a list only keeps one order.

    Args:
        store: the results folder.
        name: of the run, as in `bench runs list`.
        folder: where the files go; made if need be.
        candidates: label, strategy or start of the fingerprint; needed where several evaluations keep lists.
        data: folder of prepared data.

    Raises:
        UsageError: no run of that name, or no single evaluation with lists.
        RunError: files are damaged or on other data, an id holds a blank, or the folder cannot be written.
    """
    place, record = store.find(name)
    evaluation = _evaluation(record, candidates)
    lists, ranks = read_lists(place, evaluation), read_ranks(place, evaluation)
    if lists is None:
        raise RunError(f"{record.id}: no lists on {evaluation.label}")
    _check(record, lists, ranks)
    prepared = data_of(record, {}, data)
    ids = np.asarray(["", *prepared.log.items.id[1:]], dtype=object)
    rows = row_names(prepared.split, ranks.task, ranks.user, ranks.event_id)
    check_ids(rows, "row")
    check_ids(ids[np.unique(np.append(lists.items[lists.items > 0], ranks.item))], "item")
    for file, lines in (
        (RUN, run_lines(rows, lists.items, ids, record.id)),
        (JUDGEMENTS, judgement_lines(rows, ranks.item, ids)),
    ):
        write = partial(_write, "".join(lines))
        write_atomically(folder / file, write, "choose another folder with --to")
    return record, evaluation, len(ranks)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _evaluation(record: RunRecord, candidates: str | None) -> Evaluation:
    """The one evaluation that keeps lists and fits the option."""
    fitting = [
        each
        for each in record.evaluations.values()
        if not candidates or candidates in (each.label, each.strategy) or each.fingerprint.startswith(candidates)
    ]
    kept = [each for each in fitting if each.lists]
    if len(kept) == 1:
        return kept[0]
    if kept:
        names = comma_list(f"{each.label} ({each.fingerprint[:12]})" for each in kept)
        raise UsageError(f"{record.id} keeps lists on {names}; choose one with --candidates")
    there = comma_list(sorted({each.label for each in fitting})) or "these candidates"
    raise UsageError(
        f"{record.id} keeps no lists on {there}; make them with bench evaluate {record.id} --candidates uniform --top-lists"
    )


def _check(record: RunRecord, lists: TopLists, ranks: Ranks) -> None:
    """Raise RunError where lists and ranks contradict each other."""
    same = len(lists) == len(ranks) and np.array_equal(lists.event_id, ranks.event_id)
    if same:
        listed = lists.items == ranks.item[:, None]  # (n, DEPTH)
        clear = (ranks.tied == 0) & (ranks.better < DEPTH)
        same = bool((listed[clear].argmax(axis=1) == ranks.better[clear]).all() and listed[clear].any(axis=1).all())
    if not same:
        raise RunError(f"{record.id}: its lists do not fit the ranks beside them; rank it again")
