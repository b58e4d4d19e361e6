"""One mechanism finds models and data sources: files and folders of the tree, and entry points of other packages."""

import importlib.metadata
import sys
import textwrap

import pytest

from bench import plugins
from bench.data import sources
from bench.errors import RunError
from bench.ranker import registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes files of a package `planted`, importable for one test."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "planted"]:
        monkeypatch.delitem(sys.modules, name)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = folder / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))

    return write


def found(group: str = "none.such") -> dict[str, plugins.Declaration]:
    return plugins.declarations("thing", ("planted",), group, "mark")


def test_a_plugin_is_a_file_or_a_folder_of_files(package):
    package(
        single='@mark("one", title="One")\nclass One: ...\n',
        several__inside='@mark("two", tasks=("rec",))\ndef two(): ...\n',
        plain="class NotMarked: ...\n",
    )
    known = found()
    assert list(known) == ["one", "two"]
    assert known["one"] == plugins.Declaration("one", "planted.single:One", "bench", {"title": "One"})
    assert known["two"].target == "planted.several.inside:two" and known["two"].facts == {"tasks": ("rec",)}


def test_listing_imports_nothing(package):
    package(dangerous='raise SystemExit("imported")\n@mark("x")\nclass X: ...\n')
    assert list(found()) == ["x"]


def test_two_plugins_of_one_name_are_refused_with_both_places(package):
    package(a='@mark("same")\nclass A: ...\n', b='@mark("same")\nclass B: ...\n')
    with pytest.raises(RunError, match=r"two things are called 'same': planted\.a:A \(bench\) and planted\.b:B"):
        found()


class Distribution:
    name = "other-package"


def point(monkeypatch, value: str, name: str = "x") -> None:
    entry = importlib.metadata.EntryPoint(name, value, "planted.group")._for(Distribution())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == "planted.group" else [])


def test_an_entry_point_of_another_package_is_found(package, monkeypatch):
    package(outside='@mark("x", title="X")\nclass X: ...\n')
    point(monkeypatch, "planted.outside:X")
    known = plugins.declarations("thing", (), "planted.group", "mark")
    assert known["x"].package == "other-package" and known["x"].facts == {"title": "X"}


@pytest.mark.parametrize(
    ("value", "name", "message"),
    [
        ("planted.nowhere:X", "x", "names the module planted.nowhere, which cannot be found"),
        ("no_such_package.inside:X", "x", "cannot be found"),
        ("planted.outside:Y", "x", "carries no @mark"),
        ("planted.outside:X", "y", "registered as 'x'; make them equal"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_one_line(package, monkeypatch, value, name, message):
    package(outside='@mark("x")\nclass X: ...\nclass Y: ...\n')
    point(monkeypatch, value, name)
    with pytest.raises(RunError, match=message) as caught:
        plugins.declarations("thing", (), "planted.group", "mark")
    assert "other-package" in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_imported_is_one_line(package):
    package(broken="import a_package_that_is_not_there\n", fine="", angry="raise OSError('no\\nway')\n")
    for target in ("planted.broken:X", "planted.fine:X", "planted.absent:X", "planted.angry:X"):
        with pytest.raises(RunError, match=r"thing 'x' .* cannot be imported") as caught:
            plugins.load("thing", "x", target)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '@mark("x", title=TITLE)\nclass X: ...\n',
            r"odd\.py, line 2: @mark\(\.\.\.\) of X must have literal arguments",
        ),
        ("@mark()\nclass X: ...\n", "a name first"),
        ('@mark("x")\nclass X ...\n', r"odd\.py .* cannot be read: "),
    ],
)
def test_a_declaration_that_cannot_be_read_is_one_line(package, text, message):
    package(odd=text)
    with pytest.raises(RunError, match=message) as caught:
        found()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("entries", "package"), [(registry.entries, "models"), (sources.entries, "datasets")])
def test_models_and_sources_of_the_tree_come_by_the_same_way(entries, package):
    known = entries()
    assert len(known) > 5
    for name, entry in known.items():
        if entry.package == plugins.TREE:
            cls = plugins.load("thing", name, entry.target)
            assert cls.entry == entry, "what is read from the text is what the decorator sets"


def test_folders_hold_sources_and_models():
    targets = {entry.target.split(":")[0] for entry in [*registry.entries().values(), *sources.entries().values()]}
    assert "bench.datasets.unisar.source" in targets and "bench.datasets.ml_100k" in targets
    assert "bench.baselines.recbole.bridge" in {family.target.split(":")[0] for family in registry.families().values()}
