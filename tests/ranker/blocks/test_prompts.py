"""Prompts with fields and slots: what is laid out where, and which vectors stand there."""

import pytest
import torch
from torch import nn

from bench.data.catalog import Catalog
from bench.ranker.backbone import small_tokenizer
from bench.ranker.blocks.prompts import Template, Tokens, embed

TEXTS = ["", "red garden chair", "lamp", "blue kitchen table with drawers"]


@pytest.fixture(scope="module")
def tokenizer(make_log):
    return small_tokenizer(Catalog(make_log()), [*TEXTS, "the user liked , ; feature"])


def words(tokenizer, prompt, row) -> list[str]:
    ids = prompt.ids[row][prompt.mask[row]].tolist()
    return [f"<{-1 - i}>" if i < 0 else tokenizer.convert_ids_to_tokens(i) for i in ids]


def test_fields_and_slots_stand_where_the_text_has_them_and_gaps_are_closed(tokenizer):
    titles = Tokens(tokenizer, TEXTS, 3, end=",")
    template = Template(tokenizer, "The user <user> liked {titles}; feature <item>")
    liked = torch.tensor([[1, 2], [3, 9], [0, 0]])
    real = torch.tensor([[True, True], [True, False], [False, False]])
    prompt = template(3, titles=titles(liked.where(real, 0), real))
    begin, close = ["the", "user", "<0>", "liked"], [";", "feature", "<1>", "</s>"]
    assert words(tokenizer, prompt, 0) == [*begin, "red", "garden", "chair", ",", "lamp", ",", *close]
    assert words(tokenizer, prompt, 1) == [*begin, "blue", "kitchen", "table", ",", *close]  # cut after three words
    assert words(tokenizer, prompt, 2) == [*begin, *close]
    assert (prompt.mask.sum(1) == prompt.mask.long().cumsum(1).amax(1)).all()
    assert (prompt.ids[~prompt.mask] == tokenizer.pad_token_id).all()
    assert prompt.mask[0].all()  # no wider than its longest row
    for row in range(3):
        places = prompt.places(2)[row]
        assert prompt.ids[row][places].tolist() == [-1, -2]


def test_vectors_are_words_inserts_and_new_tokens(tokenizer):
    table, known = nn.Embedding(len(tokenizer), 8), len(tokenizer)
    template = Template(tokenizer, "liked {items} <user>")
    items = torch.tensor([[known + 1, known], [known + 2, 0]])
    prompt = template(2, items=(items, items > 0))
    inserts, extra = torch.randn(2, 1, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    vectors = embed(prompt, table, inserts, extra)
    liked = table.weight[tokenizer.convert_tokens_to_ids("liked")]
    end = table.weight[tokenizer.eos_token_id]
    assert torch.equal(vectors[0], torch.stack([liked, extra[1], extra[0], inserts[0, 0], end]))
    assert torch.equal(vectors[1, :4], torch.stack([liked, extra[2], inserts[1, 0], end]))
    # Exactly the slots' positions change with what is inserted.
    moved = (embed(prompt, table, inserts + 1, extra) != vectors).any(-1)
    assert torch.equal(moved, prompt.ids < 0) and (moved.sum(1) == 1).all()
    vectors.sum().backward()
    assert (inserts.grad != 0).all() and (extra.grad != 0).all()


def test_title_embeddings_are_means_of_word_vectors(tokenizer):
    table = nn.Embedding(len(tokenizer), 8)
    titles = Tokens(tokenizer, TEXTS, 3)
    means = titles.mean(torch.tensor([[1, 2], [0, 1]]), table)
    ids = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(means[0, 0], table.weight[ids].mean(0))
    assert torch.equal(means[0, 0], means[1, 1]) and (means[1, 0] == 0).all()
