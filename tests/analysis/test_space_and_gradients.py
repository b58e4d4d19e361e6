"""Overlap and gradient cosines at both of their ends."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.analysis.gradients import cosines
from bench.analysis.space import Space, bhattacharyya, overlap
from bench.data.batch import Batch


def space(shift: float, spread: float = 1.0, points: int = 600) -> Space:
    draws = np.random.default_rng(0)
    task = np.repeat([0, 1], points)
    values = draws.standard_normal((2 * points, 6))
    values[task == 1] = spread * values[task == 1] + shift
    return Space(values.astype(np.float32), task, np.tile(np.arange(points) // 2, 2))


def test_overlap_is_one_where_nobody_can_tell_and_zero_where_everybody_can() -> None:
    assert overlap(space(0.0)) > 0.9
    assert overlap(space(8.0)) == pytest.approx(0, abs=0.01)
    assert 0.1 < overlap(space(0.5)) < 0.9


def test_overlap_sees_a_difference_in_spread_and_takes_constant_columns() -> None:
    assert overlap(space(0.0, spread=4.0)) < 0.4
    constant = Space(np.ones((40, 3), dtype=np.float32), np.repeat([0, 1], 20), np.tile(np.arange(20), 2))
    assert overlap(constant) == 1


def test_bhattacharyya_of_two_gaussians_in_closed_form() -> None:
    draws = np.random.default_rng(1)
    task = np.repeat([0, 1], 200_000)
    points = draws.standard_normal((400_000, 2)) + np.where(task == 1, 2.0, 0.0)[:, None]
    assert bhattacharyya(points, task) == pytest.approx(np.exp(-(2 * 4) / 8), abs=0.01)
    assert bhattacharyya(points, draws.permutation(task)) == pytest.approx(1, abs=0.01)


class OneHead(torch.nn.Module):
    """Logistic regression on two numbers of a row, the same for both tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def loss(self, batch: Batch) -> Tensor:
        assert batch.label is not None
        x = torch.stack([batch.user, batch.query], 1).float()  # (B, 2)
        logits = x @ self.weight + self.bias
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label[:, 0])


def two_tasks(same: bool) -> Batch:
    """Eight rows, each in both tasks, with equal or with opposed labels; as many of 1 as of 0."""
    user, query = torch.tensor([1, 2, 3, 4, 5, 1, 2, 6]), torch.tensor([4, 1, 3, 2, 2, 6, 1, 5])
    label = torch.tensor([1.0, 0, 1, 0, 0, 1, 1, 0])
    values = {field.name: None for field in fields(Batch)}
    values |= {
        "user": user.repeat(2),
        "query": query.repeat(2),
        "task": torch.tensor([0] * 8 + [1] * 8),
        "label": torch.cat([label, label if same else 1 - label])[:, None],
    }
    return Batch(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("same", "expected"), [(True, 1.0), (False, -1.0)])
def test_identical_tasks_agree_and_opposed_ones_conflict(same: bool, expected: float) -> None:
    model = OneHead()
    with torch.no_grad():
        model.weight.zero_()  # at p = .5 opposed labels give opposed gradients exactly
    found = cosines(model.loss, list(model.named_parameters()), two_tasks(same))
    assert found["between"] == pytest.approx(expected, abs=0.01)
    assert -1 <= found["within rec"] <= 1 and 0 < found["shared"] <= 1


def test_parameters_of_one_task_alone_are_not_shared() -> None:
    model = OneHead()
    model.alone = torch.nn.Parameter(torch.ones(5))

    def loss(batch: Batch) -> Tensor:
        return model.loss(batch) + (model.alone.sum() if int(batch.task[0]) == 0 else 0.0)

    found = cosines(loss, list(model.named_parameters()), two_tasks(True))
    assert found["shared"] == pytest.approx(3 / 8) and found["between"] == pytest.approx(1, abs=0.01)
