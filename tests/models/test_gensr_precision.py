"""GenSR in half precision: it trains and is validated, and answers and contrast are computed in float32."""

import math

import pytest
import torch
from torch.nn import functional as F

from bench.evaluation.scoring import RowValidation
from bench.models.gensr.model import GenSR

from .gensr_world import World, scores


class States:
    """The states from which a model's head answers while a block runs, one entry a call."""

    def __init__(self, model: GenSR):
        self.seen: list[torch.Tensor] = []
        self._model, self._read = model, model._read

    def __enter__(self) -> "States":
        def note(*given):
            self.seen.append(self._read(*given))
            return self.seen[-1]

        self._model._read = note
        return self

    def __exit__(self, *error) -> None:
        self._model._read = self._read


def half(world: World, **settings) -> GenSR:
    return world.model(amp="bf16", **settings)


@pytest.mark.parametrize("settings", [{}, {"mode": "released"}])
def test_a_half_precision_model_trains_and_is_validated(world, settings):
    model = half(world, epochs=1, max_steps=2, steps_per_epoch=2, patience=1, first_check=1, contrast=0.1, **settings)
    before = {name: value.clone() for name, value in model.state().items()}
    facts = model.fit(world.train, RowValidation(world.batches, ("rec", "search"), model.window))
    assert facts["steps"] == 2 and math.isfinite(facts["best"])
    assert all(bool(torch.isfinite(value).all()) for value in model.state().values())
    assert not torch.equal(model.state()["project.weight"], before["project.weight"])


@pytest.mark.parametrize("score_as", ["logits", "probability"])
def test_half_precision_scores_are_those_of_float32_products_of_the_answer_states(world, score_as):
    model = half(world, score_as=score_as)
    batch = world.batch(model, 40)
    with model.scoring(), States(model) as states:
        found = scores(model, batch)
    head = model.lm.get_output_embeddings().weight.detach()
    for task, read in zip((0, 1), states.seen, strict=True):
        logits = read.float() @ head.T
        expected = logits[:, model.yes] - logits[:, model.no]
        if score_as == "probability":
            expected = logits.softmax(-1)[:, model.yes]
        # The rows of a part stand in the order of their prompts' lengths.
        rows = torch.nonzero(batch.task == task).flatten()
        order = model.prompts.lengths(task, batch.query[rows]).sort(stable=True).indices
        torch.testing.assert_close(found[rows[order]].flatten(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("score_as", ["logits", "probability"])
def test_half_precision_scores_are_near_those_of_float32_within_each_list(world, score_as):
    model, plain = half(world, score_as=score_as), world.model(score_as=score_as)
    batch = world.batch(model, 40)
    with model.scoring():
        found = scores(model, batch)
    expected = scores(plain, batch)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    error = found - expected
    error = error - error.mean(1, keepdim=True)
    assert bool((error.std(1) < 0.1 * expected.std(1)).all())


def test_half_precision_scores_are_not_rounded_to_it(world):
    model = half(world)
    batch = world.batch(model, 40)
    with model.scoring():
        found = scores(model, batch)
    # Among 400 differences of rounded logits about 170 are numbers of half precision themselves.
    assert int((found == found.bfloat16().float()).sum()) < 10


@pytest.mark.parametrize("loss_over", ["vocabulary", "answers"])
def test_the_task_loss_in_half_precision_is_a_float32_likelihood(world, loss_over):
    model = half(world, loss_over=loss_over, contrast=0.0)
    batch = world.step(model)
    with torch.no_grad(), model.scoring(), States(model) as states:
        found, _ = model.loss(batch)
    head = model.lm.get_output_embeddings().weight.detach()
    total = 0.0
    for task, read in zip((0, 1), states.seen, strict=True):
        clicked = batch.label[batch.task == task].flatten() > 0
        logits = read.float() @ head.T
        if loss_over == "answers":
            logits, target = logits[:, [model.yes, model.no]], (~clicked).long()
        else:
            target = torch.where(clicked, model.yes, model.no)
        total += float(F.cross_entropy(logits, target, reduction="sum"))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(total / batch.label.numel(), rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"similarity": "normed", "contrast_of": "pooled"}])
def test_the_contrast_in_half_precision_is_that_of_float32(world, settings):
    model = half(world, contrast=0.1, temperature=0.01, **settings)
    entered = []
    model.alignment.register_forward_pre_hook(lambda module, given: entered.append(given))
    with torch.no_grad(), model.scoring():
        _, parts = model.loss(world.step(model))
    left, right, user = entered.pop()
    assert left.dtype == right.dtype == torch.float32
    with torch.no_grad():
        expected = model.alignment(left, right, user)
    assert parts["contrast"].dtype == torch.float32
    torch.testing.assert_close(parts["contrast"], expected, atol=1e-6, rtol=1e-6)
