"""What the sequential recommenders are fed: one history, one list of candidates, one number of negatives for all of them."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data.batch import Batch, SequenceBatch, ViewPair
from bench.evaluation.candidates import draw
from bench.evaluation.scoring import rank
from bench.ranker import backbone, registry
from bench.ranker.contract import Context

from .language_world import World

LENGTH, NEGATIVES = 6, 2
SEQUENTIAL = [
    name
    for name, entry in registry.entries().items()
    if entry.group == "rec" and registry.get(name).uses_history and hasattr(registry.get(name), "stages")
]
# Whose loss runs over all items in any case, so that nothing is drawn for it.
DRAWS_NONE = {
    "idgenrec": "the names of all items compete, token by token",
    "seqrec": "all items and queries compete",
}

needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log(n_users=20, n_items=130, length=24))


@pytest.fixture(scope="module")
def models(world) -> dict[str, Any]:
    """All of them with histories of `LENGTH` clicks and `NEGATIVES` negatives, where their loss draws some."""
    return {name: built(name, world) for name in SEQUENTIAL}


def built(name: str, world: World) -> Any:
    cls = registry.get(name)
    wanted = {
        "history_rec": LENGTH,
        "negatives": NEGATIVES,
        "loss_type": "BCE",
        "batch_size": 8,
        "backbone": "small-t5",
    }
    known = {key: value for key, value in wanted.items() if key in cls.Config.model_fields}
    torch.manual_seed(0)
    context = Context(world.catalog, tasks=cls.entry.tasks, backbones=backbone.load)
    return cls(cls.Config(**known), context)


class Recorder:
    """Stands for a model while rows are ranked, and keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def __call__(self, batch: Batch) -> Tensor:
        self.seen.append(batch)
        return torch.zeros(batch.cand.shape)


@needs_recbole
def test_all_rank_the_same_candidates_after_the_same_clicks(world, models):
    lists = draw(world.batches.split, "test", ("rec",), "uniform", 0)
    fed = {}
    for name, model in models.items():
        recorder = Recorder()
        rank(recorder, world.batches, lists, model.window)
        fed[name] = [
            (user, past[:length], cand, query)
            for batch in recorder.seen
            for user, past, length, cand, query in zip(
                batch.user.tolist(), batch.rec_items.tolist(), batch.rec_len.tolist(), batch.cand.tolist(),
                batch.query.tolist(), strict=True,
            )
        ]  # fmt: skip
        assert all(batch.label is None and batch.item is None and batch.negatives is None for batch in recorder.seen)
    assert len(fed) >= 9 and {"sasrec", "gru4rec", "bert4rec", "din", "fmlp", "collm", "idgenrec"} <= set(fed)
    first = fed["sasrec"]
    assert len(first) == len(lists.rows) and max(len(past) for _, past, _, _ in first) == LENGTH
    for name, rows in fed.items():
        assert rows == first, name


# Where each model looks up the clicks of a row: the module, and which columns of what it is given are clicks.
LOOKUPS: dict[str, tuple[Callable[[Any], torch.nn.Module], slice]] = {
    "sasrec": (lambda model: model.net.item_embedding, slice(None)),
    "gru4rec": (lambda model: model.net.item_embedding, slice(None)),
    "din": (lambda model: model.net.embedding_layer.token_embedding_table["item"].embedding, slice(-1)),
    "bert4rec": (lambda model: model.items, slice(None)),
    "fmlp": (lambda model: model.items, slice(None)),
    "collm": (lambda model: model.past, slice(None)),
}


@needs_recbole
@pytest.mark.parametrize("name", LOOKUPS)
def test_scoring_reads_all_clicks_that_a_model_is_fed_in_their_order(name, world, models):
    """What goes into the lookup of item embeddings or titles, as opposed to what stands in the batch."""
    model, (lookup, columns) = models[name].eval(), LOOKUPS[name]
    rows = world.batches.split.rows("test", "rec")
    cand = np.tile(np.arange(101, 104), (len(rows), 1))
    batch = world.batches.rows(rows, cand, model.window)
    batch = batch.take(batch.rec_len > 0)
    read: list[Tensor] = []
    handle = lookup(model).register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
    with torch.no_grad():
        model.score(batch)
    handle.remove()
    # RecBole flattens DIN's rows, each with a candidate behind the clicks.
    width = LENGTH + 1 if name == "din" else read[0].shape[-1]
    ids = torch.cat([part.view(-1, width)[:, columns] for part in read])
    repeats, rest = divmod(len(ids), len(batch))
    assert rest == 0 and repeats == (3 if name == "din" else 1)
    # [MASK] is an id behind those of the items.
    clicks = [[item for item in row if 0 < item <= world.catalog.n_items] for row in ids.tolist()]
    fed = [row[:length] for row, length in zip(batch.rec_items.tolist(), batch.rec_len.tolist(), strict=True)]
    if name == "collm":  # it reads rows of like length together
        clicks, fed = sorted(clicks), sorted(fed)
    assert max(map(len, fed)) == LENGTH
    assert clicks == [row for row in fed for _ in range(repeats)]


@needs_recbole
def test_all_train_on_the_same_clicks_after_the_same_pasts(world, models):
    """Over a whole pass of the last stage of each model that trains on events; LightGCN reads no past."""
    passes = {}
    for name, model in {**models, "lightgcn": built("lightgcn", world)}.items():
        if model.trains_on != "events":
            continue
        train = world.train(model)
        stream = model.stages(train)[-1].stream(train)
        passes[name] = sorted(
            (user, item, *past[:length])
            for batch in stream.batches(0, stream.steps_per_pass)
            for user, item, past, length in zip(
                *(column.tolist() for column in (batch.user, batch.item, batch.rec_items, batch.rec_len)), strict=True
            )
        )
    assert {"sasrec", "gru4rec", "din", "fmlp", "collm", "idgenrec", "nrhub", "sesrec", "lightgcn"} <= set(passes)
    first = passes["sasrec"]
    events, rows = world.log.events, world.batches.split.rows("train", "rec")
    assert [row[:2] for row in first] == sorted(
        zip(events.user[rows].tolist(), events.item[rows].tolist(), strict=True)
    )
    assert max(map(len, first)) == 2 + LENGTH and min(map(len, first)) == 2
    assert passes.pop("lightgcn") == [row[:2] for row in first]
    for name, rows in passes.items():
        assert rows == first, name


@needs_recbole
def test_all_train_on_the_same_number_of_negatives(world, models):
    """Of the last stage of each: what earlier ones draw follows the same setting."""
    split = world.batches.split
    held_out = {
        (user, item)
        for part in ("valid", "test")
        for user, item in zip(
            *(column[split.rows(part, "rec")].tolist() for column in (world.log.events.user, world.log.events.item)),
            strict=True,
        )
    }
    drawn = {}
    for name, model in models.items():
        train = world.train(model)
        batch = next(iter(model.stages(train)[-1].stream(train).batches(0, 1)))
        batch = batch.sequence if isinstance(batch, ViewPair) else batch
        assert isinstance(batch, Batch | SequenceBatch)
        drawn[name] = 0 if batch.negatives is None else batch.negatives.shape[-1]
        clicked = batch.item[:, None] if isinstance(batch, Batch) else batch.items
        users = np.repeat(batch.user.numpy(), clicked.shape[1])
        assert not {*zip(users.tolist(), clicked.flatten().tolist(), strict=True)} & held_out, name
    assert {name for name, count in drawn.items() if not count} == set(DRAWS_NONE), drawn
    assert {count for count in drawn.values() if count} == {NEGATIVES}, drawn
