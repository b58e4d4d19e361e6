"""The Trainer: the same seed gives the same weights, a fit that stopped resumes to them, patience ends it."""

import pytest
import torch
from torch import nn

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.evaluation.scoring import RowValidation
from bench.ranker.context import InMemory
from bench.ranker.contract import Context, TorchRanker, TrainConfig, Window
from bench.ranker.registry import register


@register("dropout-dot", title="Dropout dot", tasks=("rec", "search"), group="rec")
class DropoutDot(TorchRanker):
    """User and item vectors with dropout: every random stream of the Trainer is in use."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.user = nn.Embedding(self.catalog.n_users + 1, 8)
        self.item = nn.Embedding(self.catalog.n_items + 1, 8)
        self.dropout = nn.Dropout(0.3)

    def score(self, batch):
        return torch.einsum("bd,bkd->bk", self.dropout(self.user(batch.user)), self.item(batch.cand))

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self.score(batch), batch.label)


class Stopped(Exception):
    """Stands for Ctrl-C, a crash, a lost machine."""


class StopIn(InMemory):
    """Progress that raises in the given epoch and step."""

    def __init__(self, at=None):
        super().__init__()
        self.at = at
        self.seen = []

    def begin(self, epochs):
        pass

    def step(self, epoch, step, steps, loss):
        if (epoch, step) == self.at:
            raise Stopped

    def epoch(self, epoch, values):
        self.seen.append((epoch, values))


def make(log, seed=0, progress=None, checkpoints=None, **settings):
    batches = Batches(split(log))
    context = Context(Catalog(log), seed=seed, progress=progress, checkpoints=checkpoints)
    torch.manual_seed(seed)
    model = DropoutDot(TrainConfig(**{"epochs": 4, "batch_size": 32, "lr": 0.05} | settings), context)
    return model, TrainData(batches, ("rec", "search"), seed), RowValidation(batches, ("rec", "search"), Window())


@pytest.fixture(scope="module")
def log(make_log):
    return make_log(n_users=60, n_items=200)


def equal(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_same_seed_same_bytes_other_seed_others(log):
    states = []
    for seed in (0, 0, 1):
        model, train, valid = make(log, seed)
        model.fit(train, valid)
        states.append(model.state())
        torch.rand(17)  # whatever else the process draws does not matter
    assert equal(states[0], states[1]) and not equal(states[0], states[2])


@pytest.mark.parametrize("stop", [(2, 3), (2, 1), (3, 2), (1, 2)])
def test_a_stopped_fit_resumes_to_the_same_weights(log, stop):
    model, train, valid = make(log)
    facts = model.fit(train, valid)
    expected = model.state()
    store = InMemory()
    broken, train, valid = make(log, progress=StopIn(stop), checkpoints=store)
    with pytest.raises(Stopped):
        broken.fit(train, valid)
    progress = StopIn()
    resumed, train, valid = make(log, progress=progress, checkpoints=store)
    again = resumed.fit(train, valid)
    assert equal(resumed.state(), expected)
    assert again | {"seconds": 0} == facts | {"seconds": 0}
    assert progress.seen[0][0] == stop[0], "finished epochs are not repeated"


def test_best_weights_are_restored_and_patience_stops(log):
    progress = StopIn()
    model, train, valid = make(log, progress=progress, epochs=30, lr=0.5, patience=2)
    facts = model.fit(train, valid)
    history = [values["mean/N@10"] for _, values in progress.seen]
    assert facts["converged"] and facts["epochs"] < 30
    assert facts["best"] == max(history) and history.index(max(history)) + 1 == facts["best_epoch"]
    assert valid.evaluate(model.score)["mean/N@10"] == facts["best"]
    assert facts["epochs"] == facts["best_epoch"] + 2


def test_epoch_limit_is_not_convergence(log):
    model, train, valid = make(log, epochs=1)
    assert not model.fit(train, valid)["converged"]


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of every step that Adam takes."""
    seen = []
    step = torch.optim.Adam.step

    def spy(self, *args):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    return seen


class Flat:
    """Validation that never gets better."""

    def evaluate(self, score):
        return {"mean/N@10": 0.3}


def test_the_rate_falls_on_a_plateau_and_a_resumed_fit_goes_on_with_it(log, rates):
    settings = {"epochs": 7, "steps_per_epoch": 4, "patience": 9, "plateau": 1, "min_lr": 1e-3, "lr": 0.05, "warmup": 2}
    whole, train, _ = make(log, **settings)
    whole.fit(train, Flat())
    # Epoch 1 is the best; two worse ones are one more than the plateau allows; the floor is min_lr.
    assert rates[2::4] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.005, 0.001, 0.001])
    assert rates[0] == pytest.approx(0.025)
    store = InMemory()
    broken, train, _ = make(log, progress=StopIn((5, 2)), checkpoints=store, **settings)
    with pytest.raises(Stopped):
        broken.fit(train, Flat())
    rates.clear()
    resumed, train, _ = make(log, checkpoints=store, **settings)
    resumed.fit(train, Flat())
    assert rates[2::4] == pytest.approx([0.005, 0.001, 0.001])
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("bound", "epochs", "steps"), [(0, 4, 20), (13, 2, 10), (5, 1, 5), (3, 1, 3), (1000, 4, 20)])
def test_max_steps_bounds_a_training_in_whole_epochs(log, bound, epochs, steps):
    progress = StopIn()
    progress.begin = lambda epochs: progress.seen.append(epochs)
    model, train, valid = make(log, progress=progress, max_steps=bound, steps_per_epoch=5)
    facts = model.fit(train, valid)
    assert (facts["epochs"], facts["steps"], progress.seen[0]) == (epochs, steps, epochs)
    assert len(progress.seen) == 1 + epochs, "each epoch is validated, the last one too"


def test_steps_per_epoch_walk_through_the_passes(log):
    seen = []
    model, train, valid = make(log, epochs=3, steps_per_epoch=2)
    loss = model.loss
    model.loss = lambda batch: seen.append(batch.item) or loss(batch)
    model.fit(train, valid)
    straight = [batch.item for batch in model.stream(train).batches(0, 6)]
    assert len(seen) == 6 and all(torch.equal(a, b) for a, b in zip(seen, straight, strict=True))


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(log):
    model, train, valid = make(log)
    model.item.weight.data[1:] = float("inf")
    with pytest.raises(RunError, match="step 1 of epoch 1"):
        model.fit(train, valid)


@pytest.mark.parametrize(
    ("warmup", "ramp"), [(4, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]), (1000, [0.08, 0.16, 0.24, 0.32, 0.4])]
)
def test_warm_up_is_linear_and_at_most_a_tenth_of_the_training(log, rates, warmup, ramp):
    model, train, valid = make(log, warmup=warmup, lr=0.4, epochs=5, steps_per_epoch=10, patience=5)
    model.fit(train, valid)
    assert rates[: len(ramp)] == pytest.approx(ramp) and rates[-1] == 0.4 and len(rates) == 50
