"""The audit finds each fault of the gallery, in models and in data, and is silent on the sound twin of each."""

import shutil

import pytest

from bench.audit.run import examined
from bench.evaluation.candidates import draw
from bench.experiments.fitting import Fitting
from bench.experiments.prepared_data import PreparedData
from bench.experiments.progress import FitView
from bench.ranker.contract import Context
from bench.store.records import RunRecord, now
from bench.store.results import Store, checksums, write_ranks

from ..broken_twins import (
    DropoutOn,
    IgnoresQuery,
    PeeksAtRows,
    PositionBonus,
    ReadsPadding,
    ReadsPositive,
    Sound,
)
from . import gallery
from .prepared import loud, prepared_of


@pytest.fixture(scope="module")
def prepared() -> PreparedData:
    return prepared_of(gallery.tastes())


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """The sound twin, fitted once; every other one has its weights."""
    folder = tmp_path_factory.mktemp("sound")
    config = Sound.Config(epochs=10, batch_size=64, patience=99, lr=3e-2)
    fitting = Fitting("sound", Sound, config, ("rec", "search"), 0, prepared, "cpu", 1, folder)
    model, facts, evidence = fitting.fit(FitView())
    return model.state(), facts, evidence, checksums(folder), config, folder


def twin(cls, prepared, trained, folder):
    """An opened run of a twin, ranked as `bench run` would."""
    state, facts, evidence, files, config, sound = trained
    name = cls.entry.name
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    fitting = Fitting(name, cls, config, ("rec", "search"), 0, prepared, "cpu", 1, folder)
    model = cls(config, Context(prepared.catalog, tasks=("rec", "search")))
    model.load_state_dict(state, strict=False)
    if hasattr(model, "parts"):
        model.remember(prepared.split, model.parts)
    record = RunRecord(
        id=f"{name}-s0-000000000000", fit_key="0", kind="fit", model=name, title=name, group="unified", seed=0, budget="quick",
        tasks=["rec", "search"], config=config.model_dump(), dataset=prepared.record(), device="cpu", threads=1, code="",
        fit=facts, evidence=evidence, files=files, finished=now(),
    )  # fmt: skip
    candidates = draw(prepared.split)
    ranks, _ = fitting.rank(model, candidates, FitView())
    record.evaluations[candidates.fingerprint] = write_ranks(ranks, folder, name, candidates, {}, 1.0)
    Store().write(folder, record)
    return fitting, model, record


def audited(cls, prepared, trained, folder):
    return list(examined(*twin(cls, prepared, trained, folder), rows=80))


@pytest.mark.parametrize(
    "cls", [Sound, gallery.RemembersTraining, gallery.CopiesTheHistory], ids=lambda c: c.entry.name
)
def test_sound_twins_are_sound(prepared, trained, tmp_path, cls):
    found = audited(cls, prepared, trained, tmp_path / "run")
    assert loud(found) == [], [finding.line() for finding in found]
    assert {finding.check for finding in found} <= {"draws", "order", "history"}


# Twin -> the check that is made for its fault, and others that see a consequence of it.
FAULTS = {
    PositionBonus: ("column_order", {"candidate_subset"}),
    ReadsPositive: ("hidden_positive", set()),
    IgnoresQuery: ("query", set()),
    gallery.NoiseOfTheQuery: ("query", set()),
    gallery.Bf16Probabilities: ("precision", set()),
    gallery.TrainedOnTest: ("trained on test", {"history"}),
    DropoutOn: ("deterministic", {"candidate_subset", "single_row", "other_rows", "reproduced"}),
    PeeksAtRows: ("other_rows", {"single_row", "query", "reproduced"}),
    ReadsPadding: ("padding", {"single_row", "reproduced", "history"}),
    gallery.ItemNumbers: ("item numbers", {"query", "history", "user"}),
    gallery.OneScore: ("query", {"history", "user"}),
}
# Of models that the query does not help, what the gradient says of its vectors.
GRADIENTS = {IgnoresQuery: "0.0%", gallery.NoiseOfTheQuery: "0.0%"}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda c: c.entry.name)
def test_each_fault_of_a_model_is_found(prepared, trained, tmp_path, cls):
    intended, consequences = FAULTS[cls]
    found = audited(cls, prepared, trained, tmp_path / "run")
    assert intended in loud(found), [finding.line() for finding in found]
    assert set(loud(found)) <= {intended} | consequences, [finding.line() for finding in found]
    (finding, *_) = [each for each in found if each.check == intended]
    if cls in GRADIENTS:
        with_gradient = [each.evidence for each in found if each.check == "query" and "gradient" in each.evidence]
        assert with_gradient and f"have {GRADIENTS[cls]} of the gradient" in with_gradient[0]
    assert finding.evidence and finding.fix and finding.rows == (cls.entry.name,)


def losses_of(prepared, folder, cls=Sound, **settings):
    """The findings on the curve of a short fit."""
    config = Sound.Config(**{"epochs": 3, "batch_size": 64, "patience": 99, "lr": 3e-2} | settings)
    fitting = Fitting("sound", cls, config, ("rec", "search"), 0, prepared, "cpu", 1, folder)
    model, facts, evidence = fitting.fit(FitView())
    record = RunRecord(
        id="sound-s0-000000000000", fit_key="0", kind="fit", model="sound", title="Sound", group="unified", seed=0,
        budget="quick", tasks=["rec", "search"], config=config.model_dump(), dataset=prepared.record(), device="cpu",
        threads=1, code="", fit=facts, evidence=evidence, files=checksums(folder), finished=now(),
    )  # fmt: skip
    candidates = draw(prepared.split)
    record.evaluations[candidates.fingerprint] = write_ranks(
        fitting.rank(model, candidates, FitView())[0], folder, "sound", candidates, {}, 1.0
    )
    Store().write(folder, record)
    return [each for each in examined(fitting, model, record, rows=20) if each.check == "loss"]


def test_a_loss_that_falls_is_silent_and_one_that_stands_still_or_grows_is_found(prepared, tmp_path):
    assert losses_of(prepared, tmp_path / "sound") == []
    for name, lr in (("still", 1e-9), ("diverged", 30.0)):
        (found,) = losses_of(prepared, tmp_path / name, lr=lr)
        assert found.severity == "warning" and found.sentence == "the training loss did not fall"
        first, last = (float(words.split()[0]) for words in found.evidence.split(", "))
        assert last > first * 0.99 and found.fix


def test_a_loss_that_falls_to_an_untrained_models_is_found(prepared, tmp_path):
    """A first step that made everything worse lets the loss fall and nothing be learnt."""
    learnt = type("Learnt", (Sound,), {"fresh_loss": (9.0, 0.1)})
    assert losses_of(prepared, tmp_path / "learnt", learnt) == []
    nothing = type("Nothing", (Sound,), {"fresh_loss": (0.01, 0.01)})
    (found,) = losses_of(prepared, tmp_path / "nothing", nothing)
    assert found.sentence == "the training loss ends where an untrained model's begins" and "0.0100" in found.evidence
