"""BSR: what its prompts hold, its new tokens, its losses in closed form, and the two ways to decode."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import T5ForConditionalGeneration

from bench.baselines.bsr import BSR, MISSED, TEXTS
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.errors import NothingToReadError
from bench.evaluation.candidates import draw
from bench.evaluation.scoring import rank
from bench.ranker import backbone
from bench.ranker.contract import Context

from .language_world import Validation, World, save_t5, scores


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log(n_users=20, n_items=60, length=14, n_queries=8))


@pytest.fixture(scope="module")
def model(world) -> BSR:
    return world.model(BSR)


@pytest.fixture
def batch(world, model):
    return world.batch(model)


def test_a_search_is_its_query_and_a_recommendation_its_clicks(world, model, batch):
    search, before = batch.task == 1, scores(model, batch)
    rec = ~search & (batch.rec_len > 0)
    assert torch.equal(scores(model, replace(batch, query=batch.query % 8 + 1))[~search], before[~search])
    shorter = scores(model, replace(batch, rec_len=(batch.rec_len - 1).clamp(min=0)))
    assert torch.equal(shorter[search], before[search]) and (shorter[rec] != before[rec]).any(1).all()
    # Two users with the same query get the same scores.
    same = batch.take(torch.nonzero(search).flatten())
    same = replace(same, query=same.query[:1].expand(5), cand=same.cand[:1].expand(5, -1))
    assert (scores(model, same) - scores(model, same)[:1]).abs().max() < 1e-5


def test_the_language_model_reads_clicks_oldest_first_and_the_words_of_the_query(world, model, batch):
    seen = []
    handle = model.lm.encoder.register_forward_hook(
        lambda module, args, kwargs, out: seen.append((kwargs["inputs_embeds"], kwargs["attention_mask"])),
        with_kwargs=True,
    )
    scores(model, batch)
    handle.remove()
    tokenizer = backbone.load("small-t5", world.catalog, 0, list(TEXTS.values())).tokenizer
    words, end = model.lm.shared.weight, tokenizer.eos_token_id
    for (vectors, mask), task in zip(seen, (0, 1), strict=True):
        for row, number in enumerate(torch.nonzero(batch.task == task).flatten()):
            if task == 0:
                start = tokenizer("Recommend an item after", add_special_tokens=False)["input_ids"]
                clicks = batch.rec_items[number, : batch.rec_len[number]]
                expected = torch.cat([words[start], model.items.input[clicks - 1], words[[end]]])
            else:
                text = f"Search an item for {world.catalog.query_text[int(batch.query[number])]}"
                expected = words[[*tokenizer(text, add_special_tokens=False)["input_ids"], end]]
            real = len(vectors[row]) if mask is None else int(mask[row].sum())
            assert torch.equal(vectors[row, :real], expected)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_item_is_one_new_token(world, model):
    old = len(model.lm.shared.weight)
    fresh = backbone.load("small-t5", world.catalog, 0, list(TEXTS.values())).model
    assert old == len(fresh.shared.weight)
    assert size(model) == size(fresh) + 60 * 64  # one table for input and output


@pytest.mark.parametrize("softmax", ["vocabulary", "items", "sampled"])
def test_the_loss_is_the_cross_entropy_of_the_clicked_item(world, softmax):
    model = world.model(BSR, softmax=softmax, negatives=4 if softmax == "sampled" else 0, batch_size=32)
    batch = world.step(model)
    everything = replace(batch, cand=torch.arange(1, 61).expand(len(batch), -1), label=None, item=None)
    logits = model.score(everything)
    if softmax == "vocabulary":
        words = model.answers(batch) @ model.lm.lm_head.weight.T
        expected = F.cross_entropy(torch.cat([logits, words], 1), batch.item - 1)
    elif softmax == "items":
        expected = F.cross_entropy(logits, batch.item - 1)
    else:
        some = torch.cat([batch.item[:, None], batch.negatives], 1)
        expected = F.cross_entropy(logits.gather(1, some - 1), torch.zeros(len(batch), dtype=torch.long))
    torch.testing.assert_close(model.loss(batch), expected)


def test_new_tokens_learn_from_both_tasks(world):
    model = world.model(BSR, softmax="sampled", negatives=2, batch_size=6)
    batch = world.step(model)
    for task in (0, 1):
        model.zero_grad()
        part = batch.take(batch.task == task)
        model.loss(part).backward()
        learnt = set((torch.nonzero(model.items.output.grad.abs().sum(1)).flatten() + 1).tolist())
        said = {*part.item.tolist(), *part.negatives.flatten().tolist()}
        assert learnt == said | (set(part.rec_items[part.rec_mask].tolist()) if task == 0 else set())


def test_wide_beams_rank_the_catalogue_as_exact_scores_do(world, model):
    parts = split(world.log)
    full, ranks = draw(parts, "test", ("rec", "search"), "full", 0), {}
    for decode, beams in (("exact", 1), ("beam", 60), ("beam", 7)):
        model.config = model.config.model_copy(update={"decode": decode, "beams": beams})
        ranks[decode, beams] = rank(model, world.batches, full, model.window)
    few = world.batch(model, 60)
    found = scores(model, few) > MISSED
    model.config = model.config.model_copy(update={"decode": "exact"})
    exact = scores(model, few)
    assert np.array_equal(ranks["exact", 1].better, ranks["beam", 60].better)
    # Seven beams find the seven best; the others tie.
    assert (found.sum(1) == 7).all()
    assert torch.equal(found, exact >= exact.topk(7).values[:, -1:])
    narrow, wide = ranks["beam", 7], ranks["exact", 1]
    assert (narrow.tied > 0).any() and (narrow.better <= wide.better).all()
    assert np.array_equal(narrow.better[narrow.tied == 0], wide.better[narrow.tied == 0])


def apart(folder: str) -> T5ForConditionalGeneration:
    """Gives the checkpoint in a folder an output head of its own, as flan-t5 has one; T5's constructor always ties it."""
    lm = T5ForConditionalGeneration.from_pretrained(folder)
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = nn.Parameter(torch.randn(lm.shared.weight.shape, generator=torch.Generator().manual_seed(3)))
    lm.save_pretrained(folder)
    return lm


