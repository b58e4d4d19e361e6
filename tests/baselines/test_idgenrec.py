"""IDGenRec: names that are distinct and learnt, its stages, exact scores, and the beam search over all names."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import bench.testing
from bench.baselines.idgenrec.model import MISSED, NAMED, PROMPT, IDGenRec
from bench.baselines.idgenrec.names import DIGITS, distinct, diverse_beams
from bench.data.catalog import Catalog
from bench.errors import NothingToReadError, RunError
from bench.ranker import backbone
from bench.ranker.contract import Backbone, Context

from .language_world import Validation, World, save_t5, scores, stage_facts

WORDS = [PROMPT.format(items="", user=NAMED.format(user="")), ";", DIGITS]
ONE = {
    "rounds": 2, "epochs": 1, "copy_epochs": 1, "round_epochs": 1, "steps_per_epoch": 1, "batch_size": 8,
    "generator_lr": 1e-3, "beams": 3, "id_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log(n_users=20, n_items=60, length=14, n_queries=8))


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory) -> str:
    return save_t5(tmp_path_factory.mktemp("t5"), world.catalog, WORDS)


@pytest.fixture(scope="module")
def model(world) -> IDGenRec:
    return named(world)


def named(world: World, **settings) -> IDGenRec:
    model = world.model(IDGenRec, **settings)
    model.precompute(world.train(model))
    return model


def lists(model: IDGenRec) -> list[list[int]]:
    """The tokens of the items' names."""
    return [[token for token in row if token != model.pad] for row in model.item_names[1:].tolist()]


def fitted(world: World, **settings) -> dict[str, dict[str, torch.Tensor]]:
    """A model's state at the start of each of its stages, and at the end."""
    model = world.model(IDGenRec, **ONE | settings)
    states: dict[str, dict[str, torch.Tensor]] = {}
    original = model.stages

    def noted(train):
        stages = original(train)
        for stage in stages:
            stage.start = lambda stage=stage: states.update(
                {stage.name: {k: v.clone() for k, v in model.state().items()}}
            )
        return stages

    model.stages = noted
    model.fit(world.train(model), Validation())
    return states | {"end": model.state()}


@pytest.fixture(scope="module")
def rounds(world) -> dict[str, dict[str, torch.Tensor]]:
    """States of a fit whose generator moves far enough for other names."""
    return fitted(world, steps_per_epoch=3, generator_lr=1e-2)


def changed_models(before, after) -> set[str]:
    """Which of the two language models changed."""
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    return changed & {"generator", "recommender"}


def test_each_stage_trains_its_own_model_and_names_follow_the_generator(world, folder, rounds):
    for states, first in ((rounds, "copy"), (fitted(world, backbone=folder), "generator-1")):
        order = [first, "recommender-1", "generator-2", "fit", "end"]
        assert list(states) == order
        trained = [changed_models(states[a], states[b]) for a, b in itertools.pairwise(order)]
        assert trained == [{"generator"}, {"recommender"}, {"generator"}, {"recommender"}]
        for stage in ("recommender-1", "fit"):
            after = states[order[order.index(stage) + 1]]
            assert all(torch.equal(states[stage][name], after[name]) for name in ("item_names", "user_names"))


def test_each_generator_stage_leaves_the_names_that_its_generator_writes(world, rounds):
    model = named(world, **ONE)
    order = list(rounds)
    for stage in ("copy", "generator-2"):
        before, after = rounds[stage], rounds[order[order.index(stage) + 1]]
        model.load_state(after)
        model._rename()
        for table in ("item_names", "user_names"):
            assert (before[table] != after[table]).any(1).float().mean() > 0.1, "other names than before the stage"
            assert torch.equal(getattr(model, table), after[table]), "writing them once more changes nothing"


def test_the_prompt_bears_the_names_as_they_are_now(world, model):
    batch = world.batch(model)
    before = model._prompt(batch)
    row = int(batch.rec_len.argmax())
    item = int(batch.rec_items[row, batch.rec_len[row] - 1])
    clicked = (batch.rec_items.eq(item) & batch.rec_mask).any(1)
    assert clicked[row] and not clicked.all()
    kept = model.item_names.clone()
    try:
        model.item_names[item, 0] = model.item_names[item % world.catalog.n_items + 1, 0]
        after = model._prompt(batch)
    finally:
        model.item_names.copy_(kept)
    assert torch.equal((before.ids != after.ids).any(1), clicked)


def test_names_are_distinct_end_once_and_lead_through_the_trie(world, model):
    names = lists(model)
    assert len({tuple(name) for name in names}) == 60
    assert all(name[-1] == model.end and model.end not in name[:-1] and len(name) > 1 for name in names)
    trie = model._paths()
    for item, name in enumerate(names, 1):
        node = torch.zeros(1, dtype=torch.long)
        for token in name:
            arcs, _ = trie.arcs(node)
            (step,) = torch.nonzero(trie.token[arcs] == token).flatten().tolist()
            node = trie.child[arcs[step]][None]
        assert trie.item[node].tolist() == [item]
    assert int((trie.item > 0).sum()) == 60


