"""Single settings of GenSR by their values: filters, the query, idle weights, checkpointing, what helps off the plateau."""

from dataclasses import replace

import pytest
import torch

from bench.data.batch import Batch
from bench.models.gensr import reader
from bench.models.gensr.model import GenSR
from bench.models.gensr.plateau import label_entropy

from .gensr_world import close, embedded, inserted, scores, titles


def histories(model: GenSR, part: Batch):
    """For each row its real clicks, and both views of them encoded without padding."""
    merged, table = part.merged(model.config.history), titles(model)
    with torch.no_grad():
        for row in range(len(part)):
            past = merged.items[row, merged.mask[row]]
            real = torch.ones(1, len(past), dtype=torch.bool)
            cf = model.cf_view.encoder(model.cf[past][None], real)[0]
            yield row, cf, model.semantic_view.encoder(table[past][None], real)[0]


# Filters


@pytest.mark.parametrize("task", [0, 1])
def test_without_a_filter_the_first_two_vectors_are_the_means_of_the_encoded_history(world, task):
    model = world.model(filter="mean")
    batch = world.batch(model)
    batch = replace(batch, rec_len=torch.arange(len(batch)) % 3 + 1, search_len=batch.search_len * 0)
    batch = replace(batch, merged_task=batch.merged_task * 0, merged_column=torch.arange(8).expand(len(batch), -1))
    part, _ = embedded(model, batch, task)
    vectors = inserted(model, batch, task)
    assert len(set(part.merged_len.tolist())) == 3
    with torch.no_grad():
        for row, cf, semantic in histories(model, part):
            close(vectors[row, :, 0], (model.project(cf.mean(0)) * model.scale).expand(7, -1))
            close(vectors[row, :, 1], (semantic.mean(0) * model.scale).expand(7, -1))


def test_the_bilinear_filter_of_the_cf_view_is_its_formula(world):
    model = world.model(filter="bilinear")
    with torch.no_grad():
        model.cf_view.filter.weight.normal_()
    batch = world.batch(model)
    part, _ = embedded(model, batch, 0)
    vectors = inserted(model, batch, 0)
    with torch.no_grad():
        for row, cf, _ in histories(model, part):
            for place, item in enumerate(part.cand[row].tolist()):
                weights = (cf @ model.cf_view.filter.weight @ model.cf[item]).softmax(0)  # h^T W c
                pooled = (weights[:, None] * cf).sum(0)
                close(vectors[row, place, 0], model.project(pooled) * model.scale)


# The query and the idle weights


def test_without_the_query_in_the_prompt_no_query_changes_a_score(world, model):
    blind = world.model(query_in_prompt=False)
    batch = world.batch(blind)
    other = replace(batch, query=batch.query % world.catalog.n_queries + 1)
    assert torch.equal(scores(blind, other), scores(blind, batch))
    assert not torch.allclose(scores(model, other), scores(model, batch))
    assert blind.wording.segments["rec"] == model.wording.segments["rec"]
    assert blind.wording.of("search", "q3") == model.wording.of("search", "<query>")
    plans = [each.prompts.decode(each.prompts.plan(0, torch.tensor([0])), 0) for each in (blind, model)]
    assert plans[0] == plans[1]


def test_idle_weights_change_neither_scores_nor_losses(world, model):
    idle = world.model(idle_weights=True)
    more = {name for name, _ in idle.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert more and all(name.startswith("idle.") for name in more)
    batch, step = world.batch(model), world.step(model)
    assert torch.equal(scores(idle, batch), scores(model, batch))
    with torch.no_grad():
        assert torch.equal(idle.loss(step)[0], model.loss(step)[0])
        for name in more:
            idle.get_parameter(name).normal_()
        assert torch.equal(idle.loss(step)[0], model.loss(step)[0])


# Gradients


def gradients(model: GenSR, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    model.loss(batch)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_checkpointing_saves_activations_and_leaves_the_gradients(world, monkeypatch):
    calls = []

    def counted(layer, block, *given, **options):
        calls.append(block)
        return checkpoint(layer, block, *given, **options)

    checkpoint = reader.checkpoint
    monkeypatch.setattr(reader, "checkpoint", counted)
    plain, saving = (world.model(checkpointing=value, contrast=0.1).train() for value in (False, True))
    batch = world.step(plain)
    expected = gradients(plain, batch)
    assert not calls
    found = gradients(saving, batch)
    # Both layers of the encoder for the prompts of each task.
    assert calls == [*saving.lm.encoder.block] * 2 and checkpoint is torch.utils.checkpoint.checkpoint
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: name + text)
    calls.clear()
    scores(saving.eval(), batch)
    assert not calls


def test_without_a_contrast_the_gradient_of_a_batch_is_the_mean_of_its_halves(world):
    model = world.model(contrast=0.0, batch_size=64)
    batch = world.step(model)
    # Halves of unlike shares of tasks.
    order = batch.task.argsort(stable=True)
    halves = [batch.take(order[:32]), batch.take(order[32:])]
    assert len(batch) == 64 and float(halves[0].task.float().mean()) != float(halves[1].task.float().mean())
    whole, *parts = (gradients(model, each) for each in (batch, *halves))
    for name, gradient in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, gradient, atol=1e-6, rtol=1e-3)


