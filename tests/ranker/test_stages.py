"""Stages of a fit: killed in any of them it ends with the same bytes; what selects, what trains, what a checkpoint holds."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import RunError
from bench.ranker.context import InMemory, Silent

PROGRAM = Path(__file__).with_name("three_stages.py")
spec = importlib.util.spec_from_file_location("three_stages", PROGRAM)
three_stages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(three_stages)
attempt, digest = three_stages.attempt, three_stages.digest
NAMES = ["table", "round-1", "fit"]


class Stopped(Exception):
    """Stands for Ctrl-C, a crash, a lost machine."""


class StopAfter(Silent):
    """Progress that keeps what it hears and raises after some steps."""

    def __init__(self, lifetime=None):
        self.lifetime, self.steps, self.lines, self.lengths = lifetime, [], [], []

    def begin(self, epochs):
        self.lengths.append(epochs)

    def step(self, epoch, step, steps, loss):
        self.steps.append((epoch, step, steps))
        if len(self.steps) == self.lifetime:
            raise Stopped

    def epoch(self, epoch, values):
        self.lines.append({"epoch": epoch} | values)


@pytest.fixture(scope="module")
def log():
    return three_stages.world()


@pytest.fixture(scope="module")
def whole(log):
    progress, store = StopAfter(), InMemory()
    return *attempt(log, store, progress), progress, store


def without_seconds(facts):
    stages = [{**stage, "seconds": 0} for stage in facts["stages"]]
    return facts | {"seconds": 0, "stages": stages}


@pytest.mark.slow
def test_a_fit_that_is_killed_ten_times_ends_with_the_same_bytes(tmp_path):
    run = subprocess.run([sys.executable, PROGRAM, tmp_path, "10"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    killed, plain = result["killed"], result["plain"]
    assert killed["digest"] == plain["digest"]
    assert without_seconds(killed["facts"]) == without_seconds(plain["facts"])
    lengths = {facts["stage"]: facts["steps"] for facts in plain["facts"]["stages"]}
    epochs = {facts["stage"]: facts["steps"] // facts["epochs"] for facts in plain["facts"]["stages"]}
    before = {name: sum(lengths[other] for other in NAMES[:number]) for number, name in enumerate(NAMES)}
    reached, killed_in = 0, Counter()
    for lines in result["attempts"]:
        steps = [(name, before[name] + int(step)) for name, step in map(str.split, lines)]
        assert [step for _, step in steps] == list(range(steps[0][1], steps[-1][1] + 1)), "no step is left out"
        assert 0 <= reached + 1 - steps[0][1] <= epochs[steps[0][0]], "at most an epoch is repeated"
        killed_in[steps[-1][0]] += 1
        reached = steps[-1][1]
    assert reached == sum(lengths.values()) and all(killed_in[name] for name in NAMES)


@pytest.mark.parametrize("lifetime", [2, 6, 12, 13, 17, 19, 25, 26, 30, 41])
def test_a_fit_that_stopped_in_any_stage_resumes_to_the_same_bytes(log, whole, lifetime):
    model, facts, progress, _ = whole
    store = InMemory()
    with pytest.raises(Stopped):
        attempt(log, store, StopAfter(lifetime))
    again = StopAfter()
    resumed, facts_again = attempt(log, store, again)
    assert digest(resumed) == digest(model)
    assert without_seconds(facts_again) == without_seconds(facts)
    repeated = lifetime + len(again.steps) - len(progress.steps)
    assert 0 <= repeated <= again.steps[0][2], "at most an epoch is repeated"
    assert again.steps == progress.steps[-len(again.steps) :]


def test_each_line_names_its_stage_and_step(whole):
    _, facts, progress, _ = whole
    lines = [(line["stage"], line["epoch"], line["step"]) for line in progress.lines]
    per_epoch = facts["stages"][2]["steps"] // 4
    assert lines[:3] == [("table", 1, 4), ("table", 2, 8), ("table", 3, 12)]
    # A check every four steps, and a line at the end of each epoch.
    assert lines[3:8] == [("round-1", 1 + (step > 7), step) for step in (4, 7, 8, 12, 14)]
    assert lines[8:] == [("fit", epoch, epoch * per_epoch) for epoch in (1, 2, 3, 4)]
    assert all(line["train/half"] == pytest.approx(line["train/loss"] / 2) for line in progress.lines)
    assert [("mean/N@10" in line) for line in progress.lines] == [False] * 8 + [True] * 4
    assert progress.lengths == [3, 2, 4]


def test_the_batch_size_of_a_stage_counts(whole):
    _, facts, _, _ = whole
    steps = [stage["steps"] // stage["epochs"] for stage in facts["stages"]]
    assert steps == [4, 7, 7]


def test_a_stage_trains_its_parameters_alone_and_finishes_once(log, whole):
    model, _, _, _ = whole
    torch.manual_seed(7)
    context = three_stages.Context(model.catalog, seed=1)
    fresh = three_stages.ThreeStages(model.config, context)
    seen = {}

    class Look(Silent):
        def epoch(self, epoch, values):
            state = {name: value.detach().clone() for name, value in built.state_dict().items()}
            seen[values["stage"]] = (state, {name for name, p in built.named_parameters() if p.requires_grad})

    built = None
    original = three_stages.ThreeStages.__init__

    def spy(self, config, context):
        nonlocal built
        built = self
        original(self, config, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(three_stages.ThreeStages, "__init__", spy)
        attempt(log, progress=Look())
    start, (table, trained), (round_1, trained_1) = fresh.state_dict(), seen["table"], seen["round-1"]
    assert trained == {"user.weight"} and trained_1 == {"item.weight"}
    assert torch.equal(table["item.weight"], start["item.weight"]) and not table["prior"].any()
    assert not torch.equal(table["user.weight"], start["user.weight"])
    assert torch.equal(round_1["prior"], table["user.weight"]) and torch.equal(
        round_1["user.weight"], table["user.weight"]
    )
    assert seen["fit"][1] == {"user.weight", "item.weight"}
    assert not model.frozen.weight.requires_grad and model.item.weight.requires_grad


def test_after_a_fit_every_parameter_may_be_trained_that_could_before(log, monkeypatch):
    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: stages(self, train)[:2])
    model, _ = attempt(log)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"user.weight", "item.weight"}
    assert not model.training


def test_a_fit_has_converged_where_every_stage_that_can_has(log, whole, monkeypatch):
    _, facts, _, _ = whole
    assert [stage["converged"] for stage in facts["stages"]] == [None, False, False] and facts["converged"] is False

    def patient(self, train):
        table, first, last = stages(self, train)
        # A patience of one check, while the rate is too high for the loss to fall at each of them.
        config = first.config.model_copy(update={"epochs": 9, "patience": 1, "lr": 90.0})
        return [table, replace(first, config=config), last]

    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "stages", patient)
    _, mixed = attempt(log)
    assert [stage["converged"] for stage in mixed["stages"]] == [None, True, False] and mixed["converged"] is False
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: patient(self, train)[:2])
    assert attempt(log)[1]["converged"] is True
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: patient(self, train)[:1])
    assert attempt(log)[1]["converged"] is None


def test_what_a_stage_draws_at_its_end_depends_on_the_seed_alone(log, monkeypatch):
    def finish(self):
        self.prior.copy_(torch.rand_like(self.prior))

    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "keep_users", finish)
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: stages(self, train)[:1])

    class Drawing(StopAfter):
        def epoch(self, epoch, values):
            torch.rand(3)  # whatever else the process draws does not matter

    assert digest(attempt(log)[0]) == digest(attempt(log, progress=Drawing())[0])


def test_a_plateau_of_a_stage_that_selects_by_loss_is_one_of_the_loss(log, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def spy(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    def one(self, train):
        last = stages(self, train)[2]
        config = last.config.model_copy(update={"plateau": 1, "epochs": 8, "patience": 8, "lr": 0.02})
        return [replace(last, config=config, select="loss")]

    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    monkeypatch.setattr(three_stages.ThreeStages, "stages", one)
    progress = StopAfter()
    attempt(log, progress=progress)
    losses = [line["train/loss"] for line in progress.lines]
    best = [min(losses[: number + 1]) for number in range(len(losses))]
    assert losses[-1] < 0.9 * losses[0] and all(
        pair[0] > pair[2] for pair in zip(best, best[1:], best[2:], strict=False)
    )
    assert set(rates) == {0.02}, "it never stays for two checks"


def test_a_checkpoint_holds_no_weights_that_rest(whole):
    model, _, _, store = whole
    state = store.load()
    assert set(state["model"]) == {"user.weight", "item.weight", "prior"}
    assert set(state["best_state"]) == set(state["model"])
    assert all(value.device.type == "cpu" for value in state["best_state"].values())
    assert torch.equal(model.item.weight, state["best_state"]["item.weight"])


def test_a_resting_weight_that_a_hook_changes_is_in_the_checkpoint(log):
    def change(self):
        with torch.no_grad():
            self.frozen.weight.data.add_(1)

    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(three_stages.ThreeStages, "scale", change)
        expected, _ = attempt(log)
        store = InMemory()
        with pytest.raises(Stopped):
            attempt(log, store, StopAfter(18))
        states.append(set(store.load()["model"]))
        assert digest(attempt(log, store)[0]) == digest(expected)
    assert states == [{"user.weight", "item.weight", "prior", "frozen.weight"}]


def test_selection_by_loss_restores_the_state_of_the_lowest(whole):
    _, facts, progress, _ = whole
    # Lines of round-1 that end no check (step 7) are not candidates.
    losses = {
        line["step"]: line["train/loss"] for line in progress.lines if line["stage"] == "round-1" and line["step"] != 7
    }
    assert facts["stages"][1]["best"] == min(losses.values())
    assert facts["best"] == max(line.get("mean/N@10", 0) for line in progress.lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stages: [stages[0], replace(stages[2], name="table")], "names of their own.*table, table"),
        (lambda stages: [], "at least one"),
        (lambda stages: [replace(stages[2], parameters=lambda: [{"params": []}])], "no parameter to train"),
        (lambda stages: [replace(stages[2], select="click")], "selects by click/N@10"),
        (
            lambda stages: [
                replace(
                    stages[2], parameters=lambda: [{"params": [torch.nn.Parameter(torch.ones(1))], "optimizer": "lion"}]
                )
            ],
            "'lion'",
        ),
    ],
)
def test_faulty_stages_are_refused(log, monkeypatch, change, message):
    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: change(stages(self, train)))
    with pytest.raises(RunError, match=message):
        attempt(log)


def test_a_checkpoint_of_other_stages_is_refused(log, whole, monkeypatch):
    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "stages", lambda self, train: stages(self, train)[1:])
    with pytest.raises(RunError, match="stages table, round-1, fit, this fit round-1, fit"):
        attempt(log, whole[3])


def test_rounds_see_batches_of_their_own(log, monkeypatch):
    seen = {}

    def rounds(self, train):
        first = stages(self, train)[1]

        def remember(name):
            def loss(batch):
                seen.setdefault(name, []).append(batch.item)
                return self.loss(batch)

            return loss

        config = self.config.for_stage("", epochs=1)
        return [replace(first, name=name, config=config, loss=remember(name)) for name in ("a-1", "a-2")]

    stages = three_stages.ThreeStages.stages
    monkeypatch.setattr(three_stages.ThreeStages, "stages", rounds)
    attempt(log)
    first, second = torch.cat(seen["a-1"]), torch.cat(seen["a-2"])
    assert not torch.equal(first, second), "another order in another round"
    assert Counter(first.tolist()) == Counter(second.tolist()), "of the same rows"
