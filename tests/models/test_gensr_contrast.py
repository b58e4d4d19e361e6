"""What enters GenSR's contrast: the users' two views, or the pooled vectors of every candidate; rows without a history."""

from dataclasses import replace

import pytest
import torch

from bench.data.batch import Batch
from bench.models.gensr.model import GenSR

from .gensr_world import World, close, inserted, titles


def without_history(batch: Batch, rows: torch.Tensor) -> Batch:
    """The batch with the rows' histories emptied."""
    kept = (~rows).long()
    return replace(batch, rec_len=batch.rec_len * kept, search_len=batch.search_len * kept)


def biased(world: World, **settings) -> GenSR:
    """A model whose biases, zero when fresh, would give an empty history a vector."""
    model = world.model(contrast=0.1, **settings)
    with torch.no_grad():
        model.project.bias.normal_()
        for view in (model.cf_view, model.semantic_view):
            if hasattr(view.filter, "out"):
                view.filter.out.bias.normal_()
    return model


@torch.no_grad()
def entered(model: GenSR, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left side, right side and users that a loss contrasts, and its contrast."""
    seen = []
    handle = model.alignment.register_forward_pre_hook(lambda module, given: seen.append(given))
    _, parts = model.loss(batch)
    handle.remove()
    return *seen.pop(), parts["contrast"]


def some(batch: Batch) -> torch.Tensor:
    """Every third row that has a history."""
    rows = torch.zeros(len(batch), dtype=torch.bool)
    rows[::3] = True
    assert rows.any() and (batch.merged_len[~rows] > 0).sum() > 5
    return rows


def test_the_users_views_are_contrasted_row_by_row(world):
    model = biased(world)
    batch = world.step(model)
    batch = without_history(batch, torch.arange(len(batch)) == 3)
    left, right, user, _ = entered(model, batch)
    assert torch.equal(user, batch.user) and left.shape == right.shape == (len(batch), 64)
    merged, table = batch.merged(model.config.history), titles(model)
    lengths = set()
    with torch.no_grad():
        for row in range(len(batch)):
            past = merged.items[row, merged.mask[row]]
            lengths.add(len(past))
            if not len(past):
                assert not left[row].any() and not right[row].any()
                continue
            real = torch.ones(1, len(past), dtype=torch.bool)
            close(left[row], model.project(model.cf_view.encoder(model.cf[past][None], real)[0].mean(0)))
            close(right[row], model.semantic_view.encoder(table[past][None], real)[0].mean(0))
    assert 0 in lengths and len(lengths) > 3


def test_pooled_sides_are_the_two_inserted_vectors_of_each_candidate(world):
    model = biased(world, contrast_of="pooled")
    batch = world.step(model)
    batch = without_history(batch, torch.arange(len(batch)) == 3)
    left, right, user, _ = entered(model, batch)
    assert torch.equal(user, batch.user)
    emptied = 0
    for task in (0, 1):
        rows = batch.task == task
        known = batch.merged_len[rows] > 0
        vectors = inserted(model, batch, task) / model.scale
        for number, side in ((0, left), (1, right)):
            found = side.unflatten(0, batch.cand.shape)[rows]
            close(found[known], vectors[known][:, :, number])
            assert not found[~known].any()
            # The prompt still holds what the biases make of nothing.
            assert vectors[~known][:, :, number].any(-1).all()
            emptied += int((~known).sum())
    assert emptied


@pytest.mark.parametrize("contrast_of", ["views", "pooled"])
@pytest.mark.parametrize("filter", ["attention", "bilinear", "mean"])
def test_rows_without_a_history_leave_the_cosine_contrast(world, contrast_of, filter):
    model = biased(world, contrast_of=contrast_of, filter=filter)
    batch = world.step(model)
    empty = some(batch) | (batch.merged_len == 0)
    cut = without_history(batch, empty)
    left, right, _, contrast = entered(model, cut)
    count = len(left) // len(batch)
    gone = empty.repeat_interleave(count)
    assert not left[gone].any() and not right[gone].any()
    assert left[~gone].any(1).all() and right[~gone].any(1).all()
    *_, alone = entered(model, batch.take(~empty))
    close(contrast, alone)
    *_, whole = entered(model, batch)
    assert abs(float(whole - contrast)) > 1e-3


@pytest.mark.parametrize("contrast_of", ["views", "pooled"])
def test_nothing_is_contrasted_where_nobody_has_a_history(world, contrast_of):
    model = biased(world, contrast_of=contrast_of).train()
    batch = world.step(model)
    cut = without_history(batch, torch.ones(len(batch), dtype=torch.bool))
    *_, contrast = entered(model, cut)
    assert float(contrast) == 0
    total, parts = model.loss(cut)
    total.backward()
    assert float(parts["contrast"].detach()) == 0 and torch.equal(total, parts["task"])
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    *_, known = entered(model, batch)
    assert float(known) > 0


def test_rows_of_one_user_are_no_negatives_of_each_other_among_views(world):
    model = biased(world)
    batch = world.step(model)
    *_, contrast = entered(model, batch)
    *_, of_one = entered(model, replace(batch, user=torch.ones_like(batch.user)))
    *_, of_many = entered(model, replace(batch, user=torch.arange(len(batch)) + 1))
    assert float(of_one) == pytest.approx(0, abs=1e-5) and float(of_one) < float(contrast) < float(of_many)
