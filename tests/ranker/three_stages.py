"""A model with three stages and a frozen part, and a program that kills its fit again and again.

    python three_stages.py FOLDER KILLS

It forks a process for each attempt. An attempt ends itself by SIGKILL after a random number of steps, half of them while
a checkpoint is written. Printed: one JSON object with the digests of the final state and the steps of each attempt.
"""

import hashlib
import importlib.util
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.scoring import RowValidation
from bench.ranker.context import Silent
from bench.ranker.contract import Context, Stage, TorchRanker, TrainConfig, Window
from bench.ranker.registry import register

EPOCHS = {"table": 3, "round-1": 2, "fit": 4}


class Config(TrainConfig):
    epochs: int = 4
    batch_size: int = 32
    lr: float = 0.05
    table_epochs: int = 3
    table_batch_size: int = 64


@register("three-stages", title="Three stages", tasks=("rec", "search"), group="rec")
class ThreeStages(TorchRanker):
    """A user table is learnt, copied and frozen; then items alone; then all, with dropout, beside a frozen matrix."""

    Config = Config
    stage = ""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.user = nn.Embedding(self.catalog.n_users + 1, 8)
        self.item = nn.Embedding(self.catalog.n_items + 1, 8)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.register_buffer("prior", torch.zeros(self.catalog.n_users + 1, 8))
        self.dropout = nn.Dropout(0.3)

    def score(self, batch):
        user = self.dropout(self.user(batch.user) + self.prior[batch.user])
        return torch.einsum("bd,bkd->bk", self.frozen(user), self.item(batch.cand))

    def loss(self, batch):
        loss = nn.functional.binary_cross_entropy_with_logits(self.score(batch), batch.label)
        return loss, {"half": loss / 2}

    def named(self, stage):
        """The loss, which leaves the name of its stage for the log of steps."""

        def loss(batch):
            ThreeStages.stage = stage
            return self.loss(batch)

        return loss

    def scale(self):
        with torch.no_grad():
            self.item.weight.mul_(0.5 + torch.rand(()))

    def keep_users(self):
        self.prior.copy_(self.user.weight.detach())

    def stages(self, train):
        config = self.config
        table = config.for_stage("table", plateau=1)
        return [
            Stage(
                "table", table, self.named("table"),
                lambda data: data.events(table.batch_size, negatives=2, window=self.window),
                lambda: [{"params": [self.user.weight], "optimizer": "row_adagrad"}],
                select="last", finish=self.keep_users,
            ),
            Stage(
                "round-1", config.for_stage("", epochs=2, check_every=4, optimizer="sgd", momentum=0.9, schedule="cosine"),
                parameters=lambda: [{"params": [self.item.weight]}], select="loss", start=self.scale,
                loss=self.named("round-1"), stream=self.stream,
            ),
            Stage("fit", config, self.named("fit"), self.stream, self.parameter_groups),
        ]  # fmt: skip


def world():
    path = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("conftest_of_stages", path)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    return conftest.random_log(n_users=40, n_items=150, length=10)


def attempt(log, checkpoints=None, progress=None, listener=None, **settings):
    """One fit from its last checkpoint: (model, facts)."""
    batches = Batches(split(log))
    context = Context(Catalog(log), seed=1, checkpoints=checkpoints, progress=progress, listener=listener)
    torch.manual_seed(7)
    model = ThreeStages(Config(**settings), context)
    tasks = ("rec", "search")
    return model, model.fit(TrainData(batches, tasks, 1), RowValidation(batches, tasks, Window()))


def digest(model):
    value = hashlib.sha256()
    for name, entry in sorted(model.state().items()):
        value.update(name.encode() + entry.numpy().tobytes())
    return value.hexdigest()


class Files:
    """Checkpoints as one file that is replaced at once; dies in the middle of writing when `doomed`."""

    def __init__(self, folder, doomed=lambda: False):
        self.path, self.doomed = Path(folder) / "checkpoint.pt", doomed

    def save(self, state):
        scratch = self.path.with_suffix(".new")
        torch.save(state, scratch)
        if self.doomed():
            os.kill(os.getpid(), signal.SIGKILL)
        os.replace(scratch, self.path)

    def load(self):
        return torch.load(self.path, weights_only=True) if self.path.exists() else None


class Steps(Silent):
    """Writes each step to a file at once and dies after `lifetime` steps."""

    def __init__(self, path, lifetime=None):
        self.file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        self.lifetime, self.seen = lifetime, 0

    def step(self, epoch, step, steps, loss):
        os.write(self.file, f"{ThreeStages.stage} {(epoch - 1) * steps + step}\n".encode())
        self.seen += 1
        if self.seen == self.lifetime:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, kills):
    torch.set_num_threads(1)
    log, rng = world(), random.Random(3)
    for number in range(kills + 1):
        pid = os.fork()
        if pid == 0:
            last = number == kills
            progress = Steps(Path(folder) / f"steps-{number}", None if last or number % 2 else rng.randint(1, 9))
            left = [rng.randint(1, 3)]

            def doomed(left=left, number=number, last=last):
                left[0] -= 1
                return not last and number % 2 == 1 and left[0] == 0

            model, facts = attempt(log, Files(folder, doomed), progress)
            (Path(folder) / "result.json").write_text(json.dumps({"digest": digest(model), "facts": facts}))
            os._exit(0)
        rng.random()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == (0 if number == kills else -signal.SIGKILL), (number, code)
    plain, facts = attempt(log)
    killed = json.loads((Path(folder) / "result.json").read_text())
    steps = [(Path(folder) / f"steps-{number}").read_text().splitlines() for number in range(kills + 1)]
    print(json.dumps({"killed": killed, "plain": {"digest": digest(plain), "facts": facts}, "attempts": steps}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
