"""GenSR: what enters its prompts, its two losses, what is trained and what is frozen, and scoring many candidates at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError, UsageError
from bench.models.gensr import GenSR, info_nce
from bench.models.gensr_prompt import SEGMENTS, TEXTS, Prompts
from bench.ranker import backbone
from bench.ranker.contract import Context

SHORT = {"backbone": "small-t5", "cf_epochs": 2, "cf_dim": 8, "batch_size": 32, "history": 6}


class World:
    """A small log with its batches, and models on it."""

    def __init__(self, make_log):
        self.log = make_log(n_users=20, n_items=60, length=14, n_queries=8)
        self.batches = Batches(split(self.log))
        self.catalog = Catalog(self.log)
        self.train = TrainData(self.batches, ("rec", "search"), 0)

    def model(self, context: Context | None = None, **settings) -> GenSR:
        torch.manual_seed(0)
        model = GenSR(
            GenSR.Config(**(SHORT | settings)), context or Context(self.catalog, seed=0, backbones=backbone.load)
        )
        model.precompute(self.train)
        return model.eval()

    def batch(self, model: GenSR, candidates: int = 7) -> Batch:
        rows = np.concatenate([self.batches.split.rows("test", task)[:5] for task in ("rec", "search")])
        rng = np.random.default_rng(0)
        cand = np.stack([rng.permutation(60)[:candidates] + 1 for _ in rows])
        return self.batches.rows(rows, cand, model.window)

    def step(self, model: GenSR) -> Batch:
        return next(model.batches(self.train, 0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture(scope="module")
def model(world) -> GenSR:
    return world.model()


@pytest.fixture
def batch(world, model) -> Batch:
    return world.batch(model)


@torch.no_grad()
def scores(model: GenSR, batch: Batch) -> torch.Tensor:
    return model.score(batch)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


# What is read


def test_the_query_changes_search_scores_and_no_rec_score(model, batch, world):
    other = replace(batch, query=batch.query % world.catalog.n_queries + 1)
    before, after = scores(model, batch), scores(model, other)
    search = batch.task == 1
    assert ((before - after).abs().amax(1)[search] > 1e-4).all()
    assert torch.equal(before[~search], after[~search])


def test_user_id_and_order_of_equal_rows_do_not_matter_but_history_does(model, batch):
    assert torch.equal(scores(model, replace(batch, user=batch.user * 0 + 1)), scores(model, batch))
    shorter = replace(batch, rec_len=batch.rec_len * 0, search_len=batch.search_len * 0)
    assert not torch.allclose(scores(model, shorter), scores(model, batch))
    assert torch.isfinite(scores(model, shorter)).all()


@pytest.mark.parametrize("positions", [True, False])
def test_order_of_the_history_counts_with_positions_only(world, positions):
    model = world.model(positions=positions)
    batch = world.batch(model)
    backwards = replace(
        batch,
        merged_task=_reversed(batch.merged_task, batch.merged_len),
        merged_column=_reversed(batch.merged_column, batch.merged_len),
    )
    # As many clicks as the window holds, so that the same ones are read in both orders.
    model.config.history = batch.merged_task.shape[1]
    if positions:
        model.cf_view.position = torch.nn.Embedding.from_pretrained(torch.randn(model.config.history, 8))
        model.semantic_view.position = torch.nn.Embedding.from_pretrained(torch.randn(model.config.history, 64))
    forth, back = scores(model, batch), scores(model, backwards)
    if positions:
        assert ((forth - back).abs().amax(1) > 1e-4).all()
    else:
        close(forth, back)


def _reversed(x: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    place = torch.arange(x.shape[1])
    return x.gather(1, torch.where(place < length[:, None], length[:, None] - 1 - place, place))


def test_padding_positions_never_matter(model, batch):
    junk = replace(
        batch,
        rec_items=torch.where(batch.rec_mask, batch.rec_items, 9),
        search_items=torch.where(batch.search_mask[..., None], batch.search_items, 11),
        merged_task=torch.where(batch.merged_mask, batch.merged_task, 1),
        merged_column=torch.where(batch.merged_mask, batch.merged_column, 3),
    )
    assert torch.equal(scores(model, junk), scores(model, batch))


def test_only_the_last_clicks_are_read(world, model, batch):
    longer = world.batch(model)
    assert int(longer.merged_len.max()) > model.config.history
    rows, first = torch.arange(len(batch)), torch.zeros(len(batch), dtype=torch.long)
    kind, index = batch.merged_task[rows, first], batch.merged_column[rows, first]
    changed = batch.rec_items.clone()
    changed[rows[kind == 0], index[kind == 0]] = 33
    full = batch.merged_len > model.config.history
    assert torch.equal(scores(model, replace(batch, rec_items=changed))[full], scores(model, batch)[full])


# Prompts


def test_the_two_prompts_have_five_segments_each_and_differ(model):
    assert set(SEGMENTS) == {"rec", "search"}
    for segments in SEGMENTS.values():
        assert len(segments) == 5 and all(text.strip() for text in segments)
    assert SEGMENTS["rec"][0] != SEGMENTS["search"][0]
    assert not any("query" in text for text in SEGMENTS["rec"])


def test_tokens_of_the_prompts_are_their_segments_with_the_query_verbatim(model, world):
    query = torch.arange(1, world.catalog.n_queries + 1)
    for task, name in ((0, "rec"), (1, "search")):
        plan = model.prompts.plan(task, query)
        for row, number in enumerate(query.tolist()):
            wanted = model.prompts.segments(task, number)
            text = str(world.catalog.query_text[number])
            assert (text in " ".join(wanted)) == (name == "search")
            assert not any(mark in " ".join(wanted) for mark in "<>{}")
            # The small tokenizer is lower case and writes no space before a question mark.
            assert model.prompts.decode(plan, row) == [part.lower() for part in wanted]


def test_inserts_stand_between_the_segments_and_the_mask_covers_all(model):
    plan = model.prompts.plan(1, torch.tensor([1, 2, 3]))
    assert plan.inserts.shape == (3, 4)
    assert (plan.inserts.diff(dim=1) > 1).all() and (plan.inserts[:, 0] > 0).all()
    tokens = (plan.ids != model.prompts.pad) & plan.mask
    assert torch.equal(plan.mask.sum(1), tokens.sum(1) + 4)
    assert not tokens.gather(1, plan.inserts).any()
    assert (plan.ids.gather(1, plan.mask.sum(1, keepdim=True) - 1) == 1).all()  # closed by the end-of-text token


def test_queries_of_different_lengths_are_padded_on_the_right_and_cut_at_the_limit(model):
    tokenizer = model.context.backbone("small-t5", TEXTS).tokenizer
    prompts = Prompts(tokenizer, ["", "q1", "q2 q3 q4", "q1 " * 20], limit=5)
    plan = prompts.plan(1, torch.tensor([1, 2, 3]))
    assert plan.mask.sum(1).diff().tolist() == [2, 2]
    assert torch.equal(plan.mask, plan.mask.sort(dim=1, descending=True).values)
    assert (plan.ids[~plan.mask] == prompts.pad).all()
    assert plan.inserts[:, 2].diff().tolist() == [2, 2] and plan.inserts[:, 0].diff().tolist() == [0, 0]
    assert [prompts.decode(plan, row)[2] for row in (0, 1)] == ["for q1 with item", "for q2 q3 q4 with item"]


def test_the_four_vectors_are_what_the_language_model_gets(model, batch):
    seen = {}
    handle = model.lm.encoder.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    with torch.no_grad():
        part = batch.take(batch.task == 1)
        _, inserts = model._inserts(part)
        plan = model.prompts.plan(1, part.query)
        model._answer(plan, inserts)
    handle.remove()
    embedded = seen["inputs_embeds"].unflatten(0, part.cand.shape)
    rows = torch.arange(len(part))
    for number in range(4):
        assert torch.equal(embedded[rows, :, plan.inserts[:, number]], inserts[:, :, number])
    words = torch.ones_like(plan.mask).scatter(1, plan.inserts, False)
    for candidate in (0, 3):
        assert torch.equal(embedded[:, candidate][words], model.words(plan.ids)[words])


def test_the_semantic_vector_of_an_item_is_the_mean_of_its_first_words(model, world):
    tokenizer = model.context.backbone("small-t5", TEXTS).tokenizer
    ids = tokenizer(str(world.catalog.item_text[5]), add_special_tokens=False)["input_ids"]
    close(model._title(torch.tensor([[5, 0]]))[0], torch.stack([model.words.weight[ids].mean(0), torch.zeros(64)]))
    short = world.model(title_tokens=1)
    close(short._title(torch.tensor([[5]]))[0, 0], short.words.weight[ids[0]])


def test_yes_and_no_are_single_different_tokens(model):
    assert model.yes != model.no
    vocabulary = model.context.backbone("small-t5", TEXTS).tokenizer.convert_ids_to_tokens([model.yes, model.no])
    assert vocabulary == ["yes", "no"]


def test_a_backbone_that_cuts_the_labels_is_refused(world):
    def other(name, catalog, seed, texts):
        return backbone.load(
            "small-t5", catalog, seed, [text for text in texts if text not in ("Yes", "No", "? Yes or No")]
        )

    with pytest.raises(RunError, match="'Yes' is 3 tokens"):
        GenSR(GenSR.Config(**SHORT), Context(world.catalog, backbones=other))


def test_auto_must_have_been_resolved(world):
    assert GenSR.Config().backbone == "auto"
    with pytest.raises(UsageError, match="auto"):
        GenSR(GenSR.Config(), Context(world.catalog, backbones=backbone.load))


def test_evidence_names_the_backbone(model):
    assert model.evidence()["backbone"] == "small-t5"


# Losses


def test_lambda_weighs_the_contrast_and_zero_leaves_the_task_alone(world):
    with_it, without = world.model(contrast=0.3), world.model(contrast=0.0)
    batch = world.step(with_it)
    with torch.no_grad():
        total, parts = with_it.loss(batch)
        alone, only = without.loss(batch)
    assert set(parts) == {"task", "contrast"} and parts["contrast"] > 0
    torch.testing.assert_close(total - parts["task"], 0.3 * parts["contrast"])
    assert torch.equal(alone, only["task"]) and torch.equal(alone, parts["task"])


def test_the_task_loss_is_the_likelihood_of_one_token_over_the_whole_vocabulary(model, world):
    batch = world.step(model)
    with torch.no_grad():
        _, parts = model.loss(batch)
        expected = []
        for row in range(len(batch)):
            one = batch.take(torch.tensor([row]))
            _, inserts = model._inserts(one)
            chance = model._answer(model.prompts.plan(int(one.task), one.query), inserts).log_softmax(-1)
            assert chance.shape == (5, len(model.words.weight))
            expected += [-chance[k, model.yes if one.label[0, k] else model.no] for k in range(5)]
    torch.testing.assert_close(parts["task"], torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


def test_a_constant_answer_at_the_base_rate_costs_its_entropy(model, world, monkeypatch):
    vocabulary = len(model.words.weight)

    def constant(prompt, inserts):
        logits = torch.full((inserts.shape[0] * inserts.shape[1], vocabulary), -1e9)
        logits[:, model.yes], logits[:, model.no] = math.log(0.2), math.log(0.8)
        return logits

    monkeypatch.setattr(model, "_answer", constant)
    with torch.no_grad():
        _, parts = model.loss(world.step(model))
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert float(parts["task"]) == pytest.approx(entropy, abs=1e-5) == pytest.approx(0.5004, abs=1e-4)


def test_contrast_closed_forms():
    generator = torch.Generator().manual_seed(0)
    users = torch.arange(200)
    left, right = (torch.randn(200, 64, generator=generator) for _ in range(2))
    # Far apart and equal: the partner takes all of the probability.
    assert float(info_nce(torch.eye(200), torch.eye(200), users, 0.05)) < 1e-6
    # Without any relation, and at a temperature that leaves little variance: ln B.
    assert float(info_nce(left, right, users, 1.0)) == pytest.approx(math.log(200), abs=0.05)
    assert float(info_nce(left, right, users, 0.3)) == pytest.approx(math.log(200), abs=0.3)
    torch.testing.assert_close(info_nce(left, right, users, 0.1), info_nce(right, left, users, 0.1))
    torch.testing.assert_close(info_nce(7 * left, 0.1 * right, users, 0.1), info_nce(left, right, users, 0.1))
    # Twice the temperature is half the logits.
    logits = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.1
    both = F.cross_entropy(logits / 2, users) + F.cross_entropy(logits.T / 2, users)
    torch.testing.assert_close(info_nce(left, right, users, 0.2), both / 2)


def test_contrast_counts_no_row_of_the_same_user_and_no_empty_history_as_negative():
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(4, 8, generator=generator) for _ in range(2))
    users = torch.tensor([1, 2, 3, 1])

    def one(rows):
        row, rest = rows[0], torch.tensor(rows)
        forth = F.normalize(left, dim=1)[row] @ F.normalize(right, dim=1)[rest].T / 0.2
        back = F.normalize(right, dim=1)[row] @ F.normalize(left, dim=1)[rest].T / 0.2
        return -(forth.log_softmax(0)[0] + back.log_softmax(0)[0]) / 2

    expected = torch.stack([one([0, 1, 2]), one([1, 0, 2, 3]), one([2, 0, 1, 3]), one([3, 1, 2])]).mean()
    torch.testing.assert_close(info_nce(left, right, users, 0.2), expected)
    padded = [torch.cat([view, torch.zeros(2, 8)]) for view in (left, right)]
    torch.testing.assert_close(info_nce(*padded, torch.tensor([1, 2, 3, 1, 8, 9]), 0.2), expected)
    assert float(info_nce(torch.zeros(2, 8), torch.zeros(2, 8), users[:2], 0.2)) == 0


# What is trained


def test_a_step_trains_everything_but_the_cf_table(world):
    model = world.model(contrast=0.1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.1)
    loss, _ = model.loss(world.step(model))
    loss.backward()
    # A single decoded position attends to itself with weight 1 whatever its query, key and relative bias are.
    idle = {
        name
        for name, _ in model.named_parameters()
        if "decoder" in name and "SelfAttention" in name and ".v." not in name and ".o." not in name
    }
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == (name not in idle), name
    optimizer.step()
    after = model.state_dict()
    assert torch.equal(after["cf"], before["cf"]) and not after["cf"][0].any() and after["cf"][1:].any()
    for name in (
        "lm.encoder.block.0.layer.0.SelfAttention.q.weight",
        "lm.shared.weight",
        "lm.decoder.block.1.layer.2.DenseReluDense.wo.weight",
    ):
        assert not torch.equal(after[name], before[name])


def test_the_cf_table_comes_from_rec_training_clicks_through_the_cache(world):
    asked = []

    def cache(name, key, build):
        asked.append((name, key))
        return build()

    context = Context(world.catalog, seed=4, cache=cache, backbones=backbone.load)
    model = world.model(context, cf_lr=0.02)
    ((name, key),) = asked
    assert (
        name == "lightgcn"
        and "seed=4" in key
        and "cf_lr=0.02" in key
        and "cf_epochs=2" in key
        and "cf_table" not in key
    )
    from bench.ranker.blocks.graph import train_table

    clicks = world.train.arrays("rec")
    tables = train_table(clicks["user"], clicks["item"], 20, 60, 8, 2, 2, 0.02, 1e-4, context.generator("lightgcn"))
    plain = world.model(context, cf_lr=0.02, match_norm=False)
    assert torch.equal(plain.cf, tables["item"])
    assert torch.equal(world.model(context, cf_lr=0.02, match_norm=False, cf_table="ego").cf, tables["item_ego"])
    # With matched norms the table is that one times a number.
    ratio = model.cf[1:] / plain.cf[1:]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    assert float(model.cf[1:].square().mean()) == pytest.approx(1)


def test_matched_norms_put_inserted_vectors_on_the_scale_of_words(world):
    def sizes(factor: float, **settings) -> torch.Tensor:
        """Mean norms of c_hat, s_hat, e_i, t_i where word embeddings are `factor` times their usual size."""

        def scaled(name, catalog, seed, texts):
            loaded = backbone.load(name, catalog, seed, texts)
            with torch.no_grad():
                loaded.model.shared.weight.mul_(factor)
            return loaded

        model = world.model(Context(world.catalog, seed=0, backbones=scaled), **settings)
        with torch.no_grad():
            return model._inserts(world.batch(model))[1].norm(dim=-1).mean((0, 1))

    word = float(world.model().words.weight[3:].detach().norm(dim=1).mean())
    matched = sizes(1.0)
    assert (matched > word / 5).all() and (matched < word * 5).all()
    # All four follow the words. Otherwise only t_i, which is made of them, does.
    close(sizes(20.0), 20 * matched)
    plain, larger = sizes(1.0, match_norm=False), sizes(20.0, match_norm=False)
    torch.testing.assert_close(larger[[0, 2]], plain[[0, 2]])
    assert float(larger[1]) < 2 * float(plain[1])


def test_learning_rates_tell_pretrained_from_new_weights(world):
    small = world.model(lr=1e-4, lr_new=1e-3, weight_decay=0.01)
    assert {group["lr"] for group in small.parameter_groups()} == {1e-3}
    small.backbone_name = "some/pretrained-t5"
    groups = {id(p): group for group in small.parameter_groups() for p in group["params"]}
    assert len(groups) == len(list(small.parameters()))
    assert groups[id(small.words.weight)]["lr"] == 1e-4 and groups[id(small.project.weight)]["lr"] == 1e-3
    assert (
        groups[id(small.project.weight)]["weight_decay"] == 0.01 and groups[id(small.project.bias)]["weight_decay"] == 0
    )


# Scoring


def test_candidates_scored_together_alone_and_in_another_order_agree(model, batch):
    together = scores(model, batch)
    alone = torch.cat([scores(model, replace(batch, cand=batch.cand[:, k : k + 1])) for k in range(7)], 1)
    close(alone, together)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    close(scores(model, replace(batch, cand=batch.cand[:, order])), together[:, order])


def test_a_row_alone_scores_as_in_a_batch(model, batch):
    alone = torch.cat([scores(model, batch.take(torch.tensor([row]))) for row in range(len(batch))])
    close(alone, scores(model, batch))


def test_scores_do_not_depend_on_how_prompts_are_cut_into_chunks(model, batch, monkeypatch):
    whole = scores(model, batch)
    monkeypatch.setattr("bench.models.gensr._CHUNK", 7)
    close(scores(model, batch), whole)


def test_the_score_is_the_difference_of_two_logits_of_generation(model, batch):
    """The same as one step of transformers' own generation loop."""
    part = batch.take(batch.task == 0)
    with torch.no_grad():
        _, inserts = model._inserts(part)
        plan = model.prompts.plan(0, part.query)
        text = model.words(plan.ids)[:, None].expand(-1, 7, -1, -1).clone()
        for row in range(len(part)):
            text[row, :, plan.inserts[row]] = inserts[row]
        out = model.lm.generate(
            inputs_embeds=text.flatten(0, 1), attention_mask=torch.ones(text.flatten(0, 1).shape[:2], dtype=torch.long),
            max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = out.logits[0]
    close((logits[:, model.yes] - logits[:, model.no]).view(len(part), 7), scores(model, part))


def test_a_saved_state_scores_alike_in_a_fresh_object(world, model, batch):
    torch.manual_seed(99)
    fresh = GenSR(GenSR.Config(**SHORT), Context(world.catalog, seed=0, backbones=backbone.load))
    fresh.load_state({name: value.clone() for name, value in model.state().items()})
    fresh.eval()
    assert torch.equal(scores(fresh, batch), scores(model, batch))


def test_training_without_rec_clicks_is_refused(make_log):
    log = make_log()
    batches = Batches(split(log))
    train = TrainData(batches, ("rec", "search"), 0)
    train.arrays = lambda task=None: {"user": np.zeros(0, dtype=np.int32), "item": np.zeros(0, dtype=np.int32)}
    model = GenSR(GenSR.Config(**SHORT), Context(Catalog(log), backbones=backbone.load))
    with pytest.raises(RunError, match="recommendation clicks"):
        model.precompute(train)
