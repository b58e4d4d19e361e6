"""Optimisers beside torch's own and closed forms: schedules, row-wise Adagrad, clipping with sparse gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from bench.errors import RunError
from bench.ranker.config import TrainConfig, is_training_length
from bench.ranker.optimizers import Optimizers, RowAdagrad, clip, rate


def rates(schedule, lr=0.4, steps=20, warmup=0, min_lr=0.0):
    config = TrainConfig(schedule=schedule, min_lr=min_lr)
    return [rate(lr, step, steps, warmup, config) for step in range(steps)]


def test_schedules_in_closed_form():
    assert rates("constant", warmup=2) == pytest.approx([0.2, *[0.4] * 19])
    assert rates("linear") == pytest.approx([0.4 * (20 - step) / 20 for step in range(20)])
    assert rates("cosine") == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])
    falling = rates("inverse_sqrt", warmup=4)
    assert falling[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4]) and falling[15] == pytest.approx(0.2)


@given(
    st.sampled_from(["constant", "linear", "cosine", "inverse_sqrt"]),
    st.integers(1, 300),
    st.integers(0, 30),
    st.floats(0, 1),
)
def test_a_schedule_rises_then_falls_between_its_bounds(schedule, steps, warmup, min_lr):
    warmup = min(warmup, steps // 10)
    values = rates(schedule, steps=steps, warmup=warmup, min_lr=min_lr)
    assert max(values) <= 0.4 + 1e-12
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[:warmup] == sorted(values[:warmup])
    assert min(values[warmup:]) >= min(0.4, min_lr) - 1e-12


def test_a_plateau_beside_a_falling_schedule_is_refused():
    with pytest.raises(ValidationError, match="both lower the rate"):
        TrainConfig(schedule="cosine", plateau=2)


def table(sparse=True):
    torch.manual_seed(0)
    return nn.Embedding(30, 4, sparse=sparse)


IDS = torch.tensor([3, 7, 3, 29])


def backward(embedding, ids=IDS):
    (embedding(ids).tanh().sum(1) * torch.arange(1.0, len(ids) + 1)).sum().backward()


def test_row_adagrad_in_closed_form():
    embedding = table()
    start, total = embedding.weight.detach().clone(), torch.zeros(30)
    optimizer = RowAdagrad([embedding.weight], lr=0.1)
    for _ in range(3):
        weight = embedding.weight.detach().clone().requires_grad_()
        (weight[IDS].tanh().sum(1) * torch.arange(1.0, 5)).sum().backward()
        total += weight.grad.square().mean(1)
        expected = weight.detach() - 0.1 * weight.grad / (total.sqrt() + 1e-10)[:, None]
        optimizer.zero_grad()
        backward(embedding)
        optimizer.step()
        torch.testing.assert_close(embedding.weight.detach(), expected)
    rest = [row for row in range(30) if row not in IDS]
    assert torch.equal(embedding.weight[rest], start[rest]), "a row that is not in the batch stays as it is"


@pytest.mark.parametrize("kind", ["adagrad", "sgd", "row_adagrad"])
def test_a_sparse_table_learns_what_a_dense_one_learns(kind):
    weights = []
    for sparse in (True, False):
        embedding = table(sparse)
        optimizers = Optimizers([{"params": [embedding.weight]}], TrainConfig(optimizer=kind, lr=0.1), 3)
        for step in range(3):
            optimizers.zero_grad()
            backward(embedding, IDS + step * (IDS < 20))
            assert embedding.weight.grad.is_sparse == sparse
            clip([embedding.weight], 0.5)
            optimizers.step(step)
        weights.append(embedding.weight.detach())
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_clipping_counts_sparse_and_dense_gradients_together(bound):
    sparse, dense, matrix = table(), table(False), nn.Linear(4, 4)
    for embedding in (sparse, dense):
        matrix.zero_grad()
        matrix(embedding(IDS)).square().sum().backward()
        clip([embedding.weight, *matrix.parameters()], bound)
        embedding.bound = matrix.weight.grad.clone()
    torch.testing.assert_close(sparse.bound, dense.bound)
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


def test_groups_name_their_own_rate_decay_and_optimiser():
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 2))
    groups = [{"params": [one], "lr": 0.5, "optimizer": "sgd"}, {"params": [two], "weight_decay": 0.1}]
    optimizers = Optimizers(groups, TrainConfig(lr=0.01, beta1=0.5, beta2=0.7), 10)
    first, second = torch.ones(3, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    sgd, adam = torch.optim.SGD([first], lr=0.5), torch.optim.Adam([second], 0.01, (0.5, 0.7), weight_decay=0.1)
    for step in range(3):
        for parameter in (one, two, first, second):
            parameter.grad = torch.full_like(parameter, step + 1.0)
        optimizers.step(step)
        sgd.step()
        adam.step()
    torch.testing.assert_close(one.detach(), first.detach())
    torch.testing.assert_close(two.detach(), second.detach())


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("adam", lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.7), weight_decay=0.2)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.1, (0.5, 0.7), weight_decay=0.2)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.2)),
        ("sgd", lambda p: torch.optim.SGD(p, 0.1, momentum=0.6, weight_decay=0.2)),
    ],
)
def test_settings_of_the_config_reach_every_optimiser(kind, theirs):
    config = TrainConfig(optimizer=kind, lr=0.1, beta1=0.5, beta2=0.7, momentum=0.6, weight_decay=0.2)
    one, two = nn.Parameter(torch.arange(1.0, 5)), nn.Parameter(torch.arange(1.0, 5))
    ours, other = Optimizers([{"params": [one]}], config, 10), theirs([two])
    for step in range(4):
        one.grad, two.grad = (torch.linspace(-1, 1, 4) * (step + 1) for _ in range(2))
        ours.step(step)
        other.step()
    torch.testing.assert_close(one.detach(), two.detach())


@pytest.mark.parametrize(
    ("group", "message"),
    [({"optimizer": "lion"}, "'lion'"), ({"optimizer": "row_adagrad", "weight_decay": 0.1}, "no weight decay")],
)
def test_a_group_that_its_optimiser_cannot_serve_is_refused(group, message):
    with pytest.raises(RunError, match=message):
        Optimizers([{"params": [nn.Parameter(torch.ones(2))], **group}], TrainConfig(), 1)


def test_settings_of_a_stage_go_over_those_of_the_config():
    class Two(TrainConfig):
        table_epochs: int = 7
        table_lr: float = 0.3
        table_width: int = 5

    config = Two(epochs=3, batch_size=9, lr=0.1)
    stage = config.for_stage("table", clip=2.0)
    assert type(stage) is TrainConfig
    assert (stage.epochs, stage.lr, stage.batch_size, stage.clip) == (7, 0.3, 9, 2.0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("epochs", True), ("cf_epochs", True), ("pretrain_max_steps", True), ("round_patience", True), ("check_every", True),
     ("lr", False), ("cf_lr", False), ("steps", False), ("myepochs", False)],
)  # fmt: skip
def test_the_length_of_a_training_is_told_by_the_end_of_a_name(setting, expected):
    assert is_training_length(setting) == expected
