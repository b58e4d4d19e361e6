"""Finding models: what a source declares, groups and tasks, clashes, and the words for names that do not exist."""

import importlib
import importlib.metadata
import sys
from pathlib import Path

import pytest

from bench.errors import RunError, UsageError
from bench.ranker import registry
from bench.ranker.contract import Ranker
from bench.ranker.registry import ModelEntry


def entry(name: str, tasks: tuple[str, ...], group: str) -> ModelEntry:
    return ModelEntry(name, name.title(), tasks, group, "", f"somewhere:{name}", "bench")


KNOWN = {
    entry.name: entry
    for entry in (
        entry("gensr", ("rec", "search"), "unified"),
        entry("unisar", ("rec", "search"), "unified"),
        entry("sasrec", ("rec",), "rec"),
        entry("din", ("rec",), "rec"),
        entry("hem", ("search",), "search"),
        entry("popularity", ("rec", "search"), "trivial"),
        entry("item-knn", ("rec",), "trivial"),
        entry("bm25", ("search",), "trivial"),
    )
}
BOTH = ("rec", "search")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entries", lambda: KNOWN)


@pytest.mark.parametrize(
    ("names", "tasks", "expected"),
    [
        ("unisar,gensr", BOTH, ["unisar", "gensr"]),
        (" gensr , gensr,", BOTH, ["gensr"]),
        ("unified", BOTH, ["gensr", "unisar"]),
        ("rec", BOTH, ["sasrec", "din"]),
        ("search,unisar", ("search",), ["hem", "unisar"]),
        ("search", BOTH, ["hem"]),
        ("all", ("search",), ["gensr", "unisar", "hem", "popularity", "bm25"]),
        ("trivial", ("rec",), ["popularity", "item-knn"]),
        ("din,unified,din", ("rec",), ["din", "gensr", "unisar"]),
    ],
)
@pytest.mark.usefixtures("known")
def test_names_and_groups_expand_for_the_tasks(names, tasks, expected):
    assert registry.select(names, tasks, trivial=False) == expected


@pytest.mark.usefixtures("known")
def test_trivial_models_of_the_tasks_are_always_added():
    assert registry.select("gensr", BOTH) == ["gensr", "popularity", "item-knn", "bm25"]
    assert registry.select("gensr", ("search",)) == ["gensr", "popularity", "bm25"]
    assert registry.select("bm25,gensr", ("search",)) == ["bm25", "gensr", "popularity"]
    assert registry.select("all", BOTH) == list(KNOWN)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("names", "tasks", "words"),
    [
        ("gensa", BOTH, r"unknown model 'gensa'; did you mean gensr"),
        ("gensr,unisr", BOTH, r"unknown model 'unisr'; did you mean unisar"),
        ("unifed", BOTH, r"did you mean unified"),
        ("zzzzzz", BOTH, r"unknown model 'zzzzzz'; known: .*bm25.*"),
        ("", BOTH, r"no models given.*--models"),
        (" , ", BOTH, r"no models given"),
        ("din", ("search",), r"model 'din' serves rec, not search"),
    ],
)
def test_what_cannot_be_selected_is_said(names, tasks, words):
    with pytest.raises(UsageError, match=words):
        registry.select(names, tasks)


def test_a_name_that_does_not_exist_gets_a_guess():
    with pytest.raises(UsageError, match="did you mean popularity"):
        registry.get("popularty")
    with pytest.raises(UsageError, match="did you mean popularity"):
        registry.entry("popularty")


def test_what_is_declared_in_the_source_is_what_the_class_carries():
    for name, entry in registry.entries().items():
        if entry.package != "bench":
            continue
        try:
            cls = registry.get(name)
        except RunError as error:
            assert "RecBole" in str(error)
            continue
        said = cls.entry
        assert (said.name, said.title, said.tasks, said.group) == (name, entry.title, entry.tasks, entry.group)
        assert issubclass(cls, Ranker) and entry.group in registry.GROUPS
        assert entry.tasks and set(entry.tasks) <= set(BOTH)
        if entry.group in BOTH:
            assert entry.tasks == (entry.group,)


MODEL = """
from bench.ranker.contract import Ranker
from bench.ranker.registry import register


@register("{name}", title="Title", tasks=("rec",), group="rec", cite="Nobody, 2020")
class {cls}(Ranker):
    def fit(self, train, valid):
        return {{}}

    def score(self, batch):
        return batch.cand.float()

    def state(self):
        return {{}}

    def load_state(self, state):
        pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package of models in the place of bench's own; returns a function that writes a module into it."""
    folder = tmp_path / "models_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PACKAGES", ("models_of_a_test",))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    importlib.invalidate_caches()
    registry.entries.cache_clear()

    def write(module: str, name: str, cls: str = "Model", text: str = MODEL) -> None:
        (folder / f"{module}.py").write_text(text.format(name=name, cls=cls))

    yield write
    registry.entries.cache_clear()
    for module in [name for name in sys.modules if name.split(".")[0] == "models_of_a_test"]:
        del sys.modules[module]


def test_a_model_needs_nothing_but_its_decorator(package):
    package("fine", "my-model")
    entry = registry.entries()["my-model"]
    assert entry.record() == {
        "name": "my-model",
        "title": "Title",
        "tasks": "rec",
        "group": "rec",
        "cite": "Nobody, 2020",
        "target": "models_of_a_test.fine:Model",
        "package": "bench",
    }
    assert registry.get("my-model").__name__ == "Model"


def test_listing_does_not_import_the_models(package):
    package("broken", "my-model", text="import a_module_that_is_not_there\n" + MODEL)
    assert "my-model" in registry.entries()
    with pytest.raises(RunError, match=r"model 'my-model'.*cannot be imported.*a_module_that_is_not_there"):
        registry.get("my-model")


def test_two_models_of_one_name_are_refused(package):
    package("first", "twice", "First")
    package("second", "twice", "Second")
    with pytest.raises(RunError, match=r"two models are called 'twice': .*first:First.*second:Second.*rename"):
        registry.entries()


def point(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINTS)


def outside(monkeypatch: pytest.MonkeyPatch, *points: importlib.metadata.EntryPoint) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [p for p in points if p.group == group])
    registry.entries.cache_clear()


def test_models_of_other_packages_come_through_entry_points(package, monkeypatch):
    package("theirs", "theirs")
    monkeypatch.setattr(registry, "PACKAGES", ())
    outside(monkeypatch, point("theirs", "models_of_a_test.theirs:Model"))
    assert list(registry.entries()) == ["theirs"] and registry.entries()["theirs"].package != "bench"
    assert issubclass(registry.get("theirs"), Ranker)


def test_an_entry_point_may_not_take_a_name_that_is_there(package, monkeypatch):
    package("ours", "popularity")
    outside(monkeypatch, point("popularity", "models_of_a_test.ours:Model"))
    with pytest.raises(RunError, match="two models are called 'popularity'"):
        registry.entries()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lost", "no_such_module_here:Model", "cannot be found"),
        ("lost", "no_such_package_here.models:Model", "cannot be found"),
        ("other", "models_of_a_test.theirs:Model", r"registered as 'theirs'; make them equal"),
        ("theirs", "models_of_a_test.theirs:Absent", r"carries no @register"),
    ],
)
def test_entry_points_that_lead_nowhere_are_said(package, monkeypatch, name, value, words):
    package("theirs", "theirs")
    monkeypatch.setattr(registry, "PACKAGES", ())
    outside(monkeypatch, point(name, value))
    with pytest.raises(RunError, match=words):
        registry.entries()
