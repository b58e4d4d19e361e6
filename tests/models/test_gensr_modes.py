"""The two readings of GenSR and each difference between them: what is read, what is trained, what is counted."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from bench.models.gensr.config import RELEASED
from bench.models.gensr.model import GenSR
from bench.models.gensr.plateau import label_entropy
from bench.ranker import backbone
from bench.ranker.contract import Backbone, Context

from .gensr_world import close, embedded, inserted, scores

IDLE = ("q", "k", "relative_attention_bias")


@pytest.fixture(scope="module")
def released(world) -> GenSR:
    return world.model(mode="released")


def test_a_mode_is_a_preset_and_every_setting_goes_over_it():
    paper, released = GenSR.Config(), GenSR.Config(mode="released")
    different = {name for name in RELEASED if getattr(paper, name) != getattr(released, name)}
    assert different == set(RELEASED)
    assert all(getattr(released, name) == value for name, value in RELEASED.items())
    assert GenSR.Config(mode="released", cf_table="propagated").cf_table == "propagated"
    assert GenSR.Config(**released.model_dump()) == released


def without_gradient(model) -> set[str]:
    """Parameters without one, but for the decoder's attention of a single position to itself."""
    names = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    return {name for name in names if not ("decoder" in name and name.split(".")[-2] in IDLE)}


@pytest.mark.parametrize("setting", ["semantic_history", "filter", "similarity", "third_segment"])
def test_each_difference_stands_alone(world, setting):
    model = world.model(**{setting: RELEASED[setting]}).train()
    loss, _ = model.loss(world.step(model))
    loss.backward()
    assert torch.isfinite(loss) and without_gradient(model) == set()


def test_the_released_search_never_reads_the_query(world, released):
    batch = world.batch(released)
    other = replace(batch, query=batch.query % world.catalog.n_queries + 1)
    assert torch.equal(scores(released, batch), scores(released, other))
    rec, search = batch.task == 0, batch.task == 1
    swapped = replace(batch, task=1 - batch.task)
    assert not torch.allclose(scores(released, swapped), scores(released, batch))
    assert rec.any() and search.any()


def test_the_released_prompt_keeps_its_placeholders_and_says_its_end_twice(released):
    for task in ("rec", "search"):
        first, second, third, fourth, fifth = released.wording.of(task, "q3")
        assert third == f"{fourth} <item> {fifth}" and "q3" not in third
        assert ("<query>" in fifth) == (task == "search")
    assert first != second


def test_with_the_query_inserted_the_repeated_segment_holds_it_twice(world):
    model = world.model(third_segment="repeated")
    plan = model.prompts.plan(1, torch.tensor([1, 2]))
    texts = [world.catalog.query_text[number] for number in (1, 2)]
    for row, text in enumerate(texts):
        decoded = model.prompts.decode(plan, row)
        assert [text in part for part in decoded] == [False, False, True, False, True]


def test_history_order_counts_in_no_released_view(world, released):
    batch = world.batch(released)
    length = batch.merged_len[:, None]
    place = torch.arange(batch.merged_task.shape[1])
    back = torch.where(place < length, length - 1 - place, place)
    turned = replace(
        batch, merged_task=batch.merged_task.gather(1, back), merged_column=batch.merged_column.gather(1, back)
    )
    before, released.config.history = released.config.history, batch.merged_task.shape[1]
    try:
        close(scores(released, turned), scores(released, batch))
    finally:
        released.config.history = before


def test_the_token_view_pools_every_token_of_every_title(world):
    """Row by row, from the titles' own tokens."""
    model = world.model(semantic_history="tokens", filter="bilinear", positions=False, match_norm=False)
    batch = world.batch(model)
    part, _ = embedded(model, batch, 0)
    vectors = inserted(model, batch, 0)
    merged = part.merged(model.config.history)
    with torch.no_grad():
        for row in range(len(part)):
            ids = model.titles[merged.items[row][merged.mask[row]]].flatten().long()
            words = model.words(ids[ids != model.prompts.pad])[None]
            real = torch.ones(words.shape[:2], dtype=torch.bool)
            history = model.semantic_view.encoder(words, real)[0]
            weight = model.semantic_view.filter.weight
            wanted = vectors[row, :, 3]  # t_i
            pooled = torch.softmax(wanted @ (history @ weight).T, -1) @ history
            close(vectors[row, :, 1], pooled)


