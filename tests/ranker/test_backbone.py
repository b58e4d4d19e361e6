"""Backbones: the small T5 is the same in every process, pretrained folders load as they are, absent ones are refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import T5Config, T5ForConditionalGeneration

from bench.data.catalog import Catalog
from bench.data.log import Entities, Log
from bench.data.ragged import Ragged
from bench.errors import RunError
from bench.ranker import backbone, backbone_names

TEXTS = ["Would the user click it?", "Yes", "No"]


@pytest.fixture(scope="module")
def catalog(make_log) -> Catalog:
    return Catalog(make_log())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("BENCH_DOWNLOAD", raising=False)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_small_t5_depends_on_the_seed_alone_and_leaves_the_global_generator(catalog):
    before = torch.random.get_rng_state()
    first, second, other = (backbone.load("small-t5", catalog, seed, TEXTS) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [model.model.state_dict() for model in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["shared.weight"], weights[2]["shared.weight"])
    assert first.name == "small-t5" and first.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    config = first.model.config
    assert isinstance(first.model, T5ForConditionalGeneration) and not first.model.training
    assert config.d_model >= 64 and config.num_layers >= 2 and config.num_decoder_layers >= 2
    assert first.model.dtype == torch.float32 and len(first.tokenizer) == config.vocab_size


def test_vocabulary_is_the_same_in_another_process_with_other_hashes(catalog, tmp_path):
    program = (
        "import importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('conftest', sys.argv[1]); m = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "from bench.data.catalog import Catalog; from bench.ranker.backbone import small_tokenizer\n"
        "print(json.dumps(small_tokenizer(Catalog(m.random_log()), ['Would the user click it?', 'Yes', 'No']).get_vocab()))\n"
    )
    conftest = os.path.join(os.path.dirname(os.path.dirname(__file__)), "conftest.py")
    env = os.environ | {"PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "3"}
    found = subprocess.run(
        [sys.executable, "-c", program, conftest], env=env, capture_output=True, text=True, check=True
    )
    import json

    assert json.loads(found.stdout) == backbone.small_tokenizer(catalog, TEXTS).get_vocab()


def test_words_are_single_tokens_shared_by_queries_and_items(catalog):
    tokenizer = backbone.small_tokenizer(catalog, TEXTS)
    for item, text in enumerate(backbone.item_texts(catalog)[1:], 1):
        assert len(ids(tokenizer, text)) == len(text.split()), item
    query, text = catalog.query_text[1], "title0 " + catalog.query_text[1]
    assert ids(tokenizer, query)[0] == ids(tokenizer, text)[-1]
    assert len(ids(tokenizer, "Yes")) == len(ids(tokenizer, "No")) == 1
    assert ids(tokenizer, "Yes") != ids(tokenizer, "No")
    assert tokenizer.unk_token_id not in ids(tokenizer, " ".join(TEXTS))
    # A word that the log never had, of letters that it has, is spelled; a foreign letter is unknown.
    spelled = ids(tokenizer, "titleq")
    assert len(spelled) > 1 and tokenizer.unk_token_id not in spelled
    assert ids(tokenizer, "ж") == [tokenizer.unk_token_id]


def test_rare_words_beyond_the_limit_are_spelled_but_prompt_words_never(catalog, monkeypatch):
    monkeypatch.setattr(backbone, "VOCABULARY", 10)
    tokenizer = backbone.small_tokenizer(catalog, TEXTS)
    assert len(ids(tokenizer, "title17")) > 1
    assert tokenizer.unk_token_id not in ids(tokenizer, "title17")
    assert [len(ids(tokenizer, word)) for word in ("Would", "click", "Yes", "No")] == [1, 1, 1, 1]


def test_logs_without_text_are_read_by_their_words():
    words = Ragged.from_lists([[], [2, 1], [1]])
    empty = np.array(["", "", ""], dtype=object)
    entities = Entities(id=np.array(["", "a", "b"], dtype=object), text=empty, words=words)
    names = Entities(id=np.array(["", "w11", "w22"], dtype=object))
    nothing = Entities(id=np.array([""], dtype=object))
    log = Log(None, entities, entities, nothing, names, nothing, {"name": "anonymous", "fingerprint": "x"})
    assert backbone.item_texts(Catalog(log)) == ["", "w22 w11", "w11"]
    assert backbone.query_texts(Catalog(log)) == ["", "w22 w11", "w11"]
    assert len(ids(backbone.small_tokenizer(Catalog(log), TEXTS), "w22 w11")) == 2


def saved(folder, catalog, *, tied: bool = True, half: bool = False) -> T5ForConditionalGeneration:
    """A tiny T5 written as any pretrained one is, with its tokenizer; returns it in float32."""
    tokenizer = backbone.small_tokenizer(catalog, TEXTS)
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=tied, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    if not tied:
        # flan-t5's checkpoints hold a head of their own beside the word embeddings.
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    if half:
        model = model.half()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.float()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_saved_folder_loads_as_it_was(tmp_path, catalog, tied, half, capfd):
    original = saved(tmp_path / "model", catalog, tied=tied, half=half)
    capfd.readouterr()
    loaded = backbone.load(str(tmp_path / "model"), catalog, 0, TEXTS)
    assert capfd.readouterr() == ("", "")
    model = loaded.model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)
    assert (model.lm_head.weight is model.shared.weight) == tied
    assert not model.training and ids(loaded.tokenizer, "Yes") != ids(loaded.tokenizer, "No")
    start = torch.zeros((2, 1), dtype=torch.long)
    given = torch.tensor([[5, 4, 3], [3, 4, 5]])
    with torch.no_grad():
        want = original.eval()(input_ids=given, decoder_input_ids=start).logits
        torch.testing.assert_close(model(input_ids=given, decoder_input_ids=start).logits, want)


def test_availability_and_what_auto_stands_for(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(backbone_names, "available", lambda name: name == "small-t5")
    assert backbone_names.resolve("auto") == "small-t5"
    monkeypatch.setattr(backbone_names, "available", lambda name: True)
    assert backbone_names.resolve("auto") == "google/flan-t5-base"
    monkeypatch.undo()
    assert backbone_names.available("small-t5") and backbone_names.resolve("small-t5") == "small-t5"
    saved(tmp_path / "model", catalog)
    assert backbone_names.available(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    assert not backbone_names.available(str(tmp_path / "model"))
    assert not backbone_names.available("nobody/no-such-model") and not backbone_names.available("not a name//at all")


def test_availability_does_not_import_transformers():
    program = (
        "import sys; from bench.ranker import backbone_names; backbone_names.available('google/flan-t5-base'); "
        "print('transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    "act", [lambda name, c: backbone.load(name, c, 0, TEXTS), lambda name, c: backbone_names.resolve(name)]
)
def test_an_absent_backbone_is_one_clear_line(catalog, act):
    with pytest.raises(RunError) as caught:
        act("nobody/no-such-model", catalog)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("nobody/no-such-model", "hf download nobody/no-such-model", "BENCH_DOWNLOAD=1", "small-t5"):
        assert part in message
    assert constants.HF_HUB_CACHE in message


def test_damaged_foreign_or_incomplete_folders_are_one_clear_line(tmp_path, catalog):
    model = saved(tmp_path / "model", catalog)
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="cannot be read") as caught:
        backbone.load(str(tmp_path / "model"), catalog, 0, TEXTS)
    assert "\n" not in str(caught.value)
    state = {name: value.clone() for name, value in model.state_dict().items() if "wi_0" not in name}
    from safetensors.torch import save_file

    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(RunError, match="incomplete"):
        backbone.load(str(tmp_path / "model"), catalog, 0, TEXTS)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "t5"', '"model_type": "bart"'))
    with pytest.raises(RunError, match="is a bart model; a T5 is needed"):
        backbone.load(str(tmp_path / "model"), catalog, 0, TEXTS)
