"""Ranking the full catalogue, beside RecBole's full-sort evaluation of the same weights, alternating on one thread.

    python benchmarks/full_ranking.py                        # 943 rows of ml-100k (1,349 items) and of 43,000 items
    python benchmarks/full_ranking.py --items 100000 --rounds 9

RecBole's trainer does not run on numpy 2 as it is, so its evaluation is re-enacted from its source (recbole 1.2.1:
`Trainer._full_sort_batch_eval`, `Collector.eval_batch_collect` and the recall and NDCG of its top-k evaluator): its own
`full_sort_predict`, the history set to minus infinity, the best 10 by `torch.topk`, the dense matrix of positives. It gets
ready tensors, without the time of its data loader, and two sizes of batches: its default (4,096 scores) and that of this
harness (256 rows). Our side is `bench.evaluation.scoring.rank` as a whole, from event rows to ranks, histories included,
and once more with batches that are ready, as RecBole's tensors are. Printed are medians in seconds of CPU, the ratio to
RecBole's default, and that of the two with ready tensors and 256 rows.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.data.batch import Batch, Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.log import Log
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.candidates import CandidateSet, draw, seen_items
from bench.evaluation.long_lists import FullRanking
from bench.evaluation.scoring import rank
from bench.experiments.prepared_data import open_data
from bench.ranker import registry
from bench.ranker.context import Context

TOP = 10
ROWS = 256  # of a batch of this harness


def synthetic(items: int, users: int = 943, seed: int = 0) -> Log:
    """A log in which every item occurs once and every user has as many events, at least 20."""
    generator = np.random.default_rng(seed)
    length = max(20, -(-items // users))
    item = np.resize(generator.permutation(items), users * length)
    frame = pd.DataFrame({"act": np.arange(len(item)), "user": np.repeat(np.arange(users), length), "item": item})
    frame = frame.assign(time=np.arange(len(item)), query="", task=0)
    frame[["user", "item"]] = frame[["user", "item"]].astype(str)
    names = pd.DataFrame({"id": np.unique(frame["item"]), "text": ""})
    return build("synthetic", "disjoint", frame, names, pd.DataFrame({"id": [], "text": []}), seed=seed)


def full_sort(predict: Callable[[slice], Tensor], history: list[np.ndarray], positive: Tensor, rows: int) -> Tensor:
    """RecBole's evaluation of rows with one positive: recall and NDCG at 1 ... TOP, (2, TOP)."""
    hits = []
    for low in range(0, len(positive), rows):
        part = slice(low, low + rows)
        mine = history[part]
        scores = predict(part).view(len(mine), -1)  # (B, n_items + 1)
        scores[:, 0] = -torch.inf
        owner = torch.as_tensor(np.repeat(np.arange(len(mine)), [len(each) for each in mine]))
        scores[owner, torch.as_tensor(np.concatenate(mine))] = -torch.inf
        _, best = torch.topk(scores, TOP, dim=-1)
        matrix = torch.zeros_like(scores, dtype=torch.int)
        matrix[torch.arange(len(mine)), positive[part]] = 1
        hits.append(torch.cat((matrix.gather(1, best), matrix.sum(1, keepdim=True)), dim=1))
    hit = torch.cat(hits)[:, :TOP].double()
    gain = hit / torch.log2(torch.arange(TOP) + 2.0)
    return torch.stack([hit.cumsum(1).mean(0), gain.cumsum(1).mean(0)])


def predictions(name: str, model, batch: Batch) -> Callable[[slice], Tensor]:
    """RecBole's `full_sort_predict` on the weights of our model."""
    if name == "sasrec":
        past = model._past(batch)
        return lambda part: model.net.full_sort_predict({key: value[part] for key, value in past.items()})
    # RecBole's LightGCN keeps the propagated rows between batches, as ours does.
    users, items = model.row_vectors(batch), model.item_vectors()
    return lambda part: torch.matmul(users[part], items.transpose(0, 1)).view(-1)


def timed(work: Callable[[], object]) -> float:
    """Seconds of CPU: on one thread those of a machine that does nothing else."""
    started = time.process_time()
    work()
    return time.process_time() - started


def histories(batches: Batches, candidates: CandidateSet) -> Iterator[np.ndarray]:
    """What RecBole hides from each row: the user's items except the positive."""
    events = batches.split.log.events
    owner, item = seen_items(batches.split).of(events.user[candidates.rows])
    positive = candidates.position + 1
    item, owner = item[item != positive[owner]], owner[item != positive[owner]]
    yield from np.split(item, np.searchsorted(owner, np.arange(1, len(candidates))))


@torch.no_grad()
def compare(name: str, log: Log, rounds: int) -> None:
    """Print the timings of one model on one log."""
    batches, cls = Batches(split(log)), registry.get(name)
    torch.manual_seed(0)
    model = cls(cls.Config(), Context(Catalog(log), tasks=("rec",)))
    model.precompute(TrainData(batches, ("rec",), 0))
    model.train()
    model.eval()
    candidates = draw(batches.split, tasks=("rec",), strategy="full")
    empty = np.empty((len(candidates), 0), dtype=np.int64)
    predict = predictions(name, model, batches.rows(candidates.rows, empty, model.window))
    hidden, positive = list(histories(batches, candidates)), torch.as_tensor(candidates.position + 1)
    default = max(4096 // len(log.items), 1)
    ranking = FullRanking(model, seen_items(batches.split), log.events, "cpu", name)
    chunks = [slice(low, low + ROWS) for low in range(0, len(candidates), ROWS)]
    ready = [batches.rows(candidates.rows[chunk], empty[chunk], model.window) for chunk in chunks]

    def from_ready() -> None:
        for chunk, batch in zip(chunks, ready, strict=True):
            ranking.count(batch, candidates.rows[chunk], candidates.position[chunk], chunk.start)

    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "ours, ready", "RecBole", "RecBole, 256 rows")}
    for _ in range(rounds):
        seconds["ours"].append(timed(lambda: rank(model, batches, candidates, model.window)))
        seconds["ours, ready"].append(timed(from_ready))
        seconds["RecBole"].append(timed(lambda: full_sort(predict, hidden, positive, default)))
        seconds["RecBole, 256 rows"].append(timed(lambda: full_sort(predict, hidden, positive, ROWS)))
    medians = {side: median(values) for side, values in seconds.items()}
    whole, equal = medians["RecBole"] / medians["ours"], medians["RecBole, 256 rows"] / medians["ours, ready"]
    listed = ", ".join(f"{side} {value:.3f} s" for side, value in medians.items())
    print(
        f"{name}, {len(log.items):,} items, {len(candidates):,} rows: {listed}; speed {whole:.2f} of RecBole's, "
        f"{equal:.2f} with ready tensors and {ROWS} rows",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=43_000, help="of the synthetic log; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logs = [open_data("ml-100k").log, *([synthetic(given.items)] if given.items else [])]
    for log in logs:
        for name in ("sasrec", "lightgcn"):
            compare(name, log, given.rounds)


if __name__ == "__main__":
    main()