def test_no_soft_filter_gives_every_candidate_the_mean(world):
    model = world.model(filter="mean")
    vectors = inserted(model, world.batch(model), 1)
    for number in (0, 1):
        close(vectors[:, :, number], vectors[:, :1, number].expand_as(vectors[:, :, number]))
    assert (vectors[:, :, 2].std(1) > 0).all()


@pytest.mark.parametrize(("views", "left"), [("cf", (0, 2)), ("semantic", (1, 3))])
def test_one_view_takes_the_others_vectors_and_words_out_of_the_prompt(world, views, left):
    model = world.model(views=views, contrast=0.5).train()
    assert model.wording.inserts == left
    assert all(len(segments) == 3 and "and" not in segments for segments in model.wording.segments.values())
    loss, parts = model.loss(world.step(model))
    assert set(parts) == {"task"} and torch.equal(loss, parts["task"])
    loss.backward()
    assert without_gradient(model) == set()
    assert not any(name.startswith("semantic_view" if views == "cf" else "cf_view") for name in model.state())


def test_a_trained_table_moves_and_its_padding_row_stays_zero(world):
    model = world.model(cf_trained=True).train()
    before = model.cf.detach().clone()
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=0.01)
    model.loss(world.step(model))[0].backward()
    optimizer.step()
    assert not torch.equal(model.cf, before) and not model.cf[0].any()


def test_the_score_as_a_probability_is_that_of_yes_among_all_words(world):
    model, batch = world.model(score_as="probability"), world.batch(world.model())
    found = scores(model, batch)
    assert (found > 0).all() and (found < 1).all()
    part, read = embedded(model, batch, 0)
    start = torch.zeros(read[..., 0, 0].numel(), 1, dtype=torch.long)
    with torch.no_grad():
        logits = model.lm(inputs_embeds=read.flatten(0, 1), decoder_input_ids=start, use_cache=False).logits[:, 0]
    close(found[batch.task == 0].flatten(), logits.softmax(-1)[:, model.yes])
    assert len(part)


def test_the_likelihood_may_be_among_the_two_answers(world):
    model = world.model(loss_over="answers", contrast=0.0)
    batch = world.step(model)
    with torch.no_grad():
        found, _ = model.loss(batch)
        expected = F.binary_cross_entropy_with_logits(model.score(batch), batch.label)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


# The contrast


def views(rows: int, width: int = 768) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(8)
    return torch.randn(rows, width), torch.randn(rows, width), torch.arange(rows) + 1


def alignment(width: int = 768, **settings):
    from bench.models.gensr.views import Alignment

    return Alignment(width, GenSR.Config(**settings))


def test_cosine_contrast_starts_at_ln_b_and_the_released_one_at_a_thousand():
    left, right, user = views(200)
    assert float(alignment()(left, right, user)) == pytest.approx(5.42, abs=0.3)
    assert float(alignment()(left, left, user)) < 0.01
    hard = alignment(similarity="normed")
    assert 900 < float(hard(left, right, user).detach()) < 1200
    # LayerNorm gives every vector a squared norm of about the width, so the temperature on the cosine is tau / width.
    sized = hard.norms[0](F.normalize(left, dim=1)).square().sum(1)
    assert float(sized.mean()) == pytest.approx(762, abs=5)
    torch.testing.assert_close(hard(left, right, user), hard(right, left, user))


def test_a_doubled_temperature_halves_the_logits():
    left, right, _ = views(2)
    cosine = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T
    for temperature in (0.2, 0.4):
        logits = cosine / temperature
        expected = (F.cross_entropy(logits, torch.arange(2)) + F.cross_entropy(logits.T, torch.arange(2))) / 2
        torch.testing.assert_close(alignment(temperature=temperature)(left, right, torch.tensor([1, 2])), expected)


def test_rows_of_one_user_are_negatives_in_the_release_only():
    left, right, _ = views(6)
    one = torch.ones(6, dtype=torch.long)
    assert float(alignment()(left, right, one)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(contrast_of="pooled")(left, right, one)) > 0.5


def test_the_released_contrast_is_over_every_candidate(world):
    model = world.model(contrast_of="pooled")
    seen = []
    model.alignment.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    model.loss(world.step(model))
    assert seen == [32 * 5]


# Parameters


