"""Checks of the validation rows: when they are made, who hears of them, what they stop, and the precision of scoring."""

import math

import pytest
import torch
from torch import nn

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.ranker.context import InMemory, Silent
from bench.ranker.contract import Context, TorchRanker, TrainConfig
from bench.ranker.loss_sums import LossSums
from bench.ranker.registry import register


@register("dot-for-checks", title="Dot", tasks=("rec", "search"), group="rec")
class Dot(TorchRanker):
    def __init__(self, config, context):
        super().__init__(config, context)
        self.user = nn.Embedding(self.catalog.n_users + 1, 8)
        self.item = nn.Embedding(self.catalog.n_items + 1, 8)

    def score(self, batch):
        self.autocast = torch.is_autocast_enabled("cpu")
        return (self.item(batch.cand) @ self.user(batch.user)[..., None]).squeeze(-1)

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self.score(batch), batch.label)


class Scripted:
    """Validation with given values, else one that follows from the scores; keeps the type of the scores."""

    def __init__(self, world, values=None):
        self.batch, self.values, self.seen = world.batch, iter(values) if values else None, []

    def evaluate(self, score):
        with torch.no_grad():
            scores = score(self.batch)
        self.seen.append(scores.dtype)
        value = next(self.values) if self.values else float(scores.square().mean())
        return {"rec/N@10": value, "search/N@10": 0.5, "mean/N@10": value / 2 + 0.25}


class World:
    def __init__(self, log):
        self.catalog, self.train = Catalog(log), TrainData(Batches(split(log)), ("rec", "search"), 0)
        self.batch = next(
            self.train.events(8, negatives=3, window=Dot(TrainConfig(), self.context()).window).batches(0, 1)
        )

    def context(self, **doors):
        return Context(self.catalog, **doors)

    def fit(self, values=None, valid=None, model=Dot, doors=None, **settings):
        torch.manual_seed(0)
        built = model(
            TrainConfig(**{"epochs": 2, "batch_size": 32, "steps_per_epoch": 6} | settings), self.context(**doors or {})
        )
        return built, built.fit(self.train, valid or Scripted(self, values))


@pytest.fixture(scope="module")
def world(make_log):
    return World(make_log(n_users=40, n_items=80))


