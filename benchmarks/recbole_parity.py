"""RecBole's own training beside ours: the same network, rows, number of updates and full ranking, over several seeds.

    python benchmarks/recbole_parity.py [--models SASRec,GRU4Rec,BERT4Rec] [--seeds 0,1,2] [--epochs 5] [--out FILE]

MovieLens-100K, 5-core, leave-one-out, recommendation clicks only. Ours is written into RecBole's atomic files with the
split made beforehand (`benchmark_filename`), every click with its last 20. RecBole's side is a process of its own that
runs its configuration, loaders, trainer and prediction; ours trains the bridged class by the harness with
`recbole_exact`. Both take the weights after the last of `--epochs` passes of batches of 128. Both sides' scores of the
test rows are ranked by the same few lines here: the whole catalogue but what the user touched, N@10.

Each fit is a line of FILE (JSON); fits that are there are not repeated. Both sides must make the same number of updates. A
difference counts as none where the means over the seeds lie within the larger of the two spreads (highest minus lowest seed);
the training loss of the last pass stands beside it, which varies much less between seeds. RecBole has to be installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data import sources
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.ranker import registry
from bench.ranker.context import Silent
from bench.ranker.contract import Context

LENGTH, BATCH, LR = 20, 128, 1e-3
SIZES: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "loss_type": "CE"},
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "loss_type": "CE"},
    "BERT4Rec": {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "loss_type": "CE"},
}
PARTS = ("train", "valid", "test")
SIDES = ("recbole", "harness")


def rows_of(parts: LogSplit, part: str) -> Batch:
    """The rows of a part that have a history, with their clicked item as the only candidate."""
    from bench.data.history import Window

    rows = parts.rows(part, "rec")
    batch = Batches(parts).rows(rows, parts.log.events.item[rows][:, None], Window(rec=LENGTH, search=0, clicks=1))
    return batch.take(batch.rec_len > 0)


def write_files(parts: LogSplit, folder: Path) -> None:
    """RecBole's atomic files of each part: user, past and clicked item, by the ids of the log."""
    target = folder / "parity"
    target.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        batch = rows_of(parts, part)
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        columns = (batch.user.tolist(), batch.rec_items.tolist(), batch.rec_len.tolist(), batch.cand[:, 0].tolist())
        for user, past, length, item in zip(*columns, strict=True):
            lines.append(f"{user}\t{' '.join(map(str, past[:length]))}\t{item}")
        (target / f"parity.{part}.inter").write_text("\n".join(lines) + "\n")


