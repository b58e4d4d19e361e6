"""The encoder against torch's own layers in every combination of its choices, and what its masks and positions promise."""

import itertools
import math

import pytest
import torch
from torch import nn

from bench.errors import UsageError
from bench.ranker.blocks.encoder import Encoder, sinusoidal

D, LENGTH = 8, 6
LENGTHS = torch.tensor([4, 6, 1])


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(3, LENGTH, D, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(LENGTH) < LENGTHS[:, None]


def random_weights(encoder: Encoder) -> Encoder:
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return encoder.eval()


def torch_layer(ours: nn.Module, norm: str, activation) -> nn.TransformerEncoderLayer:
    theirs = nn.TransformerEncoderLayer(D, 2, 12, 0.0, activation, batch_first=True, norm_first=norm == "pre")
    state = {name: value for name, value in ours.state_dict().items() if name.startswith("norm")}
    attention, network = ours.attention, ours.network
    state |= {"self_attn.in_proj_weight": attention.weight, "self_attn.in_proj_bias": attention.bias}
    state |= {"self_attn.out_proj.weight": attention.out.weight, "self_attn.out_proj.bias": attention.out.bias}
    state |= {"linear1.weight": network.inner.weight, "linear1.bias": network.inner.bias}
    state |= {"linear2.weight": network.outer.weight, "linear2.bias": network.outer.bias}
    theirs.load_state_dict(state)
    return theirs.train()  # in evaluation torch takes another kernel


CHOICES = list(itertools.product(["post", "pre"], ["relu", "gelu", "leaky_relu"], [False, True]))


@pytest.mark.parametrize(("norm", "activation", "causal"), CHOICES)
def test_layers_equal_those_of_torch(norm, activation, causal):
    encoder = random_weights(Encoder(D, 2, 2, 0.0, 12, norm=norm, activation=activation, causal=causal))
    x, mask = sequences()
    functions = {"relu": torch.relu, "gelu": nn.functional.gelu, "leaky_relu": nn.functional.leaky_relu}
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if causal else None
    expected = x
    for layer in encoder.layers:
        expected = torch_layer(layer, norm, functions[activation])(expected, src_mask=later, src_key_padding_mask=~mask)
    if norm == "pre":
        expected = encoder.norm(expected)
    torch.testing.assert_close(encoder(x, mask)[mask], expected[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_causal_encoder_does_not_see_the_future_and_another_does(positions, norm):
    x, mask = sequences()
    changed = x.clone()
    changed[:, 3, 0] += 1
    for causal in (True, False):
        encoder = random_weights(Encoder(D, 2, 2, 0.0, norm=norm, causal=causal, positions=positions, length=LENGTH))
        difference = (encoder(x, mask) - encoder(changed, mask))[1].abs().amax(-1)
        assert (difference[3:] > 1e-4).all()
        assert (difference[:3] == 0).all() if causal else (difference[:3] > 1e-4).all()


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing_and_an_empty_row_stays_finite(causal):
    encoder = random_weights(Encoder(D, 2, 1, 0.0, causal=causal, positions="learned", length=LENGTH, from_end=True))
    x, mask = sequences()
    junk = torch.where(mask[..., None], x, 50.0)
    torch.testing.assert_close(encoder(junk, mask)[mask], encoder(x, mask)[mask])
    assert torch.isfinite(encoder(x, torch.zeros_like(mask))).all()


def test_order_counts_with_positions_only():
    x, _ = sequences()
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    for positions in ("none", "learned", "sinusoidal"):
        encoder = random_weights(Encoder(D, 2, 1, 0.0, positions=positions, length=LENGTH))
        difference = (encoder(x[:, order], mask) - encoder(x, mask)[:, order]).abs().max()
        assert difference < 1e-5 if positions == "none" else difference > 1e-3


def test_positions_from_the_end_give_the_newest_place_number_0():
    encoder = Encoder(D, 2, 0, 0.0, positions="learned", length=LENGTH, from_end=True)
    _, mask = sequences()
    placed = encoder.placed(torch.zeros(3, LENGTH, D), mask)
    for row, length in enumerate(LENGTHS.tolist()):
        for place in range(length):
            assert torch.equal(placed[row, place], encoder.position.weight[length - 1 - place])
    first = Encoder(D, 2, 0, 0.0, positions="learned", length=LENGTH)
    assert torch.equal(first.placed(torch.zeros(3, LENGTH, D), mask)[0], first.position.weight)


def test_sinusoids_are_their_formula():
    table = sinusoidal(50, 6)
    for place, column in itertools.product((0, 1, 7, 49), range(6)):
        angle = place / 10_000 ** (2 * (column // 2) / 6)
        assert float(table[place, column]) == pytest.approx((math.cos if column % 2 else math.sin)(angle), abs=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="heads that divide d"):
        Encoder(8, 3, 1, 0.0)
    with pytest.raises(UsageError, match="even width"):
        Encoder(7, 1, 1, 0.0, positions="sinusoidal", length=4)


def test_cross_attention_reads_the_other_sequence():
    layer = random_weights(Encoder(D, 2, 1, 0.0)).layers[0]
    x, mask = sequences()
    keys = torch.randn(3, LENGTH, D, generator=torch.Generator().manual_seed(5), requires_grad=True)
    layer(x, mask, keys=keys).square().sum().backward()
    assert (keys.grad[mask].abs().sum(-1) > 0).all() and (keys.grad[~mask] == 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("norm", "raw"), [("post", False), ("pre", False), ("pre", True)])
def test_the_first_output_alone_is_that_of_the_whole(norm, raw, causal):
    x, mask = sequences()
    options = {"positions": "sinusoidal", "length": LENGTH, "causal": causal, "raw_input": raw}
    for layers in (1, 2):
        encoder = random_weights(Encoder(D, 2, layers, 0.0, 12, norm=norm, **options))
        torch.testing.assert_close(encoder.first(x, mask), encoder(x, mask)[:, 0])


def test_a_raw_input_is_normalised_for_no_attention_but_the_first():
    raw, usual = (Encoder(D, 2, 2, 0.0, 12, norm="pre", raw_input=raw) for raw in (True, False))
    missing = set(usual.state_dict()) - set(raw.state_dict())
    assert missing == {"layers.0.norm1.weight", "layers.0.norm1.bias"}
    random_weights(usual)
    raw.load_state_dict({name: value for name, value in usual.state_dict().items() if name not in missing})
    x, mask = sequences()
    assert (raw.eval()(x, mask) - usual(x, mask)).abs().max() > 1e-3
    usual.layers[0].norm1 = nn.Identity()
    torch.testing.assert_close(raw(x, mask), usual(x, mask))


def test_attention_weights_have_a_dropout_of_their_own():
    x, mask = sequences()
    torch.manual_seed(0)
    own = Encoder(D, 2, 1, 0.0, attention_dropout=0.5)
    assert not torch.equal(own.train()(x, mask), own(x, mask))
    torch.testing.assert_close(own.eval()(x, mask), own(x, mask), atol=0, rtol=0)
    none = Encoder(D, 2, 1, 0.5, attention_dropout=0.0)
    attention = none.train().layers[0].attention
    assert torch.equal(attention(x, None, mask), attention(x, None, mask))
