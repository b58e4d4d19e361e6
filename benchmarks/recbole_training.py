"""Training through the harness beside RecBole's own trainer: the same network, sizes, rows and optimiser.

    python benchmarks/recbole_training.py [--rounds N] [--steps N] [--overhead] [MODEL ...]

MODEL is SASRec, GRU4Rec or BPR; all three by default. Both sides train RecBole's class on the 5-core of
MovieLens-100K on one thread, in turns within one process, so that a busy machine slows both; the side that begins
changes from round to round. RecBole's side is its trainer's epoch over its data loader, ours a fit without validation.
Anomaly detection, which RecBole's import turns on, is off on both sides. Printed: processor seconds per 1,000 training
rows, medians of the rounds; the median of the rounds' ratios (above 1: the harness is faster), and its quartiles.

With `--overhead` the loss is the sum of the parameters, so that what is timed is everything but the network: batches,
optimiser, losses kept for the curve.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.foreign import unchanged_process
from bench.ranker import registry
from bench.ranker.contract import Context

LENGTH = 50
# Of both sides; RecBole's names are ours in the bridge.
SIZES: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "loss_type": "CE"},
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "loss_type": "CE"},
    "BPR": {"embedding_size": 64},
}
BATCH = {"SASRec": 128, "GRU4Rec": 128, "BPR": 2048}


def recbole_side(name: str, steps: int, folder: str) -> tuple[Callable[[], float], int]:
    """A function that trains `steps` batches by RecBole's trainer and gives their rows' seconds; its parameters."""
    # Names that RecBole reads and numpy 2 no longer has.
    for alias, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, alias, kind)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    pairwise = name == "BPR"
    options = {
        "seed": 0, "reproducibility": True, "state": "WARNING", "show_progress": False, "use_gpu": False,
        "user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_batch_size": BATCH[name], "learning_rate": 1e-3, "checkpoint_dir": folder,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1} if pairwise else None,
        **SIZES[name],
    }  # fmt: skip
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        config = Config(model=name, dataset="ml-100k", config_dict=options)
    finally:
        sys.argv = arguments
    data = create_dataset(config)
    train, _, _ = data_preparation(config, data)
    init_seed(0, True)
    model = get_model(name)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    torch.use_deterministic_algorithms(False)
    passes = itertools.count()

    def run() -> float:
        rows, started = 0, time.process_time()

        def batches() -> Any:
            nonlocal rows
            for batch in itertools.islice(iter(train), steps):
                rows += len(batch)
                yield batch

        trainer._train_epoch(batches(), next(passes))
        return (time.process_time() - started) / rows * 1000

    return run, sum(parameter.numel() for parameter in model.parameters())


class NoValidation:
    """Trains without looking at validation rows, as RecBole's epoch does."""

    def evaluate(self, score: Any) -> dict[str, float]:
        """A constant."""
        return {"mean/N@10": 0.0}


def our_side(name: str, steps: int, root: str) -> tuple[Callable[[], float], int]:
    """The same by the harness."""
    log = sources.load("ml-100k", {"mode": "mirror"}, root)
    divided = split(log)
    train = TrainData(Batches(divided), ("rec",), 0)
    cls = registry.get(f"recbole:{name}")
    size = BATCH[name]
    settings = {
        "options": SIZES[name], "batch_size": size, "negatives": 1, "history_rec": LENGTH, "epochs": 1,
        "max_steps": steps, "lr": 1e-3,
    }  # fmt: skip
    per_pass = -(-len(train) // size)

    def model() -> Any:
        return cls(cls.Config(**settings), Context(Catalog(log), seed=0, tasks=("rec",)))

    def run() -> float:
        fitted = model()
        started = time.process_time()
        fitted.fit(train, NoValidation())
        return (time.process_time() - started) / min(steps * size, len(train)) * 1000

    assert steps <= per_pass, f"{name}: a pass has {per_pass} steps"
    built = model()
    built.precompute(train)
    return run, sum(parameter.numel() for parameter in built.parameters())


@contextmanager
def without_network(name: str) -> Iterator[None]:
    """RecBole's class with a loss that costs nothing and reaches every parameter."""
    from recbole.utils import get_model

    def loss(self: torch.nn.Module, interaction: Any) -> torch.Tensor:
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 1e-9

    cls = get_model(name)
    original, cls.calculate_loss = cls.calculate_loss, loss
    try:
        yield
    finally:
        cls.calculate_loss = original


def main() -> None:
    """Parse the arguments, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(SIZES), help="SASRec, GRU4Rec, BPR")
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--steps", type=int, default=0, help="batches per round; 0: 100 (BPR: 40)")
    parser.add_argument("--overhead", action="store_true", help="everything but the network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # RecBole on current numpy, pandas and torch.
    warnings.simplefilter("ignore")
    print(
        f"{'':8} {'RecBole':>9} {'harness':>9} {'ratio':>6}   quartiles   "
        f"processor seconds per 1,000 rows, {given.rounds} rounds"
    )
    for name in given.models:
        steps = given.steps or (40 if name == "BPR" else 100)
        with tempfile.TemporaryDirectory() as folder:
            # RecBole writes logs into the working folder, which is put back afterwards.
            with unchanged_process():
                os.chdir(folder)
                theirs, their_size = recbole_side(name, steps, folder)
            ours, our_size = our_side(name, steps, str(Path(folder) / "data"))
            assert not torch.is_anomaly_enabled()
            assert abs(their_size - our_size) < 0.1 * their_size, (their_size, our_size)
            with without_network(name) if given.overhead else nullcontext():
                theirs(), ours()
                times = []
                for number in range(given.rounds):
                    if number % 2:
                        mine = ours()
                        times.append((theirs(), mine))
                    else:
                        times.append((theirs(), ours()))
        recbole, harness = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [one / other for one, other in times]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        print(f"{name:8} {recbole:9.4f} {harness:9.4f} {middle:6.2f}   {low:.2f}-{high:.2f}", flush=True)


if __name__ == "__main__":
    main()
