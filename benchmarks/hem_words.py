"""What HEM's word losses learn where reviews are real: words near items, and whether user vectors know their users' words.

    python benchmarks/hem_words.py [--dataset amazon:Gift_Cards] [--data DIR] [--items 3] [--steps 1500]

Printed as Markdown: the words nearest to the items with most training reviews, by the cosine with the item's vector, among words that
occur at least `--least` times; and the area under the curve of a user's own words among all such words, by the user's vector, by
another user's, and by how frequent the words are. The second differs from the first by the user alone.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats

from bench.baselines.hem import HEM
from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.ragged import Ragged
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.scoring import RowValidation
from bench.ranker.blocks.word_bags import item_words, user_words
from bench.ranker.contract import Context


def fitted(dataset: str, root: Path | None, settings: dict[str, Any]) -> tuple[HEM, Catalog, TrainData]:
    """HEM, trained on the searches of a data set."""
    log = sources.load(dataset, {}, root)
    batches, catalog = Batches(split(log, sources.entry(dataset).split)), Catalog(log)
    torch.manual_seed(0)
    model = HEM(HEM.Config(**HEM.quick | settings), Context(catalog, seed=0, tasks=("search",)))
    train = TrainData(batches, ("search",), 0)
    model.fit(train, RowValidation(batches, ("search",), model.window))
    return model, catalog, train


def counts(bags: Ragged, words: int) -> np.ndarray:
    """(rows, words) how often each row has each word."""
    row = np.repeat(np.arange(len(bags.lengths)), bags.lengths)
    table = np.zeros((len(bags.lengths), words), dtype=np.int32)
    np.add.at(table, (row, bags.values), 1)
    return table


def own_words_first(scores: np.ndarray, own: np.ndarray) -> float:
    """Area under the curve: how often a word of one's own stands before another; ties count half."""
    ranks = stats.rankdata(scores)
    n = int(own.sum())
    return float((ranks[own].sum() - n * (n + 1) / 2) / (n * (len(own) - n)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon:Gift_Cards")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--items", type=int, default=3)
    parser.add_argument("--nearest", type=int, default=8)
    parser.add_argument("--least", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, catalog, train = fitted(options.dataset, options.data, {"max_steps": options.steps})
    of_items, sentence = item_words(catalog, train, model.config.words)
    of_users, written = user_words(catalog, train, model.config.words)
    words, users = model.words.weight.detach(), model.users.weight.detach().numpy()
    written_by = counts(of_users, catalog.n_words + 1)  # (n_users + 1, n_words + 1)
    frequency = written_by.sum(0)
    known = np.flatnonzero((frequency >= options.least) & (np.arange(len(frequency)) > 0))
    names = catalog.word_text
    print(f"{catalog.name}: {sentence}; users: {written}; {len(known)} words occur at least {options.least} times\n")
    print("| item | training words | nearest words |\n|---|---|---|")
    for item in np.argsort(-of_items.lengths, kind="stable")[: options.items]:
        near = F.cosine_similarity(model.items.weight[item].detach()[None], words[known])
        best = [str(names[known[at]]) for at in near.argsort(descending=True)[: options.nearest].tolist()]
        title = str(catalog.item_text[item]).split(". ")[0]
        print(f"| {title} | {of_items.lengths[item]} | {', '.join(best)} |")
    table, bias = words[known].numpy(), model.word_biases.detach().numpy()[known]
    writers = np.flatnonzero(((written_by[:, known] > 0).sum(1) > 0) & (np.arange(len(users)) > 0))
    other = np.roll(writers, 1)
    found: dict[str, list[float]] = {"own vector": [], "another user's": [], "frequency": []}
    for user, stranger in zip(writers, other, strict=True):
        own = written_by[user, known] > 0
        ways = (table @ users[user] + bias, table @ users[stranger] + bias, frequency[known] - written_by[user, known])
        for way, scores in zip(found, ways, strict=True):
            found[way].append(own_words_first(scores, own))
    print(f"\n| words of {len(writers)} users by | area under the curve | standard error |\n|---|---|---|")
    for way, values in found.items():
        print(f"| {way} | {np.mean(values):.3f} | {np.std(values, ddof=1) / len(values) ** 0.5:.3f} |")


if __name__ == "__main__":
    main()
