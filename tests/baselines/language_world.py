"""A small log for models around a language model, and a small pretrained T5 in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.log import Log
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker import backbone
from bench.ranker.contract import Context


class World:
    """A small log with its batches, and models on it."""

    def __init__(self, log: Log):
        self.log = log
        self.batches = Batches(split(self.log))
        self.catalog = Catalog(self.log)

    def model(self, cls, tasks=None, seed=0, **settings):
        torch.manual_seed(0)
        tasks = tasks or cls.entry.tasks
        config = cls.Config(**{"backbone": "small-t5"} | settings)
        return cls(config, Context(self.catalog, seed=seed, tasks=tasks, backbones=backbone.load)).eval()

    def train(self, model) -> TrainData:
        return TrainData(self.batches, model.context.tasks, 0)

    def step(self, model) -> Batch:
        return next(model.stream(self.train(model)).batches(0, 1))

    def batch(self, model, candidates: int = 7) -> Batch:
        tasks = model.context.tasks
        rows = np.concatenate([self.batches.split.rows("test", task)[:5] for task in tasks])
        rng = np.random.default_rng(0)
        cand = np.stack([rng.permutation(self.catalog.n_items)[:candidates] + 1 for _ in rows])
        return self.batches.rows(rows, cand, model.window)


class Validation:
    """Says after each check that it was the best one."""

    def __init__(self):
        self.value = 0.5

    def evaluate(self, score):
        self.value += 0.01
        return {f"{name}/N@10": self.value for name in ("rec", "search", "mean")}


@torch.no_grad()
def scores(model, batch: Batch) -> torch.Tensor:
    return model.score(batch)


def save_t5(folder: Path, catalog: Catalog, texts: list[str]) -> str:
    """A T5 of another size with its tokenizer, as `save_pretrained` writes one; returns the folder's name."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = backbone.small_tokenizer(catalog, texts)
    config = T5Config(
        vocab_size=len(tokenizer) + 5,  # like flan-t5, more rows than tokens
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def stage_facts(model: Any, train: Any) -> list[tuple]:
    """Of each stage: its name, epochs, rate, bound of steps, what selects, and the rows of its first batch."""
    return [
        (
            stage.name, stage.config.epochs, stage.config.lr, stage.config.max_steps, stage.select,
            len(next(stage.stream(train).batches(0, 1))),
        )
        for stage in model.stages(train)
    ]  # fmt: skip