@pytest.mark.parametrize("tied", [True, False])
def test_a_pretrained_t5_of_a_folder_is_trained(world, tmp_path, tied):
    folder = save_t5(tmp_path / "t5", world.catalog, list(TEXTS.values()))
    fresh = T5ForConditionalGeneration.from_pretrained(folder) if tied else apart(folder)
    model = world.model(BSR, backbone=folder, batch_size=32, epochs=1, steps_per_epoch=2)
    assert model.evidence()["backbone"] == folder and model.items.input.shape == (60, 32)
    # A row for each item in the word table, and one in the output head where that is a table of its own.
    assert (model.items.output is model.items.input) == tied
    assert size(model) == size(fresh) + (1 if tied else 2) * 60 * 32
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.fit(world.train(model), Validation())
    learnt = {"lm.shared.weight", "items.input"} | (set() if tied else {"lm.lm_head.weight", "items.output"})
    assert learnt <= {name for name, value in model.named_parameters() if (value != before[name]).any()}
    assert torch.isfinite(scores(model, world.batch(model))).all()


@torch.no_grad()
def test_a_head_that_is_apart_scores_with_its_own_rows_and_prompts_hold_those_of_the_input(world, tmp_path):
    folder = save_t5(tmp_path / "t5", world.catalog, list(TEXTS.values()))
    apart(folder)
    model = world.model(BSR, backbone=folder, batch_size=32)
    batch, step = world.batch(model), world.step(model)
    answers, before, new, old = model.answers(batch), scores(model, batch), model.items.output, model.lm.lm_head.weight
    torch.testing.assert_close(before, torch.einsum("bd,bkd->bk", answers, new[batch.cand - 1]))
    tokens, hidden, _ = model.represent(batch)
    assert torch.equal(tokens[..., 32:], model.items.input[batch.cand - 1])
    torch.testing.assert_close(hidden.sum(-1), before)
    for softmax, head in (("vocabulary", torch.cat([new, old])), ("items", new)):
        model.config = model.config.model_copy(update={"softmax": softmax})
        expected = F.cross_entropy(model.answers(step) @ head.T, step.item - 1)
        torch.testing.assert_close(model.loss(step), expected)
    model.config = model.config.model_copy(update={"decode": "beam", "beams": 60})
    expected = (answers @ new.T).log_softmax(1).gather(1, batch.cand - 1)
    torch.testing.assert_close(scores(model, batch), expected)
    model.config = model.config.model_copy(update={"decode": "exact"})
    model.items.output += 1
    assert torch.equal(model.answers(batch), answers) and (scores(model, batch) != before).any(1).all()
    model.items.output -= 1
    model.items.input += 1
    moved = (model.answers(batch) != answers).any(1)
    assert moved.tolist() == ((batch.task == 0) & (batch.rec_len > 0)).tolist() and moved.any()


def test_what_cannot_be_read_or_drawn_is_said(make_log):
    with pytest.raises(ValueError, match="negatives"):
        BSR.Config(softmax="sampled")
    log = make_log()
    mute = replace(log, queries=replace(log.queries, text=None, words=None))
    for tasks in (("rec", "search"), ("rec",)):
        context = Context(Catalog(mute), tasks=tasks, backbones=backbone.load)
        if "search" in tasks:
            with pytest.raises(NothingToReadError, match="queries of random have no words"):
                BSR(BSR.Config(backbone="small-t5"), context)
        else:
            BSR(BSR.Config(backbone="small-t5"), context)
