"""GenSR's scoring and training beside the straightforward way and beside the language model alone.

    python benchmarks/gensr_scoring.py [--shape small|base] [--rounds 5] [--train]

One thread, processor time; the ways take turns within one run, each with the number of prompts at once that suits it best. 100
candidates, histories of 20 items whose titles have 10 tokens, random weights, the vocabulary of flan-t5 (32,128). The ways are

- ours: histories once a list, words of a prompt once, two rows of the output head;
- naive: each candidate with its own history, the whole vocabulary, `generate` with one new token. The same prompts;
- floor: transformers' T5 on the same number of tokens and nothing else: encoder, one decoder step, two rows of the head.

In training (--train) a row is a click with 4 negatives and all ways go forward and backward through the loss; the naive way takes
each of the five with its own history. The floor has the head that the loss asks for: the vocabulary, as in eq. 9, or the two answers.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from bench.data.batch import Batch, Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.split import split
from bench.models.gensr.model import GenSR
from bench.ranker import backbone
from bench.ranker.contract import Backbone, Context

SHAPES = {
    "small": {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 2, "feed_forward_proj": "relu"},
    "base": {
        "d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 2048, "num_layers": 12, "feed_forward_proj": "gated-gelu",
    },
}  # fmt: skip
VOCABULARY, TITLE, HISTORY, ITEMS = 32_128, 10, 20, 150
# Prompts at once that are tried; of the histories the naive way encodes as many.
CHUNKS = {"small": (50, 100, 200), "base": (10, 50)}
MEGABYTES = {"small": (4, 12, 48), "base": (24, 48)}


def world() -> tuple[Catalog, Batches]:
    """A log with titles of ten words and users with more acts than are read."""
    rng = np.random.default_rng(0)
    users = 12
    length = HISTORY + 6
    user = np.repeat(np.arange(users), length).astype(str)
    item = np.concatenate([rng.permutation(ITEMS)[:length] for _ in range(users)]).astype(str)
    events = pd.DataFrame({"act": np.arange(len(user)), "user": user, "item": item, "time": np.arange(len(user))})
    events["task"], events["query"] = 0, ""
    titles = [" ".join(f"w{word}" for word in rng.integers(0, 900, TITLE)) for _ in range(ITEMS)]
    items = pd.DataFrame({"id": np.arange(ITEMS).astype(str), "text": titles})
    log = build("benchmark", "natural", events, items, pd.DataFrame({"id": [], "text": []}), seed=0)
    return Catalog(log), Batches(split(log, "leave-one-out"))


def model_of(shape: str, catalog: Catalog, **settings) -> GenSR:
    """GenSR with random weights around a T5 of the shape; no dropout, so that all ways compute the same."""

    def load(name: str, catalog: Catalog, seed: int, texts: list[str]) -> Backbone:
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=VOCABULARY, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
            tie_word_embeddings=False, attn_implementation="sdpa", **SHAPES[shape],
        )  # fmt: skip
        lm = T5ForConditionalGeneration(config).eval()
        lm.shared.weight.data.mul_(0.3)
        return Backbone(shape, lm, backbone.load("small-t5", catalog, seed, texts).tokenizer)

    torch.manual_seed(0)
    config = GenSR.Config(backbone=shape, history=HISTORY, dropout=0.0, title_tokens=TITLE, **settings)
    model = GenSR(config, Context(catalog, backbones=load)).eval()
    model.cf.normal_()
    return model


def lists(batches: Batches, model: GenSR, rows: int, candidates: int) -> Batch:
    """`rows` rows of recommendation with `candidates` each."""
    known = batches.split.rows("test", "rec")
    found = np.resize(known, rows)
    rng = np.random.default_rng(1)
    cand = np.stack([rng.permutation(model.catalog.n_items)[:candidates] + 1 for _ in found])
    return batches.rows(found, cand, Window(rec=HISTORY, search=1))


def apart(model: GenSR, batch: Batch, chunk: int) -> Iterator[Tensor]:
    """Each candidate as a row of its own with its own history, `chunk` of them at once: embedded prompts (n, T, d)."""
    rows, count = batch.cand.shape
    pairs = torch.arange(rows).repeat_interleave(count)
    flat = batch.cand.flatten()[:, None]
    for low in range(0, len(pairs), chunk):
        part = batch.take(pairs[low : low + chunk])
        part.cand = flat[low : low + chunk]
        inserts, _ = model._inserts(model.encode(part), part.cand)  # (n, 1, 4, d)
        prompt = model.prompts.plan(0, part.query)
        text = model.words(prompt.ids)
        yield text.scatter(1, prompt.inserts[..., None].expand(-1, -1, text.shape[-1]), inserts[:, 0])


@torch.no_grad()
def naive_scores(model: GenSR, batch: Batch, chunk: int) -> Tensor:
    found = []
    for read in apart(model, batch, chunk):
        out = model.lm.generate(
            inputs_embeds=read, attention_mask=torch.ones(read.shape[:2], dtype=torch.long), max_new_tokens=1,
            do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        found.append(out.logits[0][:, model.yes] - out.logits[0][:, model.no])
    return torch.cat(found).view(batch.cand.shape)


@torch.no_grad()
def our_scores(model: GenSR, batch: Batch, megabytes: int) -> Tensor:
    model.config.scoring_mb = megabytes
    return model.score(batch)


def floor(model: GenSR, read: Tensor, words: bool) -> Tensor:
    """Transformers' T5 on embedded prompts: logits of the first token, over the vocabulary or of the two answers."""
    lm = model.lm
    states = lm.encoder(inputs_embeds=read).last_hidden_state
    start = torch.zeros(len(read), 1, dtype=torch.long)
    out = lm.decoder(input_ids=start, encoder_hidden_states=states, use_cache=False).last_hidden_state[:, 0]
    head = lm.lm_head.weight
    return F.linear(out, head if words else head[[model.yes, model.no]])


