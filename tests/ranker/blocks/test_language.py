"""One-step answers, new tokens and adapters, beside what transformers does with the same weights."""

import copy

import pytest
import torch

from bench.data.catalog import Catalog
from bench.ranker import backbone
from bench.ranker.blocks.language import (
    Continuations,
    ExtraVocabulary,
    answer,
    decode,
    encode,
    label_token,
    word_scale,
)
from bench.ranker.blocks.lora import add_lora, lora_parameters
from bench.ranker.contract import Context


@pytest.fixture(scope="module")
def loaded(make_log):
    return backbone.load("small-t5", Catalog(make_log()), 0, ["Yes", "No"])


@pytest.fixture
def lm(loaded):
    return copy.deepcopy(loaded.model)


def scaled(lm):
    """As the first T5: the decoder's output is scaled before the words are scored."""
    lm.config.scale_decoder_outputs = True
    return lm


def apart(lm):
    """As flan-t5: words and output head are two tables."""
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(
        torch.randn(lm.shared.weight.shape, generator=torch.Generator().manual_seed(1))
    )
    return lm


def prompts(lm):
    ids = torch.randint(3, len(lm.shared.weight), (4, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [5], [2], [7]])
    return ids, mask


@pytest.mark.parametrize("of", [lambda lm: lm, scaled, apart], ids=["tied", "scaled", "apart"])
def test_an_answer_gives_the_logits_of_transformers(lm, of):
    lm = of(lm)
    ids, mask = prompts(lm)
    start = torch.full((4, 1), lm.config.decoder_start_token_id)
    expected = lm(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=start).logits[:, 0]
    said = answer(lm, encode(lm, lm.shared(ids), mask), mask)
    torch.testing.assert_close(said @ lm.get_output_embeddings().weight.T, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_continuations_of_a_prompt_are_decoded_as_if_each_stood_alone(lm, attention):
    lm.set_attn_implementation(attention)
    lm = scaled(lm)
    ids, mask = prompts(lm)
    following = torch.randint(3, 40, (4, 3, 5), generator=torch.Generator().manual_seed(2))
    following[..., 0] = lm.config.decoder_start_token_id
    said = decode(lm, lm.shared(following), encode(lm, lm.shared(ids), mask), mask)
    for k in range(3):
        expected = lm(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=following[:, k]).logits
        torch.testing.assert_close(said[:, k] @ lm.get_output_embeddings().weight.T, expected, atol=1e-5, rtol=1e-5)
    # What stands behind a position does not reach it.
    other = following.clone()
    other[..., 3:] = 5
    again = decode(lm, lm.shared(other), encode(lm, lm.shared(ids), mask), mask)
    assert torch.equal(again[:, :, :3], said[:, :, :3]) and not torch.equal(again[:, :, 3:], said[:, :, 3:])
    # Token by token they are the same.
    growing = Continuations(lm, encode(lm, lm.shared(ids), mask), mask, 3)
    for place in range(5):
        torch.testing.assert_close(growing.said, said[:, :, place], atol=1e-5, rtol=1e-5)
        if place < 4:
            growing.write(following[:, :, place + 1])


@pytest.mark.parametrize("of", [lambda lm: lm, scaled, apart], ids=["tied", "scaled", "apart"])
def test_an_extra_vocabulary_is_a_language_model_with_more_words(lm, of):
    lm = of(lm)
    extra = ExtraVocabulary(lm, 50, torch.Generator().manual_seed(0))
    known = len(lm.shared.weight)
    assert extra.first == known and (extra.input is extra.output) == (of is not apart)
    for new, old in ((extra.input, lm.shared.weight), (extra.output, lm.get_output_embeddings().weight)):
        assert new.shape == (50, 64)
        torch.testing.assert_close(new.square().mean().sqrt(), old.square().mean().sqrt(), rtol=0.05, atol=0)
    grown = copy.deepcopy(lm)
    grown.resize_token_embeddings(known + 50, mean_resizing=False)
    with torch.no_grad():
        grown.shared.weight[known:] = extra.input
        grown.get_output_embeddings().weight[known:] = extra.output
    ids, mask = prompts(lm)
    ids[:, :2] = torch.tensor([known + 3, known + 49])
    start = torch.full((4, 1), lm.config.decoder_start_token_id)
    expected = grown(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=start).logits[:, 0]
    vectors = torch.cat([lm.shared.weight, extra.input])[ids]
    head = torch.cat([lm.get_output_embeddings().weight, extra.output])
    torch.testing.assert_close(answer(lm, encode(lm, vectors, mask), mask) @ head.T, expected, atol=1e-5, rtol=1e-5)


def test_labels_are_one_token(loaded):
    assert label_token(loaded.tokenizer, "Yes") != label_token(loaded.tokenizer, "No")
    for word in ("Yes No", "unheardof\N{SNOWMAN}"):
        with pytest.raises(ValueError, match="one token"):
            label_token(loaded.tokenizer, word)


def test_adapters_start_silent_and_are_all_that_can_be_trained(lm, make_log):
    ids, mask = prompts(lm)
    before = encode(lm, lm.shared(ids), mask)
    frozen = {name: value.clone() for name, value in lm.state_dict().items()}
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q", "v"]}
    twin = copy.deepcopy(lm)
    for model in (lm, twin):
        torch.rand(1)  # the start does not hang on the global generator
        add_lora(model, Context(Catalog(make_log()), seed=3), **settings)
    assert torch.equal(encode(lm, lm.shared(ids), mask), before)
    members = lora_parameters(lm)
    # Two matrices for q and v of 2 + 2 self-attentions and 2 cross-attentions.
    assert len(members) == 2 * 2 * 6 and sum(p.numel() for p in members) == 2 * 6 * 4 * (64 + 64)
    assert {id(p) for p in lm.parameters() if p.requires_grad} == {id(p) for p in members}
    assert all(torch.equal(a, b) for a, b in zip(members, lora_parameters(twin), strict=True))
    with torch.no_grad():
        for parameter in members:
            parameter += 0.1
    assert not torch.allclose(encode(lm, lm.shared(ids), mask), before, atol=1e-3)
    kept = {name.replace(".base_layer", ""): value for name, value in lm.state_dict().items() if "lora_" not in name}
    assert kept.keys() == frozen.keys() and all(torch.equal(kept[name], frozen[name]) for name in frozen)


def test_the_scale_of_words_is_their_root_mean_square(lm):
    assert word_scale(lm.shared) == pytest.approx(float(lm.shared.weight.detach().pow(2).mean() ** 0.5))
