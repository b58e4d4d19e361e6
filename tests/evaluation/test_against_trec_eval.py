"""Metrics against trec_eval, an implementation of its own: per row, without ties, on lists with one positive."""

import numpy as np
import pytest

from bench.evaluation.metrics import Metric, values
from bench.evaluation.ranks import count

ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed (pip install -e .[dev])")
CUT_OFFS = (1, 3, 5, 10, 20, 100)
THEIRS = (
    {Metric("R", k): ir_measures.R @ k for k in CUT_OFFS}
    | {Metric("N", k): ir_measures.nDCG @ k for k in CUT_OFFS}
    | {Metric("MRR"): ir_measures.RR}
)


@pytest.mark.parametrize(("lists", "length"), [(400, 100), (100, 7), (50, 1)])
def test_every_metric_equals_that_of_trec_eval_on_scores_without_ties(lists: int, length: int) -> None:
    generator = np.random.default_rng(lists)
    # Permutations, so that no two scores of a list are equal in any precision.
    scores = generator.permuted(np.tile(np.arange(length, dtype=np.float32), (lists, 1)), axis=1)
    position = generator.integers(0, length, lists)
    better, tied = count(scores, position)
    assert not tied.any()
    run = [
        ir_measures.ScoredDoc(str(row), str(column), float(scores[row, column]))
        for row in range(lists)
        for column in range(length)
    ]
    judgements = [ir_measures.Qrel(str(row), str(column), 1) for row, column in enumerate(position)]
    found = {measure: np.full(lists, np.nan) for measure in THEIRS.values()}
    for each in ir_measures.iter_calc(list(THEIRS.values()), judgements, run):
        found[each.measure][int(each.query_id)] = each.value
    for metric, measure in THEIRS.items():
        ours = values(metric, better, tied, np.full(lists, length))
        assert np.abs(ours - found[measure]).max() < 1e-9, metric
