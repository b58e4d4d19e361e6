"""Attention by heads, and the dropout and length grouping of `bench.ranker.blocks`, beside PyTorch's, on the shapes in use.

    python benchmarks/attention.py [--rounds 40]

Forward and backward on one thread, in processor time; both ways take turns within one run. Printed per shape: the medians and their ratio
(above 1: faster than PyTorch's).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.attention import MultiHeadAttention
from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.lengths import by_length

# Rows, queries, keys, width, heads; "self" where the queries are the keys.
SHAPES = {
    "UniSAR, histories (self)": (128, 30, 30, 64, 2),
    "UniSAR, rec to search": (128, 30, 31, 64, 2),
    "UniSAR, training on ML-100K": (128, 12, 12, 64, 2),
    "GenSR, a view (self)": (40, 20, 20, 64, 2),
    "GenSR, the filter of training": (40, 5, 20, 64, 2),
    "GenSR, the filter of ranking": (10, 100, 20, 64, 2),
    "flan-t5-base's width (self)": (40, 20, 20, 768, 2),
}


class OfPyTorch(MultiHeadAttention):
    """The same layer by PyTorch's attention in training, too."""

    def _by_heads(self, projected: list[Tensor], bias: Tensor) -> Tensor:
        parts = [part for each in projected for part in each.split(self.weight.shape[1], -1)]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v, bias[:, None], self.dropout.p).transpose(1, 2).flatten(2)


def medians(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each way; they take turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 3):
        for way, times in zip(ways, taken, strict=True):
            started = time.process_time()
            way()
            if number >= 3:
                times.append(time.process_time() - started)
    return [statistics.median(times) for times in taken]


def attention(rounds: int, dropout: float) -> None:
    for name, (rows, queries, keys, d, heads) in SHAPES.items():
        ours, theirs = MultiHeadAttention(d, heads, dropout), OfPyTorch(d, heads, dropout)
        theirs.load_state_dict(ours.state_dict())
        mask = torch.arange(keys) < torch.randint(0, keys + 1, (rows, 1))
        x = torch.randn(rows, queries, d, requires_grad=True)
        other = None if "self" in name else torch.randn(rows, keys, d, requires_grad=True)
        torch.testing.assert_close(ours.eval()(x, other, mask), theirs.eval()(x, other, mask), rtol=1e-4, atol=1e-5)
        show(
            f"attention, dropout {dropout}, {name}",
            *medians([step(m.train(), x, other, mask) for m in (ours, theirs)], rounds),
        )


def step(module: nn.Module, *inputs: Tensor | None) -> Callable[[], object]:
    def run() -> None:
        module.zero_grad()
        module(*inputs).sum().backward()

    return run


def dropouts(rounds: int) -> None:
    for name, shape in {
        "UniSAR, histories": (128, 30, 64),
        "UniSAR, weights": (128, 30, 30),
        "GenSR": (40, 20, 64),
    }.items():
        x = torch.randn(shape, requires_grad=True)
        show(f"dropout, {name}", *medians([step(layer(0.1).train(), x) for layer in (Dropout, nn.Dropout)], rounds))


def encoders(rounds: int) -> None:
    """A whole encoder layer: with products per head and the dropout of the blocks, and with PyTorch's of both."""
    for name, (rows, _, length, d, heads) in SHAPES.items():
        if "self" not in name:
            continue
        ours, theirs = (Encoder(d, heads, 1, 0.1).train() for _ in range(2))
        for layer in theirs.layers:
            layer.attention = OfPyTorch(d, heads, 0.1)
            layer.dropout = layer.network.dropout = nn.Dropout(0.1)
        x = torch.randn(rows, length, d, requires_grad=True)
        mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
        show(f"encoder layer, {name}", *medians([step(module, x, mask) for module in (ours, theirs)], rounds))


def show(name: str, ours: float, theirs: float, other: str = "PyTorch's") -> None:
    print(f"{name:<55} {1000 * ours:7.2f} ms, {other} {1000 * theirs:7.2f} ms, ratio {theirs / ours:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for dropout in (0.0, 0.1):
        attention(options.rounds, dropout)
    dropouts(options.rounds)
    encoders(options.rounds)
    lengths(options.rounds)


def lengths(rounds: int) -> None:
    """A UniSAR-like step over a batch of 256 rows, in parts by length and in one piece."""
    encoder = Encoder(64, 2, 1, 0.1).train()
    for name, longest in {"lengths 0 to 30": 30, "lengths 15 to 30": 15}.items():
        batch = _batch(256, 30, 30 - longest)

        def parts(batch=batch) -> None:
            encoder.zero_grad()
            out = []
            for _, part in by_length(batch):
                x = torch.randn(len(part), part.rec_items.shape[1], 64)
                out.append((encoder(x, part.rec_mask) * part.rec_mask[..., None]).sum())
            torch.stack(out).sum().backward()

        def whole(batch=batch) -> None:
            encoder.zero_grad()
            x = torch.randn(len(batch), batch.rec_items.shape[1], 64)
            (encoder(x, batch.rec_mask) * batch.rec_mask[..., None]).sum().backward()

        show(f"grouping by length, {name}", *medians([parts, whole], rounds), "in one piece")


def _batch(rows: int, width: int, least: int):
    from bench.data.batch import Batch

    length = torch.randint(least, width + 1, (rows,))
    nothing = torch.zeros(rows, dtype=torch.long)
    items = torch.ones(rows, width, dtype=torch.long)
    return Batch(
        user=nothing, task=nothing, query=nothing, time=nothing,
        rec_items=items, rec_times=items, rec_len=length,
        search_query=items[:, :1], search_items=items[:, :1, None], search_times=items[:, :1], search_len=nothing,
        merged_task=torch.zeros_like(items), merged_column=torch.zeros_like(items), cand=items[:, :5],
    )  # fmt: skip


if __name__ == "__main__":
    main()
