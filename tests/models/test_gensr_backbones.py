"""GenSR around other language models: saved checkpoints with heads of their own, LoRA, words that are tokens."""

import numpy as np
import pytest
import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from bench.data.catalog import Catalog
from bench.models.gensr.model import GenSR
from bench.models.gensr.texts import word_tokens, words_are_ids
from bench.ranker import backbone
from bench.ranker.contract import Context

from .gensr_world import SHORT, close, embedded, scores

SIZES = {"d_model": 64, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}


@pytest.fixture(params=["t5, head of its own", "mt5"])
def folder(request, tmp_path, world):
    """A checkpoint with its tokenizer, written as any other is."""
    tokenizer = backbone.small_tokenizer(world.catalog, world.model().wording.texts())
    torch.manual_seed(2)
    if request.param == "mt5":
        lm = MT5ForConditionalGeneration(MT5Config(vocab_size=len(tokenizer), **SIZES))
    else:
        lm = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **SIZES))
        lm.config.tie_word_embeddings = False
        lm.lm_head.weight = torch.nn.Parameter(torch.randn_like(lm.shared.weight))
    lm.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_a_checkpoint_goes_through_the_same_path(world, folder):
    model = world.model(backbone=folder)
    assert model.backbone_name == folder and model.yes != model.no
    untied = model.lm.config.model_type == "t5"
    assert (model.lm.lm_head.weight is not model.words.weight) == untied
    assert {group["lr"] for group in model.parameter_groups()} == {1e-4, 1e-3}
    batch = world.batch(model)
    part, read = embedded(model, batch, 1)
    start = torch.zeros(read[..., 0, 0].numel(), 1, dtype=torch.long)
    mask = model.prompts.plan(1, part.query).mask.repeat_interleave(read.shape[1], 0).long()
    with torch.no_grad():
        given = {"inputs_embeds": read.flatten(0, 1), "attention_mask": mask, "decoder_input_ids": start}
        logits = model.lm(**given, use_cache=False).logits[:, 0]
    close((logits[:, model.yes] - logits[:, model.no]).view(part.cand.shape), scores(model, batch)[batch.task == 1])


def test_lora_changes_nothing_at_first_and_trains_adapters_and_views_only(world):
    plain, model = world.model(), world.model(lora=2)
    batch = world.batch(model)
    close(scores(model, batch), scores(plain, batch))
    model.train()
    model.loss(world.step(model))[0].backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name for name in trained if name.startswith("lm."))
    chosen = {id(parameter) for group in model.parameter_groups() for parameter in group["params"]}
    assert chosen == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    part, read = embedded(model.eval(), batch, 0)
    start = torch.zeros(read[..., 0, 0].numel(), 1, dtype=torch.long)
    with torch.no_grad():
        logits = model.lm(inputs_embeds=read.flatten(0, 1), decoder_input_ids=start, use_cache=False).logits[:, 0]
    found = scores(model, batch)[batch.task == 0]
    close((logits[:, model.yes] - logits[:, model.no]).view(part.cand.shape), found)
    assert not torch.allclose(found, scores(plain, batch)[batch.task == 0])


class Anonymous(Catalog):
    """The small log with numbers for words, and no text."""

    item_text = property(lambda self: np.full(self.n_items + 1, "", dtype=object))
    query_text = property(lambda self: np.full(self.n_queries + 1, "", dtype=object))
    word_text = property(lambda self: np.array(["", *(str(7000 + word) for word in range(1, self.n_words + 1))]))


def test_numbers_for_words_become_tokens_of_their_own(world, folder):
    catalog = Anonymous(world.log)
    assert words_are_ids(catalog) and not words_are_ids(world.catalog)
    model = GenSR(GenSR.Config(**(SHORT | {"backbone": folder})), Context(catalog, backbones=backbone.load))
    words = np.unique(np.concatenate([catalog.item_word_lists.values, catalog.query_word_lists.values]))
    assert model.evidence()["added words"] == len(words)
    before = len(backbone.load(folder, catalog, 0, []).model.get_input_embeddings().weight)
    assert len(model.words.weight) == before + len(words)
    if model.lm.config.model_type == "t5":  # a head of its own keeps its words
        assert len(model.lm.get_output_embeddings().weight) == before
    titles = model.titles[model.titles != model.prompts.pad]
    assert (titles >= before).all()
    # The same word is the same token in an item and in a query, different words are different tokens.
    item = next(
        i for i in range(1, catalog.n_items + 1) if set(catalog.item_word_lists[i]) & set(catalog.query_word_lists[1])
    )
    shared = len(set(catalog.item_word_lists[item]) & set(catalog.query_word_lists[1]))
    plan = model.prompts.plan(1, torch.tensor([1]))
    assert len(set(plan.ids[0].tolist()) & set(model.titles[item].tolist()) - {model.prompts.pad}) == shared > 0
    spread = float(model.words.weight[before:].detach().std() / model.words.weight[:before].detach().std())
    assert spread == pytest.approx(1, abs=0.2)
    model.precompute(world.train)
    model.train()
    model.loss(world.step(model))[0].backward()
    assert model.words.weight.grad[before:].abs().sum() > 0


def test_the_small_backbone_knows_frequent_words_already_and_rare_ones_share_a_token(world):
    catalog = Anonymous(world.log)
    model = GenSR(GenSR.Config(**SHORT), Context(catalog, backbones=backbone.load))
    assert model.added_words == 0 and (model.titles != model.prompts.pad).any()
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    tokens = word_tokens(tokenizer, catalog, 500, {}, 3, 32, 32)
    assert tokens.added == 3 and set(tokens.items.values.tolist()) <= {500, 501, 502, tokenizer.unk_token_id}
    frequent = np.bincount(np.concatenate([catalog.item_word_lists.values, catalog.query_word_lists.values])).argmax()
    row = next(i for i in range(1, catalog.n_items + 1) if frequent in catalog.item_word_lists[i])
    assert 500 in tokens.items[row]
