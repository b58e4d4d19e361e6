"""Language models that GenSR cannot use: folders that lack a file, tokenizers that do not fit its two answers."""

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from bench.errors import RunError
from bench.models.gensr.model import GenSR
from bench.ranker import backbone, backbone_names
from bench.ranker.contract import Backbone, Context

from .gensr_world import SHORT

SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}


@pytest.fixture
def saved(world, tmp_path):
    """A T5 and its tokenizer in a folder."""
    tokenizer = backbone.small_tokenizer(world.catalog, world.model().wording.texts())
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def refusals(folder, world) -> set[str]:
    """What is said of a backbone where it is resolved, loaded and used."""
    found = set()
    for act in (
        backbone_names.resolve,
        lambda name: backbone.load(name, world.catalog, 0, ["Yes"]),
        lambda name: world.model(backbone=name),
    ):
        with pytest.raises(RunError) as caught:
            act(str(folder))
        found.add(str(caught.value))
    return found


@pytest.mark.parametrize("lacking", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_one_line_that_names_it(world, saved, lacking, monkeypatch):
    monkeypatch.delenv("BENCH_DOWNLOAD", raising=False)
    assert backbone_names.available(str(saved)) and backbone_names.resolve(str(saved)) == str(saved)
    (saved / lacking).unlink()
    assert not backbone_names.available(str(saved))
    (message,) = refusals(saved, world)
    assert "\n" not in message and "no folder" not in message and "cache" not in message
    assert f"backbone '{saved}' is a folder that lacks {lacking};" in message
    assert f"hf download google/flan-t5-base --local-dir {saved}" in message
    assert "save_pretrained" in message and "small-t5" in message


def test_an_empty_folder_lacks_all_three_files(world, tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_DOWNLOAD", raising=False)
    (tmp_path / "empty").mkdir()
    (message,) = refusals(tmp_path / "empty", world)
    assert all(name in message for name in ("config.json", "model.safetensors", "tokenizer.json"))


@pytest.mark.parametrize(
    ("there", "instead"), [("model.safetensors", "pytorch_model.bin"), ("tokenizer.json", "spiece.model")]
)
def test_another_form_of_a_file_is_as_good(saved, there, instead):
    (saved / there).rename(saved / instead)
    assert backbone_names.available(str(saved))


def test_a_name_that_is_no_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_DOWNLOAD", raising=False)
    for name in (str(tmp_path / "gone"), "nobody/no-such-model"):
        with pytest.raises(RunError, match="it is no folder") as caught:
            backbone_names.resolve(name)
        assert "lacks" not in str(caught.value) and f"hf download {name}" in str(caught.value)


class Stub:
    """A tokenizer that gives some words tokens of its own choice."""

    def __init__(self, tokenizer, ids):
        self._tokenizer, self._ids = tokenizer, ids

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, text, **options):
        own = self._ids.get(text) if isinstance(text, str) else None
        return self._tokenizer(text, **options) if own is None else {"input_ids": own}


def with_labels(world, ids):
    """GenSR on a tokenizer that maps the labels to the ids."""

    def stubbed(name, catalog, seed, texts):
        loaded = backbone.load(name, catalog, seed, texts)
        return Backbone("stub/t5", loaded.model, Stub(loaded.tokenizer, ids))

    return GenSR(GenSR.Config(**SHORT), Context(world.catalog, backbones=stubbed))


def test_labels_of_one_token_each_are_taken_from_the_tokenizer(world):
    model = with_labels(world, {"Yes": [5], "No": [6]})
    assert (model.yes, model.no) == (5, 6)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"Yes": [5], "No": [5]}, "'Yes' and 'No' are one token of this tokenizer, 5"),
        ({"No": [5, 6]}, "'No' is 2 tokens of this tokenizer"),
        ({"No": []}, "'No' is 0 tokens of this tokenizer"),
        ({"Yes": [5, 6, 7], "No": [8]}, "'Yes' is 3 tokens of this tokenizer"),
        ({"Yes": [2]}, "'Yes' is .* needs one that knows it"),
        ({"No": [2]}, "'No' is .* needs one that knows it"),
    ],
)
def test_labels_that_cannot_be_told_apart_by_one_token_are_refused(world, ids, said):
    with pytest.raises(RunError, match=f"backbone 'stub/t5' does not fit GenSR: {said}") as caught:
        with_labels(world, ids)
    assert "\n" not in str(caught.value)


def test_the_unknown_token_of_the_small_tokenizer_is_the_one_refused(world, model):
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    assert tokenizer.unk_token_id == 2
