"""From an analysis to the runs of its variants."""

from types import SimpleNamespace

from bench.analysis import variants
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides


def test_each_variant_asks_for_its_model_with_its_settings_alone(monkeypatch):
    asked = []

    def together(requests, reporter):
        asked.extend(requests)
        return SimpleNamespace(failed={}, runs={}, store=None, asked=[[] for _ in requests])

    monkeypatch.setattr(variants, "run_together", together)
    given = Overrides.parse(["unisar.d=16", "gensr.history=5", "train.epochs=2", "ml-100k.queries=A"])
    request = RunRequest("gensr,unisar", overrides=given)
    chosen = variants.grid(["gensr", "unisar"], ("unisar.lr=0.1,0.2", "gensr.contrast=0"))
    variants.run_variants(request, chosen)
    own = [(each.models, each.overrides.of(each.models)) for each in asked]
    assert own == [
        ("unisar", {"d": 16}), ("unisar", {"d": 16, "lr": 0.1}), ("unisar", {"d": 16, "lr": 0.2}),
        ("gensr", {"history": 5}), ("gensr", {"history": 5, "contrast": 0}),
    ]  # fmt: skip
    assert all(each.overrides.of("train") and each.overrides.of("ml-100k") for each in asked)
    assert not any(each.overrides.of("gensr") for each in asked if each.models == "unisar")
