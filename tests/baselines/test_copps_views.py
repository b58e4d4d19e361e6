"""Augmented views of CoPPS: what each operator touches, and what none of them may bring in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.baselines.copps import DELETE, MASK, REORDER, REPLACE, Siblings, augmented
from bench.data.merged import Clicks
from bench.testing.planted import planted

WIDTH = 8


def histories(seed: int, rows: int = 12) -> tuple[Clicks, Tensor, Tensor]:
    """Histories of distinct items of the planted log, their relevance, and targets outside of them."""
    torch.manual_seed(seed)
    length = torch.randint(0, WIDTH + 1, (rows,))
    drawn = torch.stack([torch.randperm(60)[: WIDTH + 1] + 1 for _ in range(rows)])
    real = torch.arange(WIDTH) < length[:, None]
    queries = torch.randint(0, 12, (rows, WIDTH))
    past = Clicks(items=drawn[:, :WIDTH] * real, queries=queries * real, length=length)
    return past, torch.randn(rows, WIDTH), drawn[:, WIDTH]


def view(seed: int, operator: int, ratio: float):
    past, relevance, target = histories(seed)
    siblings = Siblings(planted().catalog)
    return past, relevance, target, augmented(past, torch.full((12,), operator), ratio, relevance, target, siblings)


def pairs(clicks: Clicks, row: int) -> list[tuple[int, int]]:
    count = int(clicks.length[row])
    return list(zip(clicks.items[row, :count].tolist(), clicks.queries[row, :count].tolist(), strict=True))


@pytest.mark.parametrize("operator", [MASK, REORDER, REPLACE, DELETE])
def test_a_ratio_of_zero_changes_nothing(operator):
    past, _, _, found = view(0, operator, 0.0)
    assert torch.equal(found.items, past.items) and torch.equal(found.queries, past.queries)
    assert torch.equal(found.length, past.length) and not found.hidden.any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([MASK, REORDER, REPLACE, DELETE]), st.sampled_from([0.3, 0.5, 0.9]))
def test_operators_touch_their_share_and_keep_padding_empty(seed, operator, ratio):
    past, relevance, target, found = view(seed, operator, ratio)
    assert torch.equal(found.items > 0, found.mask) and not found.queries[~found.mask].any()
    assert not (found.items == target[:, None]).any() and not found.hidden[~found.mask].any()
    categories = planted().catalog.item_categories
    for row in range(len(past.items)):
        before, after, count = pairs(past, row), pairs(found, row), int(int(past.length[row]) * ratio)
        if operator == MASK:
            assert after == before and int(found.hidden[row].sum()) == count
        if operator == REORDER:
            assert sorted(after) == sorted(before)
            assert sum(a != b for a, b in zip(after, before, strict=True)) <= count
        if operator == REPLACE:
            assert [query for _, query in after] == [query for _, query in before]
            new = [(old, now) for (old, _), (now, _) in zip(before, after, strict=True) if old != now]
            assert len(new) <= count
            for old, now in new:
                assert now not in {item for item, _ in before}
                assert set(categories[old].tolist()) & set(categories[now].tolist()) - {0}
        if operator == DELETE:
            order = relevance[row, : len(before)].argsort()[:count].tolist()
            assert after == [pair for place, pair in enumerate(before) if place not in order]
        if operator != MASK:
            assert not found.hidden[row].any()


def test_operators_do_something():
    """The share is bound from above by the other test; here most of what may change does."""
    moved = replaced = possible = 0
    for seed in range(5):
        past, _, _, found = view(seed, REORDER, 0.9)
        moved += int((found.items != past.items).sum())
        past, _, _, found = view(seed, REPLACE, 0.9)
        replaced += int((found.items != past.items).sum())
        possible += int((past.length * 0.9).long().sum())
    assert replaced > 0.9 * possible and moved > 0.5 * possible


def test_nothing_is_replaced_where_there_are_no_categories():
    class Bare:
        item_categories = torch.zeros(61, 1, dtype=torch.long)
        n_categories = 0

    past, relevance, target = histories(0)
    found = augmented(past, torch.full((12,), REPLACE), 0.9, relevance, target, Siblings(Bare()))  # type: ignore[arg-type]  # a catalogue
    assert torch.equal(found.items, past.items)
