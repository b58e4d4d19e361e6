"""GenSR: what enters its prompts, its two losses, what is trained and what is frozen, and scoring many candidates at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.models.gensr.model import GenSR
from bench.ranker import backbone
from bench.ranker.contract import Context

from .gensr_world import SHORT, Seen, close, embedded, inserted, scores

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
        model.cf_view.encoder.position = torch.nn.Embedding.from_pretrained(torch.randn(model.config.history, 8))
        model.semantic_view.encoder.position = torch.nn.Embedding.from_pretrained(torch.randn(model.config.history, 64))
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
    with torch.no_grad(), Seen(model) as seen:
        _, parts = model.loss(batch)
    answers = torch.where(batch.label > 0, model.yes, model.no)
    expected = []
    # One call per task; each row's candidates stand together.
    for task, logits in zip((0, 1), seen.logits, strict=True):
        assert logits.shape[1] == len(model.words.weight)
        labels = answers[batch.task == task].flatten()
        expected.append(-logits.log_softmax(-1).gather(1, labels[:, None]))
    torch.testing.assert_close(parts["task"], torch.cat(expected).mean(), atol=1e-5, rtol=1e-5)


def test_a_constant_answer_at_the_base_rate_costs_its_entropy(model, world, monkeypatch):
    vocabulary = len(model.words.weight)

    def constant(states):
        logits = torch.full((len(states), vocabulary), -1e9)
        logits[:, model.yes], logits[:, model.no] = math.log(0.2), math.log(0.8)
        return logits

    monkeypatch.setattr(model.lm, "get_output_embeddings", lambda: constant)
    with torch.no_grad():
        _, parts = model.loss(world.step(model))
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert float(parts["task"]) == pytest.approx(entropy, abs=1e-5) == pytest.approx(0.5004, abs=1e-4)


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
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name not in idle), name
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
    assert name == "lightgcn" and "table" not in key
    assert all(setting in key for setting in ("seed=4", "lr=0.02", "epochs=2"))
    from bench.ranker.blocks.graph import TableConfig, click_table

    settings = TableConfig(dim=8, epochs=2, lr=0.02)
    tables = click_table(context, world.train, settings)
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
        batch = world.batch(model)
        return torch.cat([inserted(model, batch, task) for task in (0, 1)]).norm(dim=-1).mean((0, 1))

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


def test_many_candidates_are_scored_in_several_calls_and_alike(model, batch, monkeypatch):
    monkeypatch.setattr(model.config, "scoring_mb", 2)
    rng = np.random.default_rng(1)
    many = replace(batch, cand=torch.from_numpy(rng.integers(1, 61, (len(batch), 400))))
    with Seen(model) as seen:
        together = scores(model, many)
    assert len(seen.inputs) > 2 and max(map(len, seen.inputs)) < many.cand.numel()
    for columns in torch.arange(400).split(100)[:2]:
        close(scores(model, replace(many, cand=many.cand[:, columns])), together[:, columns])


def test_the_score_is_the_difference_of_two_logits_of_generation(model, batch):
    """The same as one step of transformers' own generation loop."""
    part, read = embedded(model, batch, 0)
    flat = read.flatten(0, 1)
    with torch.no_grad():
        out = model.lm.generate(
            inputs_embeds=flat, attention_mask=torch.ones(flat.shape[:2], dtype=torch.long),
            max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    logits = out.logits[0]
    close((logits[:, model.yes] - logits[:, model.no]).view(part.cand.shape), scores(model, part))


def test_a_saved_state_scores_alike_in_a_fresh_object(world, model, batch):
    torch.manual_seed(99)
    fresh = GenSR(GenSR.Config(**SHORT), Context(world.catalog, seed=0, backbones=backbone.load))
    fresh.load_state({name: value.clone() for name, value in model.state().items()})
    fresh.eval()
    assert torch.equal(scores(fresh, batch), scores(model, batch))


def test_training_without_rec_clicks_is_refused(make_log):
    log = make_log(only=1)
    train = TrainData(Batches(split(log)), ("rec", "search"), 0)
    model = GenSR(GenSR.Config(**SHORT), Context(Catalog(log), backbones=backbone.load))
    with pytest.raises(RunError, match="recommendation clicks"):
        model.precompute(train)
