"""CoLLM: its stages, what each of them may change, what stands in its slots, and its table."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench.baselines.collm import PROMPT, CoLLM
from bench.data.catalog import Catalog
from bench.errors import NothingToReadError
from bench.ranker import backbone, registry
from bench.ranker.contract import Context

from .language_world import Validation, World, save_t5, scores

SHORT = {"cf_epochs": 2, "cf_dim": 8, "batch_size": 8, "epochs": 1, "text_epochs": 1, "language_epochs": 1}


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log(n_users=20, n_items=60, length=14, n_queries=8))


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory) -> str:
    return save_t5(tmp_path_factory.mktemp("t5"), world.catalog, [re.sub(r"[<{|}>\[\]]", " ", PROMPT), ","])


@pytest.fixture(scope="module")
def model(world) -> CoLLM:
    model = world.model(CoLLM, **SHORT)
    model.precompute(world.train(model))
    return model


def fitted(world, **settings) -> tuple[CoLLM, dict[str, dict[str, torch.Tensor]]]:
    """A model after two steps of each stage, and its state at the start of each of them."""
    model = world.model(CoLLM, **SHORT | {"steps_per_epoch": 2} | settings)
    states: dict[str, dict[str, torch.Tensor]] = {}
    original = model.stages

    def noted(train):
        stages = original(train)
        for stage in stages:

            def start(stage=stage, begin=stage.start):
                states[stage.name] = {name: value.clone() for name, value in model.state().items()}
                begin()

            stage.start = start
        return stages

    model.stages = noted
    model.fit(world.train(model), Validation())
    states["end"] = model.state()
    return model, states


def changed(before, after) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def of_kind(names: set[str]) -> set[str]:
    return {"lora" if "lora_" in name else name.split(".")[0] for name in names}


def test_a_pretrained_model_never_moves_and_each_stage_trains_its_own(world, folder):
    _, states = fitted(world, backbone=folder)
    assert list(states) == ["text", "fit", "end"]
    assert of_kind(changed(states["text"], states["fit"]) - {"reads_table"}) == {"lora"}
    assert of_kind(changed(states["fit"], states["end"]) - {"reads_table"}) == {"mapping"}
    fresh = backbone.load(folder, world.catalog, 0, []).model.state_dict()
    kept = {name[3:].replace(".base_layer", ""): value for name, value in states["end"].items() if name[:3] == "lm."}
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())


def test_the_second_stage_tunes_adapters_and_table_where_it_should(world, folder):
    _, states = fitted(world, backbone=folder, tune_lora=True, tune_table=True)
    after = of_kind(changed(states["fit"], states["end"]) - {"reads_table"})
    assert after == {"lora", "mapping", "user_table", "item_table"}


def test_the_model_built_here_learns_to_read_first(world):
    model, states = fitted(world)
    assert list(states) == ["language", "text", "fit", "end"]
    assert of_kind(changed(states["language"], states["text"]) - {"reads_table"}) == {"lm"}
    assert of_kind(changed(states["text"], states["fit"])) == {"lora"}
    assert bool(model.reads_table)
    alone = [stage.name for stage in world.model(CoLLM, **SHORT, collaborative=False).stages(world.train(model))]
    assert alone == ["language", "text"]


def test_the_table_counts_from_the_second_stage_on(world, model):
    batch = world.batch(model)
    try:
        for stage, reads in (("text", False), ("fit", True)):
            next(s for s in model.stages(world.train(model)) if s.name == stage).start()
            for table in (model.user_table, model.item_table):
                kept, before = table.clone(), scores(model, batch)
                table.zero_()
                after = scores(model, batch)
                table.copy_(kept)
                assert torch.equal(before, after) != reads
    finally:
        model.reads_table.fill_(True)


def test_one_position_for_each_slot_carries_the_table(world, model):
    batch = world.batch(model)
    read: dict[str, list[torch.Tensor]] = {"encoder": [], "decoder": []}
    handles = [
        model.lm.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: read["encoder"].append(kwargs["inputs_embeds"].clone()), with_kwargs=True
        ),
        model.lm.decoder.dropout.register_forward_pre_hook(
            lambda module, args: read["decoder"].append(args[0].clone())
        ),
    ]
    kept = (model.user_table.clone(), model.item_table.clone())
    scores(model, batch)
    model.user_table += 1.0
    model.item_table += 1.0
    scores(model, batch)
    for handle in handles:
        handle.remove()
    model.user_table.copy_(kept[0])
    model.item_table.copy_(kept[1])
    first, second = read["encoder"]
    assert ((first != second).any(-1).sum(1) == 1).all() and len(first) == len(batch)
    # The decoder's dropout is called on its inputs and on its outputs.
    first, second = read["decoder"][0], read["decoder"][2]
    assert ((first != second).any(-1).sum(1) == 1).all() and len(first) == batch.cand.numel()


def test_the_prompt_names_the_titles_and_ends_with_the_question(world, model):
    batch = world.batch(model)
    tokenizer = backbone.load("small-t5", world.catalog, 0, [re.sub(r"<.*?>|\{.*?\}|[|\[\]]", " ", PROMPT)]).tokenizer
    row = int(batch.rec_len.argmax())
    before, after = model.plain
    past = before(len(batch), titles=model.past(batch.rec_items, batch.rec_mask))
    liked = [str(world.catalog.item_text[i]) for i in batch.rec_items[row, : batch.rec_len[row]]]
    begin = tokenizer(f"the user liked {liked[0]}", add_special_tokens=False)["input_ids"]
    assert past.ids[row, : len(begin)].tolist() == begin
    assert int((past.ids[row] == tokenizer.convert_tokens_to_ids(",")).sum()) in (0, len(liked))
    offer = after(1, item=model.titles(batch.cand[:1, 0]))
    assert not (offer.ids == tokenizer.eos_token_id).any() and not (offer.ids < 0).any()


def test_the_loss_is_the_cross_entropy_of_yes(world, model):
    batch = world.step(model)
    model.eval()
    logits = scores(model, replace(batch, item=None, negatives=None, label=None))
    expected = F.binary_cross_entropy_with_logits(logits, batch.label)
    torch.testing.assert_close(model.loss(batch).detach(), expected)
    model._logits = lambda batch, items, collaborative: torch.zeros(items.shape)
    try:
        assert float(model.loss(batch)) == pytest.approx(0.6931, abs=1e-4)
    finally:
        del model._logits


def test_sizes_are_those_of_the_publication(world):
    model = world.model(CoLLM, **SHORT | {"cf_dim": 64})
    # Two matrices of rank 8 for q and v of each attention: 2 in the encoder, 4 in the decoder.
    assert sum(p.numel() for p in model.adapters) == 2 * 6 * 8 * (64 + 64)
    assert sum(p.numel() for p in model.mapping.parameters()) == 64 * 640 + 640 + 640 * 64 + 64


def test_the_table_is_the_one_that_gensr_builds(world):
    asked = []

    def cache(name, key, build):
        asked.append((name, key))
        shapes = {"user": 21, "item": 61, "user_ego": 21, "item_ego": 61}
        return {part: torch.ones(rows, 64) for part, rows in shapes.items()}

    for cls in (registry.get("gensr"), CoLLM):
        context = Context(world.catalog, tasks=cls.entry.tasks, backbones=backbone.load, cache=cache)
        model = cls(cls.Config(backbone="small-t5"), context)
        model.precompute(world.train(model))
    assert len(asked) == 2 and asked[0] == asked[1]


def test_items_without_text_are_refused(make_log):
    log = make_log()
    mute = replace(log, items=replace(log.items, text=None, words=None))
    with pytest.raises(NothingToReadError, match="items of random have no text"):
        CoLLM(CoLLM.Config(backbone="small-t5"), Context(Catalog(mute), tasks=("rec",), backbones=backbone.load))
