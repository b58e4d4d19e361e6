"""Time per batch of the training stream beside RecBole's data loader, in one process on one thread, in turns.

    python benchmarks/batches.py [--rounds 5] [--batches 40]

Both read MovieLens-100K: the last 30 clicks of each training row, with and without negatives. RecBole's loader has all
histories of the training rows in memory before the first batch and draws negatives that may repeat; ours gathers each
batch's histories and draws distinct items. Ratios above 1 say that ours is faster.
"""

import argparse
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch

LENGTH = 30


def ours(batch_size: int, negatives: int) -> Callable[[int, int], Iterator[Any]]:
    """The stream of recommendation rows of ml-100k, everything as recommendations."""
    from bench.data import sources
    from bench.data.batch import Batches
    from bench.data.history import Window
    from bench.data.split import split
    from bench.data.training import TrainData

    log = sources.load("ml-100k", {"mode": "mirror"})
    data = TrainData(Batches(split(log)), ("rec",), 0)
    stream = data.events(batch_size, negatives=negatives, window=Window(rec=LENGTH, search=0))
    print(f"  {len(data):,} rows", file=sys.stderr)
    return stream.batches


def recbole(batch_size: int, negatives: int) -> Callable[[], Iterator[Any]]:
    """RecBole's loader of GRU4Rec: sequences by augmentation, uniform negatives."""
    for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "long": np.int64}.items():
        setattr(np, name, kind)  # RecBole's Config asks for names that numpy 2 dropped.
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    drawn = {"distribution": "uniform", "sample_num": negatives} if negatives else None
    settings = {
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_neg_sample_args": drawn,
        # RecBole divides the size by the negatives of a pairwise loss.
        "train_batch_size": batch_size * max(negatives, 1),
        "loss_type": "BPR" if negatives else "CE",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False,
    }
    config = Config(model="GRU4Rec", dataset="ml-100k", config_dict=settings)
    train, _, _ = data_preparation(config, create_dataset(config))
    return lambda: iter(train)


def seconds(batches: Iterator[Any], count: int) -> float:
    """Seconds per batch over `count` batches, the first one not counted."""
    next(batches)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - started) / count


def main() -> None:
    """Print the median time per batch of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=30)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.argv = sys.argv[:1]  # RecBole's Config reads the command line.
    torch.set_num_threads(1)
    print("rows  negatives  ours ms  RecBole ms  RecBole/ours")
    for batch_size in (256, 2048):
        for negatives in (0, 1, 4):
            stream, loader = ours(batch_size, negatives), recbole(batch_size, negatives)
            count = min(options.batches, 90_000 // batch_size)
            times: dict[str, list[float]] = {"ours": [], "recbole": []}
            for number in range(options.rounds):
                times["ours"].append(seconds(stream(number * count, count + 1), count))
                times["recbole"].append(seconds(loader(), count))
            mine, theirs = (statistics.median(entries) * 1000 for entries in times.values())
            print(f"{batch_size:4}  {negatives:9}  {mine:7.2f}  {theirs:10.2f}  {theirs / mine:12.2f}")


if __name__ == "__main__":
    main()
