"""A small log for GenSR, models on it, and what their language model reads and answers."""

import numpy as np
import torch

from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.models.gensr.model import GenSR
from bench.ranker import backbone
from bench.ranker.contract import Context

SHORT = {"backbone": "small-t5", "cf_epochs": 2, "cf_dim": 8, "batch_size": 32, "history": 6}


class World:
    """A small log with its batches, and models on it."""

    def __init__(self, make_log):
        self.log = make_log(n_users=20, n_items=60, length=14, n_queries=8)
        self.batches = Batches(split(self.log))
        self.catalog = Catalog(self.log)
        self.train = TrainData(self.batches, ("rec", "search"), 0)

    def model(self, context: Context | None = None, **settings) -> GenSR:
        torch.manual_seed(0)
        model = GenSR(
            GenSR.Config(**(SHORT | settings)), context or Context(self.catalog, seed=0, backbones=backbone.load)
        )
        model.precompute(self.train)
        return model.eval()

    def batch(self, model: GenSR, candidates: int = 7) -> Batch:
        rows = np.concatenate([self.batches.split.rows("test", task)[:5] for task in ("rec", "search")])
        rng = np.random.default_rng(0)
        cand = np.stack([rng.permutation(60)[:candidates] + 1 for _ in rows])
        return self.batches.rows(rows, cand, model.window)

    def step(self, model: GenSR) -> Batch:
        return next(model.stream(self.train).batches(0, 1))


@torch.no_grad()
def scores(model: GenSR, batch: Batch) -> torch.Tensor:
    return model.score(batch)


class Seen:
    """What the language model reads and answers while a block runs: inputs, masks and logits of each call."""

    def __init__(self, model: GenSR):
        self.inputs: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []
        self._model, self._read = model, model._read

    def __enter__(self) -> "Seen":
        def note(words, of, inserts, places, mask):
            states = self._read(words, of, inserts, places, mask)
            self.inputs.append(laid_out(words, of, inserts, places).detach())
            self.logits.append(self._model.lm.get_output_embeddings()(states).detach())
            return states

        self._model._read = note
        return self

    def __exit__(self, *error) -> None:
        self._model._read = self._read


def laid_out(words, of, inserts, places) -> torch.Tensor:
    """Prompts with their vectors in place, one by one: (R * K, T, d)."""
    rows = []
    for row, prompt in enumerate(of.tolist()):
        for candidate in inserts[row]:
            read = words[prompt].clone()
            for vector, place in zip(candidate, places[prompt].tolist(), strict=True):
                read[place] = vector
            rows.append(read)
    return torch.stack(rows)


def embedded(model: GenSR, batch: Batch, task: int) -> tuple[Batch, torch.Tensor]:
    """The rows of a task, and what the language model reads for them: (R, K, T, width)."""
    part = batch.take(batch.task == task)
    with Seen(model) as seen:
        scores(model, part)
    return part, seen.inputs[0].unflatten(0, part.cand.shape)


def inserted(model: GenSR, batch: Batch, task: int) -> torch.Tensor:
    """c_hat, s_hat, e_i, t_i of the rows of a task, where the prompt has them: (R, K, 4, width)."""
    part, read = embedded(model, batch, task)
    plan = model.prompts.plan(task, part.query)
    return read[torch.arange(len(part))[:, None], :, plan.inserts].transpose(1, 2)


def titles(model: GenSR) -> torch.Tensor:
    """(n_items + 1, width) mean word vector of each item's text, on the scale of the views."""
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    rows = [torch.zeros(64)]
    for text in model.catalog.item_text[1:]:
        ids = tokenizer(str(text), add_special_tokens=False)["input_ids"][: model.config.title_tokens]
        rows.append(model.words.weight[ids].mean(0).detach())
    return torch.stack(rows) / model.scale


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
