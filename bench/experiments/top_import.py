"""Lists of the best items that were made elsewhere, ranked as far as they say."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.log import TASKS
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.given import as_numbers, row_codes, row_ids
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks
from bench.evaluation.top_files import read_top
from bench.experiments.candidate_export import keys
from bench.experiments.prepared_data import PreparedData


@dataclass(frozen=True)
class TopRanks:
    """Ranks from top lists, and what the lists do not say.

    Attributes:
        ranks: exact where the clicked item is listed; else it stands last, which metrics up to `depth` cannot tell apart.
        depth: the largest cut-off that all rows answer; 0 where every clicked item is listed, so that nothing is open.
        account: a sentence each.
    """

    ranks: Ranks
    depth: int
    account: tuple[str, ...]


def rank_top_lists(path: Path, prepared: PreparedData, candidates: CandidateSet, tasks: tuple[str, ...]) -> TopRanks:
    """Ranks of a file of top lists; see `bench.evaluation.top_files` for its forms.

    Items that are no candidates of their row (what its user has touched) are left aside, which shortens the list.

    Raises:
        UsageError: the rows are named by users, and there is more than one task.
        RunError: an unknown row or item, a score that is no number, an item twice, rows without a list, or lists that
            are too short for the primary metric.
    """
    split, events, width = prepared.split, prepared.log.events, len(prepared.log.items) + 1
    table = read_top(path, tasks[0])
    if "row" not in table.columns and len(tasks) > 1:
        raise UsageError(f"{path} names rows by their users; say with --tasks rec or --tasks search which they are")
    row, item = row_codes(table, split, candidates.rows)
    score, broken = as_numbers(table, "score")
    if broken.any():
        raise RunError(f"{path}: {table.problem(broken, 'score', 'no finite number')}")
    task = events.task[candidates.rows]
    served = np.isin(task, [TASKS.index(name) for name in tasks])
    of_task = served[row]
    row, item, score = row[of_task], item[of_task], score[of_task]
    expected = np.sort(np.concatenate(list(keys(prepared, candidates, np.flatnonzero(served)))))
    pair = row * width + item
    if len(np.unique(pair)) < len(pair):
        raise RunError(f"{path}: {len(pair) - len(np.unique(pair)):,} items stand in a list more than once")
    candidate = expected[np.minimum(np.searchsorted(expected, pair), len(expected) - 1)] == pair
    row, item, score = row[candidate], item[candidate], score[candidate]
    kept = np.bincount(row, minlength=len(candidates))
    if (kept[served] == 0).any():
        names = row_ids(split, candidates.rows)
        empty = served & (kept == 0)
        raise RunError(
            f"{path}: {int(empty.sum()):,} of {int(served.sum()):,} test rows have no list, first '{names[empty.argmax()]}'"
        )
    length = np.bincount(expected // width, minlength=len(candidates))
    positive = np.full(len(candidates), np.nan)
    own = item == events.item[candidates.rows][row]
    positive[row[own]] = score[own]
    lowest = np.full(len(candidates), np.inf)
    np.minimum.at(lowest, row, score)
    listed = ~np.isnan(positive)
    above = np.bincount(row[score > positive[row]], minlength=len(candidates))
    level = np.bincount(row[score == positive[row]], minlength=len(candidates)) - 1
    better, tied = np.where(listed, above, length - 1), np.where(listed, level, 0)
    unlisted = served & ~listed & (kept < length)
    depth = int(kept[unlisted].min()) if unlisted.any() else 0
    if unlisted.any() and depth < (PRIMARY.k or 0):
        raise RunError(
            f"{path}: a list without the clicked item has {depth} candidates, {PRIMARY} needs {PRIMARY.k}; write longer "
            f"lists ({int((~candidate).sum()):,} entries are no candidates of their row and do not count)"
        )
    chosen = candidates.rows[served]
    columns = {name: getattr(events, name)[chosen] for name in ("user", "event_id", "item", "task", "query")}
    ranks = Ranks(**columns, better=better[served], tied=tied[served], candidates=length[served].astype(np.int32))
    open_ties = int((served & listed & (positive == lowest) & (kept < length)).sum())
    return TopRanks(ranks, depth, tuple(_account(unlisted, served, depth, ~candidate, open_ties)))


def _account(unlisted: np.ndarray, served: np.ndarray, depth: int, strange: np.ndarray, open_ties: int) -> list[str]:
    """What the lists leave open, a sentence each."""
    lines = []
    if unlisted.any():
        lines.append(
            f"{int(unlisted.sum()):,} of {int(served.sum()):,} rows do not list the clicked item: its place is unknown, so "
            f"MRR, AUC and cut-offs above {depth} are left out"
        )
    if strange.any():
        lines.append(f"{int(strange.sum()):,} listed items are no candidates of their row and were left aside")
    if open_ties:
        lines.append(
            f"in {open_ties:,} rows the clicked item is the last that is listed: what ties with it below is unknown"
        )
    return lines