# The plateau


@pytest.mark.parametrize(
    ("share", "relation"), [(0.9905, "is"), (1.0, "is"), (1.0095, "is"), (1.011, "is above"), (3.0, "is above")]
)
def test_the_warning_says_how_the_loss_lies_to_the_entropy_of_the_labels(world, model, share, relation):
    limit = label_entropy(4)
    loss = share * limit
    model.plateau.batches.fill_(1000)
    model.plateau.task.fill_(loss)
    found = model.evidence()
    assert found["task loss"] == pytest.approx(loss)
    assert found["warning"] == f"task loss {loss:.4f} {relation} the entropy of the labels, 0.5004: nothing was learnt"


@pytest.mark.parametrize("share", [0.9895, 0.5, 0.0])
def test_a_loss_below_the_entropy_of_the_labels_has_no_warning(world, model, share):
    model.plateau.batches.fill_(1000)
    model.plateau.task.fill_(share * label_entropy(4))
    assert model.evidence() == {"backbone": "small-t5", "task loss": pytest.approx(share * label_entropy(4))}


def test_an_untrained_model_says_nothing_of_a_loss(world):
    model = world.model(balanced_batches=2).train()
    assert model.evidence() == {"backbone": "small-t5"}
    for _ in range(2):
        model.loss(world.step(model))
    assert model.evidence() == {"backbone": "small-t5"}  # balanced batches have another entropy
    _, parts = model.loss(world.step(model))
    assert model.evidence()["task loss"] == pytest.approx(float(parts["task"].detach()))


def test_a_balanced_batch_holds_the_clicked_item_and_its_first_negative(world):
    model = world.model(balanced_batches=1).train()
    batch = world.step(model)
    inserts, likelihood, read, labels = model._inserts, model._likelihood, [], []
    model._inserts = lambda histories, cand: read.append(cand) or inserts(histories, cand)
    model._likelihood = lambda states, clicked: labels.append(clicked) or likelihood(states, clicked)
    _, parts = model.loss(batch)
    assert torch.equal(read.pop(), torch.stack([batch.item, batch.negatives[:, 0]], 1))
    assert all(torch.equal(clicked, torch.tensor([True, False]).repeat(len(clicked) // 2)) for clicked in labels)
    assert sum(map(len, labels)) == 2 * len(batch)
    labels.clear()
    model.loss(batch)
    assert torch.equal(read.pop(), batch.cand)
    assert sum(map(len, labels)) == 5 * len(batch) and float(torch.cat(labels).float().mean()) == pytest.approx(0.2)
    assert torch.isfinite(parts["task"])


def test_the_dot_feature_adds_the_product_with_the_filtered_history(world, model):
    dotted = world.model(dot_feature=True)
    with torch.no_grad():
        dotted.dot.normal_()
    batch = world.batch(model)
    for task in (0, 1):
        part, _ = embedded(dotted, batch, task)
        more = inserted(dotted, batch, task)[:, :, 2] - inserted(model, batch, task)[:, :, 2]
        with torch.no_grad():
            for row, cf, _ in histories(dotted, part):
                candidates = dotted.cf[part.cand[row]]
                real = torch.ones(1, len(cf), dtype=torch.bool)
                filtered = dotted.cf_view.filter(candidates[None], cf[None], real)[0]
                product = (filtered * candidates).sum(-1, keepdim=True) / 8
                close(more[row], product * dotted.dot * dotted.scale)
        assert (more.abs().amax(-1) > 1e-4).all()
