"""The dropout of the shared blocks against the definition."""

import pytest
import torch

from bench.ranker.blocks.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    torch.manual_seed(0)
    x = torch.full((1003, 301), 2.0, requires_grad=True)
    out = Dropout(p).train()(x)
    dropped = out == 0
    assert float(dropped.double().mean()) == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    torch.testing.assert_close(out[~dropped], torch.full_like(out[~dropped], 2 / (1 - p)))
    out.sum().backward()
    assert torch.equal(x.grad == 0, dropped)


def test_elements_are_dropped_independently_of_their_neighbours():
    torch.manual_seed(0)
    dropped = (Dropout(0.5).train()(torch.ones(4000, 100)) == 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8, 100):
        product = (dropped.ravel()[lag:] * dropped.ravel()[:-lag]).mean()
        assert abs(float(product)) < 5 * 0.25 / dropped.numel() ** 0.5


def test_the_same_seed_drops_the_same_and_evaluation_drops_nothing():
    layer, x = Dropout(0.3).train(), torch.ones(33)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert layer.eval()(x) is x
    assert layer(torch.ones(0)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_scale_has_the_precision_of_the_input(dtype):
    out = Dropout(0.3).train()(torch.ones(1000, dtype=dtype))
    assert out.dtype == dtype
    assert out.unique().tolist() == [0, torch.tensor(1 / 0.7, dtype=dtype).item()]
