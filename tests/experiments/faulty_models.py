"""Somebody's package with models that go wrong in processes of their own, and a small log to run them on."""

from pathlib import Path

MODELS = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from bench.ranker.contract import Config, Ranker, TorchRanker, TrainConfig
from bench.ranker.registry import register

class Settings(Config):
    note: str = ""

class _Base(Ranker):
    Config = Settings
    def fit(self, train, valid):
        self.work()
        return {"epochs": 0}
    def state(self):
        return {"w": torch.zeros(1)}
    def load_state(self, state):
        pass
    def score(self, batch):
        return -batch.cand.float()

@register("fine", title="Fine", tasks=("rec", "search"), group="unified")
class Fine(_Base):
    def work(self):
        pass

@register("slow", title="Slow", tasks=("rec", "search"), group="unified")
class Slow(_Base):
    def work(self):
        time.sleep(600)

@register("greedy", title="Greedy", tasks=("rec", "search"), group="unified")
class Greedy(_Base):
    def work(self):
        kept = []
        for _ in range(100):
            kept.append(torch.ones(5_000_000))  # 20 MB
            time.sleep(.02)

@register("killed", title="Killed", tasks=("rec", "search"), group="unified")
class Killed(_Base):
    def work(self):
        os.kill(os.getpid(), signal.SIGKILL)

@register("killed-once", title="Killed once", tasks=("rec", "search"), group="unified")
class KilledOnce(_Base):
    def work(self):
        if not Path(self.config.note).exists():
            Path(self.config.note).write_text("here")
            os.kill(os.getpid(), signal.SIGKILL)

@register("broken", title="Broken", tasks=("rec", "search"), group="unified")
class Broken(_Base):
    def work(self):
        raise ValueError("no such luck")

class StepsConfig(TrainConfig):
    dim: int = 8
    lr: float = 1e-2
    epochs: int = 6
    steps_per_epoch: int = 4
    batch_size: int = 32
    patience: int = 20
    pause: float = 0.0

@register("steps", title="Steps", tasks=("rec", "search"), group="unified")
class Steps(TorchRanker):
    Config = StepsConfig
    search_space = {"lr": ("loguniform", 1e-4, 1e-1), "dim": [4, 8, 16]}
    uses_history, uses_user = False, True

    def __init__(self, config, context):
        super().__init__(config, context)
        self.user = nn.Embedding(self.catalog.n_users + 1, config.dim)
        self.item = nn.Embedding(self.catalog.n_items + 1, config.dim)

    def score(self, batch):
        return (self.user(batch.user)[:, None] * self.item(batch.cand)).sum(-1)

    def loss(self, batch):
        time.sleep(self.config.pause)
        scores = self.score(batch)
        return -(scores.log_softmax(-1) * batch.label).sum(-1).mean()

@register("other-steps", title="Other steps", tasks=("rec", "search"), group="unified")
class OtherSteps(Steps):
    search_space = {"lr": [1e-3, 1e-2, 3e-2]}
"""
NAMES = ("fine", "slow", "greedy", "killed", "killed-once", "broken", "steps", "other-steps")


def write_package(folder: Path) -> Path:
    """Write the package as pip would install it; its folder is for the import path."""
    package, facts = folder / "faulty_models", folder / "faulty_models-1.0.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    (package / "__init__.py").write_text(MODELS)
    classes = ["".join(part.capitalize() for part in name.split("-")) for name in NAMES]
    lines = [f"{name} = faulty_models:{cls}" for name, cls in zip(NAMES, classes, strict=True)]
    (facts / "entry_points.txt").write_text("\n".join(["[bench.models]", *lines]) + "\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-models\nVersion: 1.0\n")
    return folder


def write_log(folder: Path, users: int = 60, items: int = 150) -> Path:
    """A small log of events in both tasks: users come back to items near their own number."""
    folder.mkdir(parents=True)
    lines = ["user,item,time,task,query"]
    for user in range(users):
        for place in range(14):
            task = ("rec", "search")[place % 2]
            query = f"q{place}" if task == "search" else ""
            item = (user * 7 + place * (3 + user % 5)) % items
            lines.append(f"u{user},i{item},{1_600_000_000_000 + (place * 97 + user) * 1000},{task},{query}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    queries = [f"q{place},words {place}" for place in range(14)]
    (folder / "queries.csv").write_text("\n".join(["query,text", *queries]) + "\n")
    return folder
