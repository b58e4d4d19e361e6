"""Remembered settings are those that the model would give now, and what knows them imports nothing heavy."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.experiments.known_settings import FOLDER, model_settings
from bench.experiments.settings import Overrides, model_config
from bench.ranker import backbone_names, registry

TOY = """
from bench.ranker.contract import Ranker, TrainConfig

class ToyConfig(TrainConfig):
    size: int = {size}
    text: str = "none"

class Toy(Ranker):
    Config = ToyConfig
    published = {{"shop": {{"size": 77}}}}
    quick = {{"max_steps": {steps}}}
"""


class ToyModel:
    """A model of the tree whose source is a file that a test edits; counts how often it is imported."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.out, self.path, self.imports = folder / "results", folder / "toy_model_source.py", 0
        entry = registry.ModelEntry("toy", "Toy", ("rec",), "rec", "", "toy_model_source:Toy", "bench")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(registry, "entries", lambda: {"toy": entry})
        monkeypatch.setattr(registry, "get", self._get)
        self.write()

    def write(self, size: int = 3, steps: int = 10) -> None:
        self.path.write_text(TOY.format(size=size, steps=steps))

    def _get(self, _: str) -> type:
        self.imports += 1
        sys.modules.pop("toy_model_source", None)
        importlib.invalidate_caches()
        # Two edits within the same second leave a stale .pyc.
        for cached in self.path.parent.glob("__pycache__/*"):
            cached.unlink()
        return importlib.import_module("toy_model_source").Toy

    def config(self, *pairs: str, budget: str = "quick", dataset: str = "") -> dict:
        return model_settings(self.out, "toy", budget, Overrides.parse(pairs), dataset).config

    def files(self) -> list[Path]:
        return sorted((self.out / FOLDER).iterdir())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyModel:
    return ToyModel(tmp_path, monkeypatch)


def test_what_is_known_is_not_worked_out_again(toy):
    first = toy.config()
    assert (first["size"], first["max_steps"], toy.imports) == (3, 10, 1)
    assert toy.config() == first and toy.imports == 1 and len(toy.files()) == 1


def test_a_change_of_anything_that_decides_settings_is_seen(toy):
    assert toy.config()["size"] == 3
    toy.write(size=4)
    assert toy.config()["size"] == 4
    toy.write(size=4, steps=11)
    assert toy.config()["max_steps"] == 11
    assert toy.config(budget="full")["max_steps"] == 0
    assert toy.config(dataset="shop")["size"] == 77
    assert toy.config("toy.size=5")["size"] == 5
    assert toy.config("train.epochs=2")["epochs"] == 2
    # Values that print alike: YAML's 1 and "1", and a name that is another setting's value.
    assert toy.config("toy.text='1'")["text"] == "1"
    with pytest.raises(UsageError, match=r"toy\.text"):
        toy.config("toy.text=1")
    imports = toy.imports
    assert toy.config("toy.size=5")["size"] == 5 and toy.imports == imports
    toy.write()
    assert toy.config() == toy.config() | {"size": 3, "max_steps": 10} and toy.imports == imports


def test_wrong_settings_are_refused_every_time(toy):
    for pair in ("toy.size=many", "toy.width=3"):
        for _ in range(2):
            with pytest.raises(UsageError, match=pair.partition("=")[0].rpartition(".")[2]):
                toy.config(pair)
    assert not (toy.out / FOLDER).exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"config": {"size": 9}}', "null"])
def test_a_file_that_was_changed_is_not_believed(toy, damage):
    first = toy.config()
    (path,) = toy.files()
    content = json.loads(path.read_text())
    content["config"]["size"] = 9
    path.write_text(damage or json.dumps(content))
    assert toy.config() == first and toy.imports == 2
    assert toy.config() == first and toy.imports == 2
    # A good file under the name of another key.
    other = toy.config("toy.size=8")
    (moved,) = [each for each in toy.files() if each != path]
    moved.replace(path)
    assert toy.config() == first != other


def test_a_folder_that_cannot_be_written_costs_time_only(toy):
    toy.out.write_text("a file where the folder should be")
    assert toy.config()["size"] == 3 and toy.config()["size"] == 3 and toy.imports == 2


def test_models_of_other_packages_are_asked_every_time(toy, monkeypatch):
    entry = registry.entries()["toy"]
    monkeypatch.setattr(registry, "entries", lambda: {"toy": registry.ModelEntry(**vars(entry) | {"package": "other"})})
    assert toy.config() == toy.config() and toy.imports == 2 and not toy.out.exists()


@pytest.mark.parametrize("name", ["popularity", "sasrec", "gensr"])
def test_models_of_the_tree_give_the_same_from_memory(name, tmp_path, monkeypatch):
    overrides = Overrides.parse(["train.epochs=3"])
    want = model_config(registry.get(name), name, "quick", overrides, "ml-100k").model_dump()
    if want.get("backbone") == "auto":
        want["backbone"] = backbone_names.resolve("auto")
    first = model_settings(tmp_path, name, "quick", overrides, "ml-100k")
    monkeypatch.setattr(registry, "get", lambda _: pytest.fail("the model is imported"))
    assert model_settings(tmp_path, name, "quick", overrides, "ml-100k") == first
    assert first.config == want and json.dumps(first.config, sort_keys=True) == json.dumps(want, sort_keys=True)


def test_the_backbone_of_the_machine_is_never_remembered(tmp_path, monkeypatch):
    def backbone() -> tuple[str, str]:
        known = model_settings(tmp_path, "gensr", "full", Overrides())
        return known.config["backbone"], known.code

    monkeypatch.setattr(backbone_names, "available", lambda name: name == backbone_names.SMALL)
    small, code = backbone()
    monkeypatch.setattr(backbone_names, "available", lambda name: True)
    assert (small, *backbone()) == (backbone_names.SMALL, backbone_names.PRETRAINED, code)


def test_the_device_is_found_without_torch_where_its_build_knows_no_gpu():
    program = (
        "import sys; from bench.experiments.settings import device; cpu, auto = device('cpu'), device('auto'); "
        "early = 'torch' in sys.modules; import torch; "
        "print(cpu, early, auto == ('cuda' if torch.cuda.is_available() else 'cpu'), torch.version.cuda or torch.version.hip)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    cpu, early, right, build = done.stdout.split()
    assert (cpu, right) == ("cpu", "True")
    assert early == "False" or build != "None"
