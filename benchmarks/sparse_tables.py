"""Time and memory of a training step on a large item table whose step touches only the rows of the batch.

    python benchmarks/sparse_tables.py [--items 6900000] [--small 69000] [--rows 1024] [--samples 1024] [--steps 30]

Each step is sampled softmax with the log-q correction: `rows` clicks against `samples` uniform items that the batch
shares, a table (items + 1, 64) with sparse gradients, clipping, row-wise Adagrad. The two tables take turns within one
run. Printed: the medians of processor time, their ratio, and the bytes of table and optimiser.
"""

import argparse
import math
import resource
import statistics
import time

import torch
from torch import nn

from bench.ranker.blocks.losses import sampled_softmax
from bench.ranker.config import TrainConfig
from bench.ranker.optimizers import Optimizers, clip

DIM = 64


class Step:
    """A table with its optimiser, and users' vectors that stand for a model."""

    def __init__(self, items: int, rows: int, samples: int):
        self.items, self.rows, self.samples = items, rows, samples
        weight = torch.empty(items + 1, DIM).uniform_(-0.05, 0.05)
        self.table = nn.Embedding.from_pretrained(weight, freeze=False, sparse=True)
        self.network = nn.Linear(DIM, DIM)
        groups = [{"params": [self.table.weight], "optimizer": "row_adagrad"}, {"params": [*self.network.parameters()]}]
        self.optimizers = Optimizers(groups, TrainConfig(), 10**6)
        self.number = 0

    def __call__(self) -> float:
        """Take a step; returns its seconds."""
        clicked = torch.randint(1, self.items + 1, (self.rows,))
        past = torch.randint(1, self.items + 1, (self.rows,))
        drawn = torch.randint(1, self.items + 1, (self.samples,))
        started = time.process_time()
        self.optimizers.zero_grad()
        users = self.network(self.table(past))  # (B, d)
        log_q = torch.tensor(math.log(self.samples / self.items))
        loss = sampled_softmax(
            (users * self.table(clicked)).sum(1),
            users @ self.table(drawn).T,
            log_q.expand(self.rows),
            log_q.expand(self.samples),
            hit=clicked[:, None] == drawn,
        )
        loss.backward()
        clip([self.table.weight, *self.network.parameters()], 1.0)
        self.optimizers.step(self.number)
        self.number += 1
        return time.process_time() - started

    def megabytes(self) -> tuple[float, float]:
        """Of the table and of its optimiser's state."""
        state = self.optimizers.state()["optimizers"][0]["state"]
        entries = [value for parameter in state.values() for value in parameter.values()]
        return self.table.weight.nbytes / 1e6, sum(value.nbytes for value in entries) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 6_900_000), ("small", 69_000), ("rows", 1024), ("samples", 1024), ("steps", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = {size: Step(size, options.rows, options.samples) for size in (options.small, options.items)}
    seconds: dict[int, list[float]] = {size: [] for size in steps}
    for turn in range(options.steps + 3):
        for size, step in steps.items():
            taken = step()
            if turn >= 3:  # the first steps touch new memory
                seconds[size].append(taken)
    medians = {size: statistics.median(taken) for size, taken in seconds.items()}
    for size, step in steps.items():
        table, state = step.megabytes()
        print(
            f"{size:>10,} items: {1000 * medians[size]:7.1f} ms a step, table {table:,.0f} MB, optimiser {state:,.1f} MB"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(f"ratio {medians[options.items] / medians[options.small]:.2f}, peak of the process {peak:,.0f} MB")


if __name__ == "__main__":
    main()
