"""Contrastive losses against closed forms and against loops over their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from bench.ranker.blocks.contrast import BilinearSimilarity, PairContrast, user_contrast, view_contrast


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_user_contrast_closed_forms():
    users = torch.arange(200)
    left, right = drawn(200, 64), drawn(200, 64, seed=1)
    # Far apart and equal: the partner takes all of the probability.
    assert float(user_contrast(torch.eye(200), torch.eye(200), users, 0.05)) < 1e-6
    # Without any relation, and at a temperature that leaves little variance: ln B.
    assert float(user_contrast(left, right, users, 1.0)) == pytest.approx(math.log(200), abs=0.05)
    assert float(user_contrast(left, right, users, 0.3)) == pytest.approx(math.log(200), abs=0.3)
    torch.testing.assert_close(user_contrast(left, right, users, 0.1), user_contrast(right, left, users, 0.1))
    torch.testing.assert_close(user_contrast(7 * left, 0.1 * right, users, 0.1), user_contrast(left, right, users, 0.1))
    # Twice the temperature is half the logits.
    logits = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.1
    both = F.cross_entropy(logits / 2, users) + F.cross_entropy(logits.T / 2, users)
    torch.testing.assert_close(user_contrast(left, right, users, 0.2), both / 2)


def test_user_contrast_counts_no_row_of_the_same_user_and_no_empty_history_as_negative():
    left, right = drawn(4, 8, seed=2), drawn(4, 8, seed=3)
    users = torch.tensor([1, 2, 3, 1])

    def one(rows):
        row, rest = rows[0], torch.tensor(rows)
        forth = F.normalize(left, dim=1)[row] @ F.normalize(right, dim=1)[rest].T / 0.2
        back = F.normalize(right, dim=1)[row] @ F.normalize(left, dim=1)[rest].T / 0.2
        return -(forth.log_softmax(0)[0] + back.log_softmax(0)[0]) / 2

    expected = torch.stack([one([0, 1, 2]), one([1, 0, 2, 3]), one([2, 0, 1, 3]), one([3, 1, 2])]).mean()
    torch.testing.assert_close(user_contrast(left, right, users, 0.2), expected)
    # A row counts with both of its views or not at all.
    padded = [
        torch.cat([view, *extra])
        for view, extra in ((left, (torch.zeros(1, 8), drawn(1, 8))), (right, (drawn(1, 8), torch.zeros(1, 8))))
    ]
    torch.testing.assert_close(user_contrast(*padded, torch.tensor([1, 2, 3, 1, 8, 9]), 0.2), expected)
    assert float(user_contrast(torch.zeros(2, 8), torch.zeros(2, 8), users[:2], 0.2)) == 0


def looped_view_contrast(first, second, user, temperature):
    """The definition, vector by vector."""
    z, owner = torch.cat([first, second]), torch.cat([user, user])
    losses = []
    for row in range(len(z)):
        partner = (row + len(user)) % len(z)
        logits = [F.cosine_similarity(z[row], z[partner], dim=0)]
        logits += [F.cosine_similarity(z[row], z[k], dim=0) for k in range(len(z)) if owner[k] != owner[row]]
        losses.append(-(torch.stack(logits) / temperature).log_softmax(0)[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("users", [[1, 2, 3, 4, 5], [1, 2, 1, 3, 2], [7, 7, 7, 7, 7]])
def test_view_contrast_is_nt_xent_without_the_rows_of_the_same_user(users):
    first, second, user = drawn(5, 6), drawn(5, 6, seed=1), torch.tensor(users)
    expected = looped_view_contrast(first, second, user, 0.5)
    torch.testing.assert_close(view_contrast(first, second, user, 0.5), expected)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(view_contrast(first[order], second[order], user[order], 0.5), expected)
    torch.testing.assert_close(view_contrast(second, first, user, 0.5), expected)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_view_contrast_of_equal_vectors_is_ln_of_the_others(rows):
    same = torch.ones(rows, 4)
    loss = view_contrast(same, same, torch.arange(rows), 0.1)
    assert float(loss) == pytest.approx(math.log(2 * rows - 1), abs=1e-5)
    assert float(view_contrast(same[:0], same[:0], torch.arange(0), 0.1)) == 0


def test_view_contrast_falls_when_the_views_of_a_row_meet():
    first, second, user = drawn(6, 8), drawn(6, 8, seed=1), torch.arange(6)
    assert view_contrast(first, first, user, 0.2) < view_contrast(first, second, user, 0.2)


def test_pair_contrast_is_info_nce_in_both_directions():
    pairs = PairContrast(8, 0.5)
    queries, items = drawn(3, 8), drawn(4, 8, seed=1)
    other_queries, other_items = drawn(5, 8, seed=2), drawn(6, 8, seed=3)
    query_of, item_of = torch.tensor([0, 0, 2, 1]), torch.tensor([1, 3, 3, 0])
    losses = pairs(queries, items, query_of, item_of, other_queries, other_items)
    for p, (q, i) in enumerate(zip(query_of, item_of, strict=True)):
        directions = []
        for left, right, others in ((queries[q], items[i], other_items), (items[i], queries[q], other_queries)):
            logits = torch.tanh(torch.cat([right[None], others]) @ (left @ pairs.weight)) / pairs.temperature
            directions.append(-logits.log_softmax(0)[0])
        torch.testing.assert_close(losses[p], (directions[0] + directions[1]) / 2)


def test_bilinear_similarity_by_row_is_the_diagonal_of_all_pairs():
    similarity = BilinearSimilarity(6, 0.3)
    a, b = similarity.project(drawn(5, 6)), drawn(5, 6, seed=1)
    torch.testing.assert_close(similarity.paired(a, b), similarity.matrix(a, b).diagonal())
    assert (similarity.matrix(a, b).abs() <= 1 / 0.3 + 1e-6).all()
