"""The share of the query in the gradient of the scores, against a closed form, and where it stands."""

import pytest
import torch

from bench.audit.inputs import permuted_queries
from bench.audit.query_gradient import query_gradient
from bench.ranker.contract import Context

from ..broken_twins import IgnoresQuery, Sound
from . import gallery
from .prepared import prepared_of


@pytest.fixture(scope="module")
def prepared():
    return prepared_of(gallery.tastes())


@pytest.fixture
def batch(prepared):
    rows = prepared.split.rows("test", "search")[:8]
    items = torch.arange(1, 1 + 8 * 5).reshape(8, 5).numpy()
    return prepared.batches.rows(rows, items, fresh(Sound, prepared).window)


def fresh(cls, prepared):
    torch.manual_seed(0)
    return cls(cls.Config(), Context(prepared.catalog, tasks=("rec", "search"))).eval()


def test_the_share_has_its_closed_form(prepared, batch):
    """score = out(past + user + query) . item: user and query get the same gradient, W' sum of 2 spread times item."""
    model = fresh(Sound, prepared)
    share = query_gradient(model.score, batch, permuted_queries(batch))
    with torch.no_grad():
        wish, items = model.wish(batch), model.items(batch.cand)
        scores = (wish[:, None] * items).sum(-1)
        apart = 2 * (scores - scores.mean(1, keepdim=True))
        of_wish = (apart[..., None] * items).sum(1) @ model.out.weight
        of_past = of_wish[:, None] * batch.rec_mask[..., None] / batch.rec_mask.sum(1).clamp(min=1)[:, None, None]
        of_items = apart[..., None] * wish[:, None]
        whole = 2 * of_wish.square().sum() + of_past.square().sum() + of_items.square().sum()
    assert share == pytest.approx(float((of_wish.square().sum() / whole) ** 0.5), rel=1e-4)


def test_a_model_that_ignores_the_query_has_none(prepared, batch):
    model = fresh(IgnoresQuery, prepared)
    assert query_gradient(model.score, batch, permuted_queries(batch)) == 0.0


def test_scores_without_a_gradient_have_no_share(prepared, batch):
    model = fresh(Sound, prepared)
    detached = query_gradient(lambda rows: model.score(rows).detach(), batch, permuted_queries(batch))
    assert detached is None
