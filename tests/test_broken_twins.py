"""The conformance checks can fail: each fault is stopped at the check made for it, and the sound twin passes."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import PositiveInt, model_validator
from torch import nn

import bench.testing
from bench.errors import UsageError
from bench.ranker.contract import Ranker, Representation, TrainConfig, Window
from bench.ranker.registry import register
from bench.testing.examined import row_differences

from .broken_twins import TWINS, Sound, TwinConfig, TwoStages


def faulty(name: str, *, tasks: tuple[str, ...] = ("rec", "search"), **attributes: object) -> type[Sound]:
    """The sound twin with some attributes replaced."""
    cls = type(name, (Sound,), attributes)
    return register(name, title=name, tasks=tasks, group="unified")(cls)


def sentence(report: bench.testing.Report, check: str) -> str:
    return next(result.sentence for result in report.results if result.check == check)


@pytest.mark.parametrize("sound", [Sound, TwoStages])
def test_sound_twins_pass_every_check(sound):
    report = bench.testing.check(sound)
    assert report.ok, report.text()
    assert [result.check for result in report.results] == list(bench.testing.CHECKS)
    # `representation` is optional outside the tree.
    assert {result.status for result in report.results if result.check != "representation"} == {"passed"}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.entry.name)
def test_broken_twin_fails_at_the_check_for_its_fault(twin):
    intended, consequences = TWINS[twin]
    report = bench.testing.check(twin)
    assert intended in report.failed, report.text()
    # Nothing else fails but what follows from the fault: a failure points at its cause.
    assert set(report.failed) <= {intended} | consequences, report.text()
    assert f"{intended:<16}  FAILED" in report.text() and not report.ok


FAULTS = {
    "query": {"uses_query": False},
    "history": {"uses_history": False},
    "user": {"uses_user": False},
    "fresh_loss": {"fresh_loss": (0.69, 0.05)},
    "candidate_subset": {"score": lambda self, batch: F.log_softmax(Sound.score(self, batch), dim=1)},
    "overfit": {"loss": lambda self, batch: sum(p.square().sum() for p in self.parameters())},
    "state": {"state": lambda self: {"items.weight": self.items.weight}, "load_state": lambda self, state: None},
    "small_batch": {
        "loss": lambda self, batch: Sound.loss(self, batch) / (self.score(batch).std(0, correction=0) > 0).any()
    },
    "fit": {"fit": lambda self, train, valid: 1 / 0},
    "budgets": {"quick": {"epochs": 1, "lr": 0.01}},
    "resume": {"fit": lambda self, train, valid: {}},
    "search_alone": {"window": property(lambda self: Window(rec=1 // ("rec" in self.context.tasks)))},
}


@pytest.mark.parametrize("check", FAULTS)
def test_further_faults(check):
    report = bench.testing.check(faulty("Faulty", **FAULTS[check]), only=(check,))
    assert report.failed == [check], report.text()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"quick": {"epochs": 10_000}}, "longer than the default"),
        ({"quick": {"patience": 0}}, "longer than the default|0"),
        ({"published": {"kuaisar": {"learning": 1}}}, "no settings of this model"),
        ({"quick": {"epochs": 1}, "published": {"kuaisar": {"epochs": 9}}}, "which `quick` would change"),
    ],
    ids=["longer", "zero", "unknown", "both"],
)
def test_quick_only_shortens_and_published_are_settings(attributes, words):
    report = bench.testing.check(faulty("Budgets", **attributes), only=("budgets",))
    assert report.failed == ["budgets"] and re.search(words, sentence(report, "budgets"))


def test_unused_input_that_is_declared_used():
    def wish(self, batch):
        return self.out(self.items(batch.cand[:, :1] * 0 + 1).squeeze(1))

    report = bench.testing.check(faulty("Blind", wish=wish), only=("query", "history", "user"))
    assert report.failed == ["query", "history", "user"]
    assert re.search(r"0 of \d rows of rec", sentence(report, "history"))


@pytest.mark.parametrize("left_out", [None, "query", "history"])
def test_a_representation_holds_all_that_the_score_comes_from(left_out):
    def represent(self, batch):
        items, rows = self.items(batch.cand), self.users(batch.user)
        rows = rows if left_out == "history" else rows + self.past(batch)
        searched = (batch.task == 1)[:, None] * self.queries(batch.query)
        rows = rows if left_out == "query" else rows + searched
        return Representation(torch.cat([rows[:, None].expand_as(items), items], -1), items * self.wish(batch)[:, None])

    report = bench.testing.check(faulty("Seen", represent=represent), only=("representation",))
    assert bool(report.failed) == bool(left_out), report.text()
    assert not left_out or f"another {left_out} changes" in sentence(report, "representation")


def test_query_must_not_reach_rec_rows():
    def wish(self, batch):
        return self.out(self.past(batch) + self.users(batch.user) + self.queries(batch.query))

    report = bench.testing.check(faulty("QueryEverywhere", wish=wish), only=("query",))
    assert "12 of 12 rows" in sentence(report, "query") and "rec rows" in sentence(report, "query")


def test_uses_query_needs_search_rows():
    report = bench.testing.check(faulty("RecOnly", tasks=("rec",)), only=("query",))
    assert "have no such query" in sentence(report, "query")


def read_in_rec(self, batch):
    """The user counts in rec rows alone."""
    person = self.users(batch.user) * (batch.task == 0)[:, None]
    return self.out(self.past(batch) + person + (batch.task == 1)[:, None] * self.queries(batch.query))


@pytest.mark.parametrize(
    ("uses_user", "words"),
    [
        (("rec",), None),
        (True, "uses_user is True in search, but another user id changed the scores of only 0 of"),
        (False, "uses_user is False in rec, but another user id changed the scores of"),
        (("search",), "uses_user is False in rec"),
        (("rec", "chat"), "uses_user holds for chat, but the model serves rec and search"),
    ],
)
def test_an_input_may_be_read_in_one_task(uses_user, words):
    cls = faulty("RecReader", wish=read_in_rec, uses_user=uses_user)
    report = bench.testing.check(cls, only=("user", "rec_alone", "search_alone"))
    assert report.ok if words is None else words in sentence(report, "user"), report.text()


class Headed(TwinConfig):
    heads: PositiveInt = 2


def refuse_heads(self, config, context):
    if config.d % config.heads:
        raise UsageError(f"d = {config.d} cannot be shared by {config.heads} heads")
    Sound.__init__(self, config, context)


class Conditional(Headed):
    @model_validator(mode="after")
    def _heads_divide(self):
        if self.d % self.heads:
            raise ValueError("heads must divide d")
        return self


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"depth": [1, 2]}, "names depth, which is no setting"),
        ({"d": [16, 0]}, r"d = 0: .*greater than 0"),
        ({"d": [16, 32.0]}, r"d = 32.0: .*valid integer"),
        ({"lr": ("loguniform", 0, 1)}, "no range for loguniform"),
        ({"lr": ("uniform", 1e-2, 1e-3)}, "no range for uniform"),
        ({"lr": ("normal", 0, 1)}, "a range is"),
        ({"lr": (0.001, 0.1)}, "a range is"),
        ({"lr": ("loguniform", 1e-4, 1e-3)}, "leaves out the default lr = 0.01"),
        ({"d": [8, 32]}, "leaves out the default d = 16"),
        ({"d": []}, "a list of values"),
        ({"d": [16, 16]}, "twice"),
        ({"weight_decay": ("uniform", -0.1, 0.1)}, r"weight_decay = -0.1"),
    ],
)
def test_search_space_fits_the_config(space, words):
    report = bench.testing.check(faulty("Searched", search_space=space), only=("search_space",))
    assert report.failed == ["search_space"] and re.search(words, sentence(report, "search_space")), report.text()


def test_a_condition_of_the_search_space_stands_in_the_config():
    space = {"d": [8, 12, 16], "heads": [1, 2, 3]}
    dies = faulty("Dies", Config=Headed, __init__=refuse_heads, search_space=space)
    report = bench.testing.check(dies, only=("search_space",))
    assert "heads = 3" in sentence(report, "search_space") and report.failed == ["search_space"]
    knows = faulty("Knows", Config=Conditional, __init__=refuse_heads, search_space=space)
    report = bench.testing.check(knows, only=("search_space",))
    assert report.ok and "combinations of sizes" in sentence(report, "search_space"), report.text()


def test_a_fit_that_starts_over_has_not_resumed():
    def fit(self, train, valid):
        checkpoints = self.context.checkpoints
        self.context.checkpoints = SimpleNamespace(save=checkpoints.save, load=lambda: None)
        return Sound.fit(self, train, valid)

    report = bench.testing.check(faulty("StartsOver", fit=fit), only=("resume",))
    assert re.search(r"repeats \d+ steps", sentence(report, "resume")), report.text()


def test_differences_of_scores_see_what_is_not_a_number():
    nan, scores = float("nan"), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    broken = torch.tensor([[1.0, nan], [3.0, 4.0]])
    assert row_differences(scores, broken).tolist() == [float("inf"), 0.0]
    assert row_differences(broken, broken).tolist() == [0.0, 0.0]
    assert row_differences(scores, scores + 1e-7).tolist() == [0.0, 0.0]
    assert (row_differences(scores, scores + 1e-3) > 0).all()


def test_resume_names_the_stage():
    forgets = next(twin for twin in TWINS if twin.entry.name == "forgets-between-stages")
    report = bench.testing.check(forgets, only=("resume",))
    assert "interrupted in stage 'fit'" in sentence(report, "resume")
    assert "2 stages" in sentence(bench.testing.check(TwoStages, only=("resume",)), "resume")


def test_batch_must_stay_as_it_was():
    def score(self, batch):
        scores = Sound.score(self, batch)
        if not self.training:
            batch.rec_items.zero_()
        return scores

    report = bench.testing.check(faulty("Writes", score=score), only=("deterministic",))
    assert "rec_items" in sentence(report, "deterministic")


def test_state_must_be_tensors():
    report = bench.testing.check(faulty("Lists", state=lambda self: {"sizes": [1, 2]}), only=("state",))
    assert "sizes" in sentence(report, "state")


def test_weights_that_are_not_saved_are_found():
    class Unsaved(Sound):
        def __init__(self, config, context):
            super().__init__(config, context)
            self.hidden = [nn.Linear(config.d, config.d)]

        def past(self, batch):
            return self.hidden[0](super().past(batch))

    report = bench.testing.check(register("unsaved", title="", tasks=("rec",), group="rec")(Unsaved), only=("state",))
    assert report.failed == ["state"] and "differently" in sentence(report, "state")


def test_exemption_shows_its_sentence_and_does_not_run():
    reason = "the first loss depends on the data"
    cls = faulty("Exempt", exempt={"fresh_loss": reason}, fresh_loss=(100.0, 0.1))
    report = bench.testing.check(cls, only=("fresh_loss",))
    assert report.ok and report.results[0].status == "exempt" and reason in report.text()


@pytest.mark.parametrize("exempt", [{"fresh-loss": "a good reason"}, {"fresh_loss": "no"}, {"query:x": "a fine one"}])
def test_exemptions_are_checked_themselves(exempt):
    assert bench.testing.check(faulty("Exempt", exempt=exempt), only=("exemptions",)).failed == ["exemptions"]


def test_parameters_are_excused_by_name_only():
    dead = next(twin for twin in TWINS if twin.entry.name == "dead-parameter")
    reason = "the gate is frozen on purpose"
    excused = type("Excused", (dead,), {"exempt": {"gradients:gate.*": reason}})
    assert bench.testing.check(excused, only=("exemptions", "gradients")).ok
    half = type("Half", (dead,), {"exempt": {"gradients:gate.bias": reason}})
    assert "gate.weight" in sentence(bench.testing.check(half, only=("gradients",)), "gradients")
    stale = type("Stale", (Sound,), {"exempt": {"gradients:gate.*": reason}})
    assert "do not exist" in sentence(bench.testing.check(stale, only=("gradients",)), "gradients")


def test_model_without_a_loss_is_excused_from_gradients():
    @register("lottery", title="", tasks=("rec", "search"), group="trivial")
    class Lottery(Ranker):
        uses_history = False

        def fit(self, train, valid):
            return {}

        def score(self, batch):
            return (batch.cand * 7919 % 101).float()

        def state(self):
            return {}

        def load_state(self, state):
            pass

    report = bench.testing.check(Lottery)
    assert report.ok, report.text()
    of_loss = {"fresh_loss", "gradients", "small_batch", "overfit"}
    assert {r.check for r in report.results if r.status == "exempt"} == of_loss | {
        "resume",
        "search_space",
        "representation",
    }
    trained = type("Trained", (Lottery,), {"Config": TrainConfig})
    assert set(bench.testing.check(trained).failed) == of_loss | {"resume"}


def test_caller_errors_are_one_line():
    with pytest.raises(UsageError, match="did you mean fresh_loss"):
        bench.testing.check(Sound, only=("fresh_los",))
    with pytest.raises(UsageError, match="unknown setting of sound 'epoch'"):
        bench.testing.check(Sound, {"epoch": 1})
    with pytest.raises(UsageError, match=r"sound\.lr"):
        bench.testing.check(Sound, {"lr": "fast"})
    with pytest.raises(UsageError, match="@register"):
        bench.testing.check(type("Plain", (), {}))
    with pytest.raises(UsageError, match="unknown model"):
        bench.testing.check("no-such-model")


def test_global_generators_are_left_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    bench.testing.check(Sound, only=("deterministic",))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
