"""The same fits on drawn candidates and on the full catalogue: does the order of the models stay?"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.evaluation.metrics import PRIMARY
from bench.report.marks import Block
from bench.store.results import read_ranks


@dataclass(frozen=True)
class BothWays:
    """The primary metric of the models that were ranked on both.

    Attributes:
        task: rec or search.
        drawn, full: labels of the candidates.
        numbers: rows of the table.
        on_drawn, on_full: means over users and seeds, in that order.
        tau: Kendall's rank correlation of the two orders; NaN for fewer than two models.
        reversed: pairs of row numbers whose order is strictly opposite, the better one on drawn candidates first.
    """

    task: str
    drawn: str
    full: str
    numbers: tuple[int, ...]
    on_drawn: tuple[float, ...]
    on_full: tuple[float, ...]
    tau: float
    reversed: tuple[tuple[int, int], ...]


def both_ways(block: Block, task: str) -> BothWays | None:
    """A task on the block's candidates and on the full catalogue (or on uniform ones where the block is full).

    None where no model was ranked on both.

    Raises:
        RunError: ranks are missing or changed.
    """
    from scipy.stats import kendalltau

    own = block.group.candidates
    wanted = "uniform" if own.strategy == "full" else "full"
    found: dict[int, tuple[float, str]] = {}
    for number in block.ranks[task]:
        means, label = [], ""
        for run in block.group.rows[number].runs:
            others = [each for each in run.record.evaluations.values() if each.strategy == wanted and task in each.rows]
            for other in others[:1]:
                means.append(read_ranks(run.folder, other).only(task).mean(PRIMARY))
                label = other.label
        if means and len(means) == len(block.group.rows[number].runs):
            found[number] = float(np.mean(means)), label
    if not found:
        return None
    here = {number: block.estimates[number, task, PRIMARY].mean for number in found}
    there = {number: mean for number, (mean, _) in found.items()}
    label = next(iter(found.values()))[1]
    drawn, full = (there, here) if own.strategy == "full" else (here, there)
    pairs = [(a, b) if drawn[a] > drawn[b] else (b, a) for a, b in combinations(found, 2)]
    return BothWays(
        task=task,
        drawn=label if own.strategy == "full" else own.label,
        full=own.label if own.strategy == "full" else label,
        numbers=tuple(found),
        on_drawn=tuple(drawn.values()),
        on_full=tuple(full[number] for number in drawn),
        tau=float(kendalltau([*drawn.values()], [full[number] for number in drawn]).statistic)
        if len(found) > 1
        else float("nan"),
        reversed=tuple((a, b) for a, b in pairs if drawn[a] > drawn[b] and full[a] < full[b]),
    )
