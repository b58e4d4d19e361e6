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

from .language_world import Validation, World, save_t5, scores, stage_facts

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


def model_tokenizer(world):
    return backbone.small_tokenizer(world.catalog, [re.sub(r"<.*?>|\{.*?\}|[|\[\]]", " ", PROMPT)])


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


def inputs(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder (B, T, d) and the decoder (B * K, S, d) read of a batch, in the order of its rows."""
    read: dict[str, torch.Tensor] = {}
    handles = [
        model.lm.encoder.register_forward_pre_hook(
            lambda module, args, kwargs: read.update(encoder=kwargs["inputs_embeds"].clone()), with_kwargs=True
        ),
        # The decoder's dropout is called on its inputs and on its outputs.
        model.lm.decoder.dropout.register_forward_pre_hook(
            lambda module, args: None if "decoder" in read else read.update(decoder=args[0].clone())
        ),
    ]
    with torch.no_grad():
        model.represent(batch)
    for handle in handles:
        handle.remove()
    return read["encoder"], read["decoder"]


def test_one_position_for_each_slot_carries_the_table_where_the_prompt_has_it(world, model):
    batch = world.batch(model)
    tokenizer = model_tokenizer(world)
    kept = (model.user_table.clone(), model.item_table.clone())
    first = inputs(model, batch)
    model.user_table += 1.0
    model.item_table += 1.0
    second = inputs(model, batch)
    model.user_table.copy_(kept[0])
    model.item_table.copy_(kept[1])
    encoder, decoder = ((one != other).any(-1) for one, other in zip(first, second, strict=True))
    assert (encoder.sum(1) == 1).all() and len(encoder) == len(batch)
    assert (decoder.sum(1) == 1).all() and len(decoder) == batch.cand.numel()
    # "The user <user> liked ..." and, behind the start token, "Will <title> <item> please the user? ..."
    begin = len(tokenizer("The user", add_special_tokens=False)["input_ids"])
    assert (encoder.long().argmax(1) == begin).all()
    texts = [str(text) for text in world.catalog.item_text[batch.cand.flatten()]]
    titles = torch.tensor([len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts])
    assert titles.min() > 0 and torch.equal(decoder.long().argmax(1), 2 + titles)
    # What stands there is the mapped row of the very user and the very item.
    with torch.no_grad():
        users, items = (
            model.mapping(model.user_table[batch.user]),
            model.mapping(model.item_table[batch.cand.flatten()]),
        )
    torch.testing.assert_close(first[0][:, begin], users * model.scale)
    torch.testing.assert_close(first[1][torch.arange(len(items)), 2 + titles], items * model.scale)


def test_from_text_alone_two_items_with_exchanged_titles_exchange_their_scores(world, model):
    batch = world.batch(model)
    one, other = batch.cand[0, :2].tolist()
    exchanged = torch.arange(world.catalog.n_items + 1)
    exchanged[[one, other]] = exchanged[[other, one]]
    others = [item for item in range(1, 8) if item not in (one, other)][:5]
    batch = replace(batch, cand=torch.tensor([one, other, *others]).repeat(len(batch), 1))
    model.reads_table.fill_(False)
    try:
        before = scores(model, batch)
        kept = model.titles.ids.clone(), model.titles.lengths.clone()
        model.titles.ids.copy_(kept[0][exchanged])
        model.titles.lengths.copy_(kept[1][exchanged])
        after = scores(model, batch)
        model.titles.ids.copy_(kept[0])
        model.titles.lengths.copy_(kept[1])
    finally:
        model.reads_table.fill_(True)
    place = torch.arange(batch.cand.shape[1])
    place[:2] = torch.tensor([1, 0])
    assert ((before[:, 0] - before[:, 1]).abs() > 1e-4).all()
    torch.testing.assert_close(after, before[:, place], rtol=0, atol=1e-5)


def test_the_prompt_names_the_titles_and_ends_with_the_question(world, model):
    batch = world.batch(model)
    tokenizer = model_tokenizer(world)
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


def test_each_row_of_the_table_is_that_of_its_user_or_item(world):
    """One factor for all rows, so that inner products rank as LightGCN's do."""
    rows = {"user": world.catalog.n_users, "item": world.catalog.n_items}
    generator = torch.Generator().manual_seed(0)
    given = {
        f"{kind}{end}": torch.randn(n + 1, 8, generator=generator) for kind, n in rows.items() for end in ("", "_ego")
    }
    given["item"] *= 3.0
    for table in given.values():
        table[0] = 0
    context = Context(world.catalog, tasks=("rec",), backbones=backbone.load, cache=lambda name, key, build: given)
    model = CoLLM(CoLLM.Config(backbone="small-t5", cf_dim=8), context)
    model.precompute(world.train(model))
    read = torch.cat([model.user_table[1:], model.item_table[1:]])
    factors = read / torch.cat([given["user"][1:], given["item"][1:]])
    torch.testing.assert_close(factors, factors[:1, :1].expand_as(factors))
    assert float(factors[0, 0]) > 0 and float(read.square().mean()) == pytest.approx(1, rel=1e-4)
    assert not model.user_table[0].any() and not model.item_table[0].any()


def test_default_stages_have_the_lengths_and_rates_of_the_config(world, folder):
    model = world.model(CoLLM, backbone=folder)
    published = [("text", 20, 1e-3, 0, "mean", 32), ("fit", 50, 1e-3, 0, "mean", 32)]
    assert stage_facts(model, world.train(model)) == published
    assert stage_facts(world.model(CoLLM), world.train(world.model(CoLLM))) == [
        ("language", 5, 3e-3, 0, "last", 32),
        *published,
    ]
    for stage in model.stages(world.train(model)):
        config = stage.config
        assert (config.optimizer, config.weight_decay, config.warmup) == ("adamw", 1e-3, 200)
    settings = model.config
    assert (settings.lora_rank, settings.lora_alpha, settings.lora_dropout) == (8, 16, 0.05)
    assert (settings.cf_dim, settings.cf_layers, settings.expansion) == (64, 2, 10)


def test_items_without_text_are_refused(make_log):
    log = make_log()
    mute = replace(log, items=replace(log.items, text=None, words=None))
    with pytest.raises(NothingToReadError, match="items of random have no text"):
        CoLLM(CoLLM.Config(backbone="small-t5"), Context(Catalog(mute), tasks=("rec",), backbones=backbone.load))
