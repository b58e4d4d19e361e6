"""GenSR's reader against the forward pass of transformers: T5s of several kinds, with and without padding, in training."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from bench.models.gensr.reader import Reader

from .gensr_world import laid_out

SIZES = {
    "vocab_size": 40, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2,
    "decoder_start_token_id": 0, "pad_token_id": 0, "attn_implementation": "eager",
}  # fmt: skip
KINDS = {
    "relu, head of its own": lambda: T5ForConditionalGeneration(T5Config(tie_word_embeddings=False, **SIZES)),
    "tied and scaled": lambda: T5ForConditionalGeneration(T5Config(tie_word_embeddings=True, **SIZES)),
    "gated, as flan-t5": lambda: T5ForConditionalGeneration(
        T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **SIZES)
    ),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**SIZES)),
    "umt5, positions in every layer": lambda: UMT5ForConditionalGeneration(UMT5Config(**SIZES)),
}


@pytest.fixture(params=KINDS)
def lm(request):
    torch.manual_seed(3)
    model = KINDS[request.param]().eval()
    for parameter in model.parameters():  # fresh norms are all ones, fresh biases nearly zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inputs(lm, padded: bool):
    """Five rows with three candidates of two inserts on two distinct prompts."""
    torch.manual_seed(4)
    words = lm.get_input_embeddings()(torch.randint(3, 40, (2, 9))).detach()
    places = torch.tensor([[1, 6], [2, 5]])
    mask = torch.ones(2, 9, dtype=torch.bool)
    if padded:
        mask[1, 7:] = False
    of = torch.tensor([0, 1, 1, 0, 1])
    inserts = (0.5 * torch.randn(5, 3, 2, 24)).requires_grad_()
    return words, of, inserts, places, mask


def reference(lm, words, of, inserts, places, mask):
    """Logits of the first decoded token by transformers."""
    read = laid_out(words, of, inserts, places)
    start = torch.zeros(len(read), 1, dtype=torch.long)
    attended = mask[of].repeat_interleave(inserts.shape[1], 0).long()
    return lm(inputs_embeds=read, attention_mask=attended, decoder_input_ids=start, use_cache=False).logits[:, 0]


@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_are_those_of_transformers(lm, padded):
    results = []
    for forward in (lambda *given: lm.lm_head(Reader(lm)(*given)), lambda *given: reference(lm, *given)):
        lm.zero_grad()
        given = inputs(lm, padded)
        logits = forward(*given)
        F.cross_entropy(logits, torch.arange(15)).backward()
        # What has no gradient here has a zero one there: queries, keys and biases of attention to a single position.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in lm.parameters()]
        results.append([logits, given[2].grad, *grads])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-3)


def test_padding_does_not_matter(lm):
    words, of, inserts, places, mask = inputs(lm, True)
    other = words.clone()
    other[1, 7:] = 5.0
    with torch.no_grad():
        torch.testing.assert_close(
            Reader(lm)(words, of, inserts, places, mask), Reader(lm)(other, of, inserts, places, mask)
        )


def test_checkpointing_gives_the_same_gradients_with_dropout(lm):
    lm.train()
    grads = []
    for checkpointing in (False, True):
        lm.zero_grad()
        torch.manual_seed(5)
        given = inputs(lm, True)
        torch.manual_seed(6)
        Reader(lm, checkpointing)(*given).square().sum().backward()
        trained = lm.encoder.block.parameters()
        grads.append([given[2].grad, *(parameter.grad for parameter in trained)])
    torch.testing.assert_close(grads[0], grads[1])


def test_dropout_is_that_of_transformers_on_average():
    lm = KINDS["gated, as flan-t5"]().train()
    words, of, inserts, places, mask = inputs(lm, False)
    many = inserts[:1, :1].detach().expand(1, 1500, -1, -1)
    with torch.no_grad():
        torch.manual_seed(7)
        ours = lm.lm_head(Reader(lm)(words[:1], of[:1], many, places[:1], mask[:1]))
        theirs = reference(lm, words[:1], of[:1], many, places[:1], mask[:1])
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.15, atol=0)
    error = (ours.mean(0) - theirs.mean(0)).abs() / (2 * theirs.var(0) / 1500) ** 0.5
    assert error.max() < 4