def heard(checks, answers=()):
    answers = iter(answers)

    def listen(check):
        checks.append(check)
        return next(answers, None)

    return listen


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [6, 12]),
        ({"check_every": 4}, [4, 8, 12]),
        ({"check_every": 5}, [5, 10, 12]),
        ({"check_every": 100}, [12]),
        ({"check_every": 2, "first_check": 2}, [8, 10, 12]),
        ({"first_check": 5}, [12]),
        ({"epochs": 1, "check_every": 2}, [2, 4, 6]),
    ],
)
def test_checks_are_made_every_so_many_steps_and_at_the_end(world, settings, steps):
    checks, valid = [], Scripted(world)
    world.fit(valid=valid, doors={"listener": heard(checks)}, **settings)
    assert [check.step for check in checks] == steps and len(valid.seen) == len(steps)
    assert [check.epoch for check in checks] == [-(-step // 6) for step in steps]
    assert all(check.stage == "fit" and {"train/loss", "mean/N@10"} <= set(check.values) for check in checks)


def test_patience_counts_checks(world):
    checks = []
    _, facts = world.fit(
        [0.3, 0.4, 0.2, 0.2, 0.9], epochs=9, check_every=3, patience=2, doors={"listener": heard(checks)}
    )
    assert facts["converged"] and facts["steps"] == 12 and facts["epochs"] == 2 and facts["best_epoch"] == 1
    assert facts["best"] == pytest.approx(0.45)


def test_an_equal_check_is_no_better_one(world):
    """A curve that stays where it is ends the fit, and the state that came there first is kept."""
    store = InMemory()
    model, facts = world.fit([0.4] * 9, epochs=9, patience=2, doors={"checkpoints": store})
    assert (facts["best_epoch"], facts["epochs"], facts["converged"]) == (1, 3, True)
    short, _ = world.fit([0.4], epochs=1)
    assert torch.equal(model.item.weight, short.item.weight)


class Drawing(Dot):
    """Notes the first random number of every loss."""

    def loss(self, batch):
        self.drawn = [*getattr(self, "drawn", []), float(torch.rand(()))]
        return super().loss(batch)


def test_random_numbers_after_a_check_are_new_ones(world):
    for every in (0, 2, 5):
        model, _ = world.fit(model=Drawing, check_every=every)
        assert len(set(model.drawn)) == len(model.drawn) == 12


def test_checks_within_an_epoch_select_its_best_state(world):
    kept = []

    class Keep(Scripted):
        def evaluate(self, score):
            kept.append({name: value.clone() for name, value in model.state_dict().items()})
            return super().evaluate(score)

    torch.manual_seed(0)
    model = Dot(TrainConfig(epochs=1, batch_size=32, steps_per_epoch=6, check_every=2), world.context())
    model.fit(world.train, Keep(world, [0.1, 0.9, 0.2]))
    assert torch.equal(model.item.weight, kept[1]["item.weight"])
    assert not torch.equal(model.item.weight, kept[2]["item.weight"])


def test_a_listener_ends_the_fit_after_the_checkpoint_is_saved(world):
    store, saved = InMemory(), []

    def listen(check):
        saved.append(store.load()["step"])
        return "median of the trials" if len(saved) == 2 else None

    model, facts = world.fit(epochs=9, doors={"listener": listen, "checkpoints": store})
    assert saved == [6, 12]
    assert facts["ended_by"] == "median of the trials" and not facts["converged"]
    assert facts["epochs"] == 2
    # A fit that is taken up again stays ended.
    again, facts_again = world.fit(epochs=9, doors={"checkpoints": store})
    assert facts_again == facts and torch.equal(again.item.weight, model.item.weight)
    assert "ended_by" not in world.fit()[1]


@pytest.mark.parametrize("resume_at", [2, 5, 8, 9, 11])
def test_a_fit_that_stopped_between_checks_resumes_to_the_same_bytes(world, resume_at):
    class Stop(Silent):
        count = 0

        def step(self, *rest):
            self.count += 1
            if self.count == resume_at:
                raise KeyboardInterrupt

    settings = {"check_every": 4, "accumulate": 2, "optimizer": "sgd", "momentum": 0.9, "schedule": "linear"}
    expected, _ = world.fit(**settings)
    store = InMemory()
    with pytest.raises(KeyboardInterrupt):
        world.fit(doors={"checkpoints": store, "progress": Stop()}, **settings)
    resumed, _ = world.fit(doors={"checkpoints": store}, **settings)
    assert torch.equal(resumed.item.weight, expected.item.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_stops_the_run(world, value):
    with pytest.raises(RunError, match=r"epoch 2, step 12 of stage 'fit': rec/N@10 is (nan|inf)"):
        world.fit([0.3, value])


def test_scoring_has_the_precision_of_the_training_and_float32_logits(world):
    for amp, expected in (("off", False), ("bf16", True)):
        valid = Scripted(world)
        model, _ = world.fit(valid=valid, amp=amp)
        assert valid.seen == [torch.float32] * 2 and model.autocast == expected
        with model.scoring():
            assert torch.is_autocast_enabled("cpu") == expected


def test_accumulated_batches_are_one_larger_batch(world):
    # Within the first pass: its last batch is smaller.
    one, facts = world.fit(batch_size=32, accumulate=2, optimizer="sgd", lr=1.0, epochs=1, steps_per_epoch=3)
    other, facts_other = world.fit(batch_size=64, optimizer="sgd", lr=1.0, epochs=1, steps_per_epoch=3)
    assert facts["steps"] == facts_other["steps"] == 3
    torch.testing.assert_close(one.item.weight, other.item.weight)


def test_a_pass_is_as_many_steps_as_its_accumulated_batches(world):
    passes = Dot(TrainConfig(batch_size=32), world.context()).stream(world.train).steps_per_pass
    _, facts = world.fit(steps_per_epoch=0, accumulate=3, epochs=1)
    assert facts["steps"] == -(-passes // 3)


class Growing(Dot):
    """The n-th loss is n above that of a constant model; its part is n itself."""

    def loss(self, batch):
        self.calls = getattr(self, "calls", 0) + 1
        return super().loss(batch) * 0 + 2.0 + self.calls, {"number": torch.tensor(float(self.calls))}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_line_of_the_curve_is_the_mean_over_the_batches_since_the_last(world, accumulate):
    checks = []
    world.fit(model=Growing, check_every=4, epochs=1, accumulate=accumulate, doors={"listener": heard(checks)})
    first, second = 4 * accumulate, 6 * accumulate  # batches up to each check
    means = [(1 + first) / 2, (first + 1 + second) / 2]
    assert [check.values["train/number"] for check in checks] == pytest.approx(means)
    assert [check.values["train/loss"] for check in checks] == pytest.approx([2 + mean for mean in means])


def test_sums_of_losses_do_not_lose_small_ones():
    sums = LossSums(torch.device("cpu"), "epoch 1", 1)
    # In float32 this number and 1 make the number again.
    for value in (2.0**24, 1.0, 1.0, 1.0):
        sums.add(torch.tensor(value), {})
    assert sums.means()["train/loss"] == (2.0**24 + 3) / 4


class Exploding(Dot):
    at, device_type = 4, "cpu"
    calls = 0

    def loss(self, batch):
        type(self).calls += 1
        loss = super().loss(batch)
        return loss * math.nan if self.calls == self.at else loss


def test_a_loss_that_explodes_in_the_first_of_accumulated_batches_is_found(world, monkeypatch):
    monkeypatch.setattr(Exploding, "at", 3)
    Exploding.calls = 0
    with pytest.raises(RunError, match="step 2 of epoch 1"):
        world.fit(model=Exploding, accumulate=2)


@pytest.mark.parametrize(("every", "where"), [(1, "step 4 of"), (3, "steps 4 to 6 of"), (50, "steps 1 to 6 of")])
def test_a_loss_that_explodes_is_found_at_the_next_reading(world, monkeypatch, every, where):
    from bench.ranker import loss_sums

    created = loss_sums.LossSums.__init__

    def rarely(self, *rest):
        created(self, *rest)
        self._every = every

    monkeypatch.setattr(loss_sums.LossSums, "__init__", rarely)
    Exploding.calls = 0
    with pytest.raises(RunError, match=f"{where} epoch 1 of stage 'fit'"):
        world.fit(model=Exploding)