def repair_libraries() -> None:
    """Bring back what RecBole 1.2.1 reads of older libraries: names of numpy, and `Series.agg(len)` row by row of pandas."""
    import pandas as pd

    for alias, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, alias, kind)
    whole = pd.Series.agg

    def agg(self: Any, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.map(len) if func is len else whole(self, func, *args, **kwargs)

    pd.Series.agg = agg  # type: ignore[method-assign, assignment]


def recbole_side(name: str, seed: int, epochs: int, folder: Path) -> None:
    """Train by RecBole's code and write the scores of the test rows, columns by the ids of the log; a process of its own."""
    repair_libraries()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    options = {
        "seed": seed, "reproducibility": True, "state": "WARNING", "show_progress": False, "use_gpu": False,
        "data_path": str(folder), "benchmark_filename": list(PARTS), "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "MAX_ITEM_LIST_LENGTH": LENGTH,
        "train_batch_size": BATCH, "eval_batch_size": 256, "learning_rate": LR, "epochs": epochs,
        "train_neg_sample_args": None, "checkpoint_dir": str(folder), **SIZES[name],
    }  # fmt: skip
    sys.argv = sys.argv[:1]
    config = Config(model=name, dataset="parity", config_dict=options)
    init_seed(seed, True)
    data = create_dataset(config)
    train, _, test = data_preparation(config, data)
    init_seed(seed, True)
    model = get_model(name)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's models switches it on, which doubles the time
    started = time.process_time()
    trainer.fit(train, None, saved=False, verbose=False)
    seconds = time.process_time() - started
    model.eval()
    tokens = data.field2id_token["item_id"]
    ids = torch.tensor([int(token) if token != "[PAD]" else 0 for token in tokens])
    users = data.field2id_token["user_id"]
    pieces, who = [], []
    with torch.no_grad():
        for batch in test:
            interaction = batch[0]
            pieces.append(model.full_sort_predict(interaction).view(len(interaction), -1))
            who += [int(users[user]) for user in interaction["user_id"].tolist()]
    scores = torch.full((len(who), int(ids.max()) + 1), -torch.inf)
    scores[:, ids] = torch.cat(pieces)
    updates = len(train) * epochs
    loss = trainer.train_loss_dict[epochs - 1] / len(train)
    facts = {"updates": updates, "loss": loss, "seconds": seconds}
    np.savez(folder / "scores.npz", scores=scores.numpy(), user=np.array(who), **facts)


class NoValidation:
    """Trains without looking at validation rows."""

    def evaluate(self, score: Any) -> dict[str, float]:
        """Better with each check, so that the weights after the last pass are kept."""
        self.value = getattr(self, "value", 0.0) + 0.001
        return {"mean/N@10": self.value, "rec/N@10": self.value}


class Losses(Silent):
    """Keeps the mean training loss of the last pass."""

    last = float("nan")

    def epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """A pass is done."""
        self.last = values["train/loss"]


class WithHistory(TrainData):
    """The training rows that have a history: what RecBole's files hold."""

    def __init__(self, parts: LogSplit, seed: int):
        batches = Batches(parts)
        super().__init__(batches, ("rec",), seed)
        from bench.data.history import Window

        window = Window(rec=1, search=0, clicks=1)
        batch = batches.rows(self._rows, parts.log.events.item[self._rows][:, None], window)
        self._rows = self._rows[batch.rec_len.numpy() > 0]


def our_side(name: str, seed: int, epochs: int, parts: LogSplit) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Scores (R, n_items + 1) of the test rows, their users; updates, last loss and processor seconds."""
    cls = registry.get(f"recbole:{name}")
    settings = {
        "options": SIZES[name], "batch_size": BATCH, "history_rec": LENGTH, "epochs": epochs, "lr": LR,
        "patience": epochs + 1, "recbole_exact": True,
    }  # fmt: skip
    torch.manual_seed(seed)
    losses = Losses()
    model = cls(cls.Config(**settings), Context(Catalog(parts.log), seed=seed, tasks=("rec",), progress=losses))
    started = time.process_time()
    facts = model.fit(WithHistory(parts, seed), NoValidation())
    seconds = time.process_time() - started
    model.eval()
    batch = rows_of(parts, "test")
    everything = torch.arange(1, len(parts.log.items) + 1)
    pieces = []
    with torch.no_grad():
        for rows in torch.arange(len(batch)).split(256):
            some = batch.take(rows)
            some.cand = everything.expand(len(rows), -1)
            pieces.append(model.score(some))
    scores = torch.nn.functional.pad(torch.cat(pieces), (1, 0), value=-torch.inf)
    found = {"updates": int(facts["steps"]), "loss": float(losses.last), "seconds": seconds}
    return scores.numpy(), batch.user.numpy(), found


def ndcg(scores: np.ndarray, users: np.ndarray, parts: LogSplit) -> float:
    """Mean N@10 over the test rows, the clicked item among all that its user never touched; ties count half."""
    events = parts.log.events
    rows = parts.rows("test", "rec")
    target = dict(zip(events.user[rows].tolist(), events.item[rows].tolist(), strict=True))
    gains = []
    for row, user in zip(scores, users.tolist(), strict=True):
        others = np.ones(len(row), dtype=bool)
        others[events.item[events.user == user]] = False
        others[0] = False
        wanted = row[target[user]]
        rank = 1 + (row[others] > wanted).sum() + (row[others] == wanted).sum() / 2
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
    return float(np.mean(gains))


def table(lines: list[dict[str, Any]]) -> str:
    """Means and seeds of both sides."""
    head = [
        "model",
        "updates",
        "N@10, RecBole's trainer",
        "harness",
        "difference",
        "spread",
        "within",
        "last loss of both",
    ]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in dict.fromkeys(line["model"] for line in lines):
        of = {side: [line for line in lines if (line["model"], line["side"]) == (name, side)] for side in SIDES}
        if not all(of.values()):
            continue
        updates = {line["updates"] for found in of.values() for line in found}
        if len(updates) > 1:
            raise SystemExit(f"{name}: different numbers of updates, {sorted(updates)}; these fits cannot be compared")
        sides = {side: [line["N@10"] for line in found] for side, found in of.items()}
        means = {side: statistics.mean(values) for side, values in sides.items()}
        spread = max(max(values) - min(values) for values in sides.values())
        difference = means["harness"] - means["recbole"]
        shown = [f"{means[s]:.4f} ({', '.join(f'{v:.4f}' for v in sides[s])})" for s in SIDES]
        verdict = "yes" if abs(difference) <= spread else "no"
        losses = ", ".join(f"{statistics.mean(line['loss'] for line in of[side]):.4f}" for side in SIDES)
        cells = [name, f"{updates.pop():,}", *shown, f"{difference:+.4f}", f"{spread:.4f}", verdict, losses]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def main() -> None:
    """Parse the arguments, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("recbole-parity.jsonl"))
    parser.add_argument("--recbole", nargs=3, metavar=("MODEL", "SEED", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.recbole:
        name, seed, folder = given.recbole
        os.chdir(folder)  # RecBole writes logs into the working folder
        recbole_side(name, int(seed), given.epochs, Path(folder))
        return
    parts = split(sources.load("ml-100k", {"mode": "mirror"}))
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {(line["model"], line["side"], line["seed"], line["epochs"]) for line in lines}
    for seed in map(int, given.seeds.split(",")):
        for name in given.models.split(","):
            for side in SIDES:
                if (name, side, seed, given.epochs) in known:
                    continue
                if side == "harness":
                    scores, users, facts = our_side(name, seed, given.epochs, parts)
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        write_files(parts, Path(folder))
                        asked = ["--recbole", name, str(seed), folder, "--epochs", str(given.epochs)]
                        subprocess.run([sys.executable, str(Path(__file__).resolve()), *asked], check=True)
                        with np.load(Path(folder) / "scores.npz") as found:
                            scores, users = found["scores"], found["user"]
                            facts = {key: found[key].item() for key in ("updates", "loss", "seconds")}
                value = {"rows": len(users), "N@10": round(ndcg(scores, users, parts), 5)}
                lines.append({"model": name, "side": side, "seed": seed, "epochs": given.epochs} | facts | value)
                with given.out.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(lines[-1], flush=True)
    print(table([line for line in lines if line["epochs"] == given.epochs]))


if __name__ == "__main__":
    main()
