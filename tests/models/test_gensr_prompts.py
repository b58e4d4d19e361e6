"""GenSR's prompts: their segments, the query in them, the places of the four vectors, and what stands there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.data import sources
from bench.errors import RunError, UsageError
from bench.models.gensr.model import GenSR
from bench.models.gensr.prompt import Prompts
from bench.models.gensr.texts import text_tokens
from bench.ranker import backbone
from bench.ranker.contract import Context

from .gensr_world import SHORT, close, embedded, inserted, titles


def test_the_two_prompts_have_five_segments_each_and_differ(model):
    made = model.wording.segments
    assert set(made) == {"rec", "search"}
    for segments in made.values():
        assert len(segments) == 5 and all(text.strip() for text in segments)
    assert made["rec"][0] != made["search"][0]
    assert not any("query" in text for text in made["rec"])


def test_tokens_of_the_prompts_are_their_segments_with_the_query_verbatim(model, world):
    query = torch.arange(1, world.catalog.n_queries + 1)
    for task, name in ((0, "rec"), (1, "search")):
        plan = model.prompts.plan(task, query)
        for row, number in enumerate(query.tolist()):
            text = str(world.catalog.query_text[number])
            wanted = model.wording.of(name, text)
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
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    words = {"item_word_lists": [[]] * 4, "query_word_lists": [[]] * 4, "word_text": np.array([""])}
    texts = SimpleNamespace(item_text=np.array(["x"]), query_text=np.array(["", "q1", "q2 q3 q4", "q1 " * 20]), **words)
    prompts = Prompts(tokenizer, model.wording, text_tokens(tokenizer, texts, 5, 5).queries)
    plan = prompts.plan(1, torch.tensor([1, 2, 3]))
    assert plan.mask.sum(1).diff().tolist() == [2, 2]
    assert torch.equal(plan.mask, plan.mask.sort(dim=1, descending=True).values)
    assert (plan.ids[~plan.mask] == prompts.pad).all()
    assert plan.inserts[:, 2].diff().tolist() == [2, 2] and plan.inserts[:, 0].diff().tolist() == [0, 0]
    assert [prompts.decode(plan, row)[2] for row in (0, 1)] == ["for q1 with item", "for q2 q3 q4 with item"]


def test_the_prompt_names_items_as_the_data_set_does_and_as_the_user_says(world, monkeypatch):
    assert "the item" in world.model().wording.of("rec", "")
    monkeypatch.setattr(world.catalog, "item_kind", "film")
    assert world.model().wording.of("rec", "")[2] == "the film"
    assert world.model(kind="song").wording.of("search", "q1")[2] == "for q1 with song"


def test_kinds_are_declared_by_the_sources():
    kinds = {name: entry.items for name, entry in sources.entries().items()}
    assert kinds["ml-100k"] == "film" and kinds["amazon-kindle"] == "book" and kinds["kuaisar"] == "video"
    assert kinds["amazon:"] == "product" and kinds["log:"] == "item"


def test_the_language_model_reads_the_prompt_around_four_vectors(model, batch):
    part, read = embedded(model, batch, 1)
    plan = model.prompts.plan(1, part.query)
    words = torch.ones_like(plan.mask).scatter(1, plan.inserts, False)
    for candidate in (0, 3):
        assert torch.equal(read[:, candidate][words], model.words(plan.ids)[words])
    vectors = inserted(model, batch, 1)
    # c_hat and s_hat are pooled for the candidate, e_i and t_i are its own.
    close(vectors[:, :, 2], model.project(model.cf[part.cand]) * model.scale)
    for number in range(4):
        assert (vectors[:, :, number].std(1) > 0).all()


def test_the_first_two_vectors_are_the_history_filtered_by_the_candidate(model, batch):
    """Row by row, with the items of the row's last clicks alone."""
    part, _ = embedded(model, batch, 0)
    vectors = inserted(model, batch, 0)
    merged = part.merged(model.config.history)
    items, mask = merged.items, merged.mask
    with torch.no_grad():
        for row in range(len(part)):
            past, real = items[row, mask[row]][None], torch.ones(1, int(mask[row].sum()), dtype=torch.bool)
            for number, view, table in ((0, model.cf_view, model.cf), (1, model.semantic_view, titles(model))):
                history = view.encoder(table[past], real)
                pooled = view.filter(table[part.cand[row]][None], history, real)[0]
                expected = model.project(pooled) if number == 0 else pooled
                close(vectors[row, :, number], expected * model.scale)


@pytest.mark.parametrize("tokens", [1, 32])
def test_the_semantic_vector_of_an_item_is_the_mean_of_its_first_words(world, tokens):
    model = world.model(title_tokens=tokens)
    batch = world.batch(model)
    part, _ = embedded(model, batch, 1)
    close(inserted(model, batch, 1)[:, :, 3], (titles(model) * model.scale)[part.cand])


def test_yes_and_no_are_single_different_tokens(model):
    assert model.yes != model.no
    vocabulary = model.context.backbone("small-t5", model.wording.texts()).tokenizer.convert_ids_to_tokens(
        [model.yes, model.no]
    )
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