def test_greedy_names_are_those_of_transformers(world, model):
    prompt = model._item_prompt(torch.arange(1, 9))
    greedy = diverse_beams(model.generator, prompt, model.banned, groups=1, penalty=0.0, least=1, most=7)[:, 0]
    theirs = model.generator.generate(
        input_ids=prompt.ids, attention_mask=prompt.mask.long(), max_new_tokens=7, min_new_tokens=1, do_sample=False,
        num_beams=1, suppress_tokens=torch.nonzero(model.banned).flatten().tolist(),
    )[:, 1:]  # fmt: skip
    width = theirs.shape[1]
    assert torch.equal(greedy[:, :width], theirs) and (greedy[:, width:] == model.pad).all()


def test_a_penalty_keeps_groups_apart(world, model):
    prompt = model._item_prompt(torch.arange(1, 5))
    same = diverse_beams(model.generator, prompt, model.banned, groups=4, penalty=0.0, least=3, most=5)
    apart = diverse_beams(model.generator, prompt, model.banned, groups=4, penalty=1e6, least=3, most=5)
    assert (same == same[:, :1]).all()
    assert torch.equal(same[:, 0], apart[:, 0])
    assert all(len(set(apart[row, :, step].tolist())) == 4 for row in range(4) for step in range(3))
    # One penalty for each prompt is the same as one for all.
    each = torch.tensor([[0.0], [1e6], [0.0], [1e6]])
    mixed = diverse_beams(model.generator, prompt, model.banned, groups=4, penalty=each, least=3, most=5)
    assert torch.equal(mixed[::2], same[::2]) and torch.equal(mixed[1::2], apart[1::2])


def test_the_first_free_candidate_is_taken_and_the_rest_are_numbered(world, model):
    known = world.catalog.word_text[1:4].tolist()
    first, second, third = known
    waves = [
        lambda rows: [[first, second]] * len(rows),
        lambda rows: [[f"{first}!", f"{third} ;"]] * len(rows),
    ]
    names, numbered = distinct(model.tokenizer, np.array([7, 3, 9, 4]), waves, 8)
    said = [model.tokenizer.decode(name, skip_special_tokens=True) for name in names]
    assert said == [first, second, third, f"{first} 2"] and numbered == 1


def test_scores_are_the_log_probabilities_that_transformers_gives(world, model):
    batch = world.batch(model)
    found, (tokens, real) = scores(model, batch), model._names(model.item_names, batch.cand)
    prompt = model._prompt(batch)
    for row in range(3):
        ids = prompt.ids[row][prompt.mask[row]][None]
        for place in range(3):
            labels = tokens[row, place][real[row, place]][None]
            with torch.no_grad():
                loss = model.recommender(input_ids=ids, labels=labels).loss
            assert float(found[row, place]) == pytest.approx(-float(loss) * labels.shape[1], rel=1e-4)


def test_names_share_one_probability(world, model):
    batch = world.batch(model, 60)
    assert float(scores(model, batch).double().exp().sum(1).max()) <= 1.0
    # Also where the recommender knows little but names.
    sure = world.model(IDGenRec, backbone="small-t5")
    sure.precompute(world.train(sure))
    with torch.no_grad():
        sure.recommender.lm_head.weight.mul_(20)
    assert float(scores(sure, batch).double().exp().sum(1).max()) <= 1.0 + 1e-6


def test_wide_beams_find_every_item_with_its_exact_score(world, model):
    batch = world.batch(model, 60)
    exact = scores(model, batch)
    model.config = model.config.model_copy(update={"decode": "beam", "search_beams": 60})
    try:
        torch.testing.assert_close(scores(model, batch), exact, rtol=1e-4, atol=1e-4)
        model.config = model.config.model_copy(update={"search_beams": 3})
        narrow = scores(model, batch)
        assert ((narrow > MISSED).sum(1) == 3).all()
        kept = narrow > MISSED
        torch.testing.assert_close(narrow[kept], exact[kept], rtol=1e-4, atol=1e-4)
    finally:
        model.config = model.config.model_copy(update={"decode": "exact", "search_beams": 50})


def test_the_prompt_names_the_user_and_the_clicks(world, model):
    batch = world.batch(model)
    row = int(batch.rec_len.argmax())
    prompt = model._prompt(batch)
    said = model.tokenizer.decode(prompt.ids[row][prompt.mask[row]].tolist(), skip_special_tokens=True)

    def name(table, number):
        return model.tokenizer.decode(table[number].tolist(), skip_special_tokens=True)

    clicks = " ".join(
        f"{name(model.item_names, item)} ;" for item in batch.rec_items[row, : batch.rec_len[row]].tolist()
    )
    user = name(model.user_names, int(batch.user[row]))
    assert user and said == PROMPT.format(items=clicks, user=NAMED.format(user=user)).lower()
    assert not (prompt.ids[row][:-1] == model.end)[: int(prompt.mask[row].sum()) - 1].any()