@torch.no_grad()
def floor_scores(model: GenSR, prompts: int, tokens: int, chunk: int) -> None:
    width = model.lm.config.d_model
    for low in range(0, prompts, chunk):
        floor(model, torch.randn(min(chunk, prompts - low), tokens, width), False)


def taken(way: Callable[[], object]) -> float:
    started = time.process_time()
    way()
    return time.process_time() - started


def best_of(ways: dict[int, Callable[[], object]], rounds: int = 2) -> int:
    """The chunk that is fastest, over `rounds` after one to warm up."""
    for way in ways.values():
        way()
    return min(ways, key=lambda chunk: min(taken(ways[chunk]) for _ in range(rounds)))


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor seconds of each way; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = taken(way)
            if number:
                times[name].append(seconds)
    return {name: statistics.median(each) for name, each in times.items()}


def peak(way: Callable[[], object]) -> float:
    """Megabytes by which a way raises the peak memory of a process that has done nothing else."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        before = _resident()
        way()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        os.write(writer, f"{grown:.1f}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return float(answer.read())


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def scoring(shape: str, rounds: int) -> None:
    catalog, batches = world()
    model = model_of(shape, catalog)
    batch = lists(batches, model, 2 if shape == "small" else 1, 100)
    prompts = batch.cand.numel()
    tokens = int(model.prompts.lengths(0, batch.query[:1]))
    chunks = {
        "ours": best_of({mb: lambda mb=mb: our_scores(model, batch, mb) for mb in MEGABYTES[shape]}),
        "naive": best_of({n: lambda n=n: naive_scores(model, batch, n) for n in CHUNKS[shape]}),
        "floor": best_of({n: lambda n=n: floor_scores(model, prompts, tokens, n) for n in CHUNKS[shape]}),
    }
    ways = {
        "ours": lambda: our_scores(model, batch, chunks["ours"]),
        "naive": lambda: naive_scores(model, batch, chunks["naive"]),
        "floor": lambda: floor_scores(model, prompts, tokens, chunks["floor"]),
    }
    difference = (our_scores(model, batch, chunks["ours"]) - naive_scores(model, batch, chunks["naive"])).abs().max()
    seconds = medians(ways, rounds)
    peaks = {name: peak(way) for name, way in ways.items()}
    print(
        f"scoring, {shape} shape: {prompts} prompts of {tokens} tokens, scores differ by {float(difference):.1e} at most"
    )
    report(
        seconds,
        prompts,
        "candidates",
        {name: f"chunk {chunks[name]}{' MB' if name == 'ours' else ''}" for name in ways},
    )
    print(
        "  peak memory above the weights: "
        + ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in peaks.items())
    )


def training(shape: str, rounds: int) -> None:
    for over in ("vocabulary", "answers"):
        _training(shape, rounds, over)


def _training(shape: str, rounds: int, over: str) -> None:
    """A step of one loss: forward and backward."""
    catalog, batches = world()
    model = model_of(shape, catalog, contrast=0.0, loss_over=over)
    batch = lists(batches, model, 40 if shape == "small" else 2, 5)
    batch.label = torch.zeros(batch.cand.shape)
    batch.label[:, 0] = 1
    batch.item, batch.negatives = batch.cand[:, 0], batch.cand[:, 1:]
    tokens = int(model.prompts.lengths(0, batch.query[:1]))
    clicked = batch.label.flatten() > 0
    words = over == "vocabulary"
    target = torch.where(clicked, model.yes, model.no) if words else (~clicked).long()

    def alone(read: Tensor) -> Tensor:
        return F.cross_entropy(floor(model, read, words), target)

    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: model.loss(batch)[0],
        "naive": lambda: alone(next(apart(model, batch, len(clicked)))),
        "floor": lambda: alone(torch.randn(len(clicked), tokens, model.lm.config.d_model)),
    }

    def step(loss: Callable[[], Tensor]) -> None:
        model.zero_grad()
        loss().backward()

    difference = abs(float(losses["ours"]().detach()) - float(losses["naive"]().detach()))
    seconds = medians({name: partial(step, loss) for name, loss in losses.items()}, rounds)
    print(f"training, {shape} shape, loss over {over}: {len(clicked)} rows, losses differ by {difference:.1e}")
    report(seconds, len(clicked), "rows")


def report(seconds: dict[str, float], count: int, unit: str, notes: dict[str, str] | None = None) -> None:
    for name, each in seconds.items():
        note = f" ({notes[name]})" if notes else ""
        print(f"  {name:<6} {count / each:9.1f} {unit} a second of processor time{note}")
    ours = seconds["ours"]
    print(f"  naive / ours {seconds['naive'] / ours:.2f}, ours / floor {ours / seconds['floor']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="training instead of scoring")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for shape in options.shape or SHAPES:
        (training if options.train else scoring)(shape, options.rounds)


if __name__ == "__main__":
    main()