def test_parameters_beyond_flan_t5_base_are_those_of_the_released_log(world):
    """255,369,728 in all with an untied head; 7,791,872 beyond the language model."""
    shape = T5Config(
        d_model=768, d_kv=64, num_heads=12, d_ff=2048, num_layers=12, vocab_size=32128, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        lm = T5ForConditionalGeneration(shape)
        lm.lm_head.weight = torch.nn.Parameter(
            torch.empty(32128, 768)
        )  # the checkpoint's own; from a config it is tied

    def base(name, catalog, seed, texts):
        return Backbone("flan-t5-base's shape", lm, backbone.load("small-t5", catalog, seed, texts).tokenizer)

    config = GenSR.Config(mode="released", backbone="x", history=20)
    with torch.device("meta"):
        model = GenSR(config, Context(world.catalog, backbones=base))
    of_lm = {id(parameter) for parameter in lm.parameters()}
    beyond = sum(p.numel() for p in model.parameters() if id(p) not in of_lm)
    assert lm.lm_head.weight is not lm.shared.weight
    assert sum(p.numel() for p in lm.parameters()) == 247_577_856
    assert beyond == 7_791_872 and beyond + 247_577_856 == 255_369_728
    # What of it nothing reads: a template of each view's layer and a table of positions.
    assert sum(p.numel() for p in model.idle.parameters()) == 3_546_624 + 25_216 + 1_280


def test_only_the_idle_weights_of_the_release_have_no_gradient(world):
    model = world.model(mode="released", contrast=0.1).train()
    model.loss(world.step(model))[0].backward()
    without = without_gradient(model)
    assert without and all(name.startswith("idle.") for name in without)


# The plateau


def test_a_constant_answer_is_reported_as_nothing_learnt(world, monkeypatch):
    model = world.model().train()
    head = torch.full((len(model.words.weight),), -1e4)
    head[model.yes], head[model.no] = torch.tensor([0.2, 0.8]).log()
    monkeypatch.setattr(model.lm, "get_output_embeddings", lambda: lambda states: head.expand(len(states), -1))
    with torch.no_grad():
        for _ in range(3):
            model.loss(world.step(model))
    assert label_entropy(4) == pytest.approx(0.5004, abs=1e-4)
    assert "0.5004" in model.evidence()["warning"]
    head[model.yes], head[model.no] = torch.tensor([0.3, 0.7]).log()  # a worse constant is no better
    with torch.no_grad():
        model.loss(world.step(model))
    assert "warning" in model.evidence()
    model.plateau.task.fill_(0.45)
    assert model.evidence()["task loss"] == pytest.approx(0.45) and "warning" not in model.evidence()


def test_lambda_grows_over_its_warm_up_and_the_first_batches_are_balanced(world):
    model = world.model(contrast=0.5, contrast_warmup=4, balanced_batches=2).train()
    batch = world.step(model)
    shares, counts = [], []
    model.alignment.register_forward_pre_hook(lambda module, given: counts.append(len(given[0])))
    original = model._answer
    widths = []
    model._answer = lambda task, query, inserts: widths.append(inserts.shape[1]) or original(task, query, inserts)
    for _ in range(6):
        widths.clear()
        total, parts = model.loss(batch)
        shares.append(float((total - parts["task"]) / parts["contrast"]) / 0.5)
        counts.append(set(widths))
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1], abs=1e-3)
    assert [each for each in counts if isinstance(each, set)] == [{2}, {2}, {5}, {5}, {5}, {5}]


def test_the_dot_feature_reaches_the_score_through_the_language_model(world):
    model = world.model(dot_feature=True)
    batch = world.batch(model)
    before = scores(model, batch)
    with torch.no_grad():
        model.dot.normal_()
    assert not torch.allclose(scores(model, batch), before)
    close(inserted(model, batch, 0)[:, :, [0, 1, 3]], inserted(world.model(), batch, 0)[:, :, [0, 1, 3]])


def test_the_release_repeats_its_first_pass(world):
    once, anew = (world.model(reshuffle=value).stream(world.train) for value in (False, True))
    steps = once.steps_per_pass
    assert steps > 1 and steps == anew.steps_per_pass
    for stream, same in ((once, True), (anew, False)):
        first, later = list(stream.batches(0, steps)), list(stream.batches(steps - 1, steps + 1))
        assert torch.equal(first[-1].cand, later[0].cand)
        assert all(torch.equal(a.cand, b.cand) for a, b in zip(first, later[1:], strict=True)) == same