def test_sure_soft_names_are_hard_names(world):
    """Where the generator is sure of each word, the loss through soft names is that through the names themselves."""
    model = named(world, user_names=False)
    with torch.no_grad():
        model.generator.lm_head.weight.mul_(1e4)
    prompt = model._item_prompt(torch.arange(1, 61))
    greedy = diverse_beams(model.generator, prompt, model.banned, groups=1, penalty=0.0, least=1, most=10)[:, 0]
    names = torch.full_like(model.item_names, model.pad)
    for item, row in enumerate(greedy, 1):
        kept = row[~model.wordless[row]]
        names[item, : len(kept) + 1] = torch.cat([kept, torch.tensor([model.end])]).int()
    model.item_names.copy_(names)
    batch = world.step(model)
    with torch.no_grad():
        assert float(model.generator_loss(batch)) == pytest.approx(float(model.loss(batch)), rel=1e-4)


def test_users_are_named_from_their_training_clicks_alone(world, make_log):
    def user_names(changed: str) -> torch.Tensor:
        log = make_log(n_users=20, n_items=60, length=14, n_queries=8)
        rows = world.batches.split.rows(changed, "rec") if changed else np.zeros(0, dtype=np.int64)
        items = log.events.item.copy()
        items[rows] = items[rows] % 60 + 1
        return named(World(replace(log, events=replace(log.events, item=items)))).user_names

    before = user_names("")
    assert (before[1:] != 0).any(1).all()
    for held_out in ("valid", "test"):
        assert torch.equal(user_names(held_out), before)
    assert not torch.equal(user_names("train"), before)


def test_random_names_train_no_generator(world):
    model = named(world, names="random", rounds=2)
    assert [stage.name for stage in model.stages(world.train(model))] == ["recommender-1", "fit"]
    assert len({tuple(name) for name in lists(model)}) == 60
    assert not torch.equal(model.item_names, named(world).item_names)


def test_two_language_models_are_trained(world, model):
    fresh = backbone.load("small-t5", world.catalog, 0, WORDS).model
    assert sum(p.numel() for p in model.parameters()) == 2 * sum(p.numel() for p in fresh.parameters())
    assert model.evidence()["generator"] == "small-t5" and model.evidence()["numbered_names"] == 0


def test_it_has_the_parameters_of_two_t5_small(world):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = backbone.small_tokenizer(world.catalog, WORDS)

    def small_of_the_hub(name, catalog, seed, texts) -> Backbone:
        with torch.device("meta"):
            return Backbone("t5-small", T5ForConditionalGeneration(T5Config()), tokenizer)

    context = Context(world.catalog, tasks=("rec",), backbones=small_of_the_hub)
    model = IDGenRec(IDGenRec.Config(backbone="t5-small"), context)
    assert sum(p.numel() for p in model.parameters()) == 2 * 60_506_624
    groups = [stage.parameters() for stage in model.stages(world.train(model))[:2]]
    sizes = [sum(p.numel() for group in each for p in group["params"]) for each in groups]
    assert sizes == [60_506_624, 60_506_624], "each stage trains one of them"


def test_default_stages_are_three_rounds_of_the_published_lengths_and_rates(world, folder):
    model = world.model(IDGenRec, backbone=folder)
    assert len(world.train(model)) >= 64, "a batch is full"
    recommender = (10, 1e-3, 0, "last", 64)
    later = [
        ("recommender-1", *recommender), ("generator-2", 1, 1e-8, 0, "last", 12),
        ("recommender-2", *recommender), ("generator-3", 1, 1e-8, 0, "last", 12),
        ("fit", 10, 1e-3, 0, "mean", 64),
    ]  # fmt: skip
    assert stage_facts(model, world.train(model)) == [("generator-1", 1, 1e-8, 0, "last", 12), *later]
    assert stage_facts(world.model(IDGenRec), world.train(world.model(IDGenRec))) == [
        ("copy", 10, 3e-3, 1500, "last", 64),
        *later,
    ]
    for stage in model.stages(world.train(model)):
        config = stage.config
        assert (config.optimizer, config.weight_decay, config.clip) == ("adamw", 0.01, 1.0)
        assert (config.schedule, config.warmup, config.negatives) == ("linear", 200, 0)


def test_what_cannot_be_read_is_refused(world, make_log, tmp_path):
    log = make_log()
    mute = replace(log, items=replace(log.items, text=None))
    with pytest.raises(NothingToReadError, match=r"items of random have no text .* anonymised"):
        IDGenRec(IDGenRec.Config(backbone="small-t5"), Context(Catalog(mute), tasks=("rec",), backbones=backbone.load))
    other = save_t5(tmp_path / "other", world.catalog, ["others"])
    with pytest.raises(RunError, match="different words"):
        world.model(IDGenRec, generator=other)


@pytest.mark.slow
def test_two_rounds_pass_every_check():
    report = bench.testing.check("idgenrec", {"rounds": 2})
    assert report.ok, report.text()
