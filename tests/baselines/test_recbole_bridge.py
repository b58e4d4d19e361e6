"""RecBole's networks behind the Ranker contract: equal to its own predictions, blind to what they may not see."""

import builtins
import importlib.util
import json
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.baselines.recbole import classes as recbole_classes
from bench.baselines.recbole import data as recbole_data
from bench.baselines.recbole import rows as recbole_rows
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.errors import RunError, UsageError
from bench.evaluation.scoring import RowValidation
from bench.ranker import registry
from bench.ranker.blocks.dropout import Dropout
from bench.ranker.contract import Context, Ranker

pytestmark = pytest.mark.filterwarnings("ignore")
needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")
SEQUENTIAL = ["sasrec", "gru4rec", "din", "recbole:BERT4Rec", "recbole:NARM", "recbole:FPMC", "recbole:TransRec"]
GENERAL = [
    "recbole:LightGCN",
    "recbole:BPR",
    "recbole:NeuMF",
    "recbole:MultiVAE",
    "recbole:ItemKNN",
    "recbole:EASE",
    "recbole:Pop",
]
# Where scores are logits and RecBole's predict squeezes them.
SQUEEZED = {"din", "recbole:NeuMF"}


@pytest.fixture(scope="module")
def small(make_log) -> LogSplit:
    return split(make_log(n_users=20, n_items=130, length=16))


def build_model(name: str, sp: LogSplit, seed: int = 0, **config: Any) -> Ranker:
    cls = registry.get(name)
    return cls(
        cls.Config(**{"batch_size": 64, "history_rec": 6} | config), Context(Catalog(sp.log), seed=seed, tasks=("rec",))
    )


def ready(name: str, sp: LogSplit, **config: Any) -> Ranker:
    """Built and with random weights, biases included, so that nothing is equal because it is zero."""
    model = build_model(name, sp, **config)
    train = TrainData(Batches(sp), ("rec",), 0)
    model.precompute(train)
    if name == "recbole:Pop":
        model.loss(training(model, sp))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def training(model: Ranker, sp: LogSplit) -> Batch:
    return next(iter(TrainData(Batches(sp), ("rec",), 0).events(64, negatives=4, window=model.window).batches(0, 1)))


def exam(model: Ranker, sp: LogSplit, k: int = 9) -> Batch:
    rows = sp.rows("test", "rec")
    cand = np.random.default_rng(1).permuted(np.tile(np.arange(1, len(sp.log.items) + 1), (len(rows), 1)), axis=1)
    return Batches(sp).rows(rows, cand[:, :k], model.window)


@torch.no_grad()
def scores(model: Ranker, batch: Batch) -> Tensor:
    return model.score(batch)


@needs_recbole
@pytest.mark.parametrize("name", SEQUENTIAL + GENERAL)
def test_scores_are_recboles_own(name, small, monkeypatch):
    model = ready(name, small)
    batch = exam(model, small)
    # A general model's batches carry no history.
    batch = batch.take(batch.rec_len > 0) if name in SEQUENTIAL else batch
    width, pairs = batch.rec_items.shape[1], batch.cand.shape[1]
    # Built here anew from the batch, for parity of the whole path.
    seen = torch.where(torch.arange(width) < batch.rec_len[:, None], batch.rec_items, 0)
    rows = {"user_id": batch.user, "item_id_list": seen, "item_length": batch.rec_len}
    rows = {key: value.repeat_interleave(pairs, 0) for key, value in rows.items()} | {"item_id": batch.cand.flatten()}
    found = scores(model, batch)
    if name in SQUEEZED:
        assert (found.abs() > 1).any(), "logits have no bounds"
        monkeypatch.setattr(model.net, "sigmoid", nn.Identity())
    with torch.no_grad():
        expected = model.net.predict(rows).view(batch.cand.shape).float()
    assert expected.std() > 1e-3
    # NARM's products are large, and `predict` takes them in another order than the full ranking.
    torch.testing.assert_close(found, expected, rtol=1e-6 if name == "recbole:NARM" else 0, atol=1e-5)


@needs_recbole
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_what_stands_beyond_the_length_is_never_seen(name, small):
    model = ready(name, small)
    batch = exam(model, small)
    assert (batch.rec_len < 6).any()
    junk = replace(batch, rec_items=torch.where(batch.rec_mask, batch.rec_items, 5))
    assert torch.equal(scores(model, batch), scores(model, junk))
    wider = replace(batch, rec_items=torch.cat([batch.rec_items, torch.full_like(batch.rec_items, 3)], 1))
    assert torch.equal(scores(model, batch), scores(model, wider))
    torch.manual_seed(0)
    train = training(model, small)
    first = model.loss(train)
    torch.manual_seed(0)
    second = model.loss(replace(train, rec_items=torch.where(train.rec_mask, train.rec_items, 5)))
    assert torch.equal(first, second)


@needs_recbole
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_only_the_last_clicks_of_a_long_history_count(name, small):
    model = ready(name, small, history_rec=3)
    batch = exam(ready(name, small, history_rec=6), small)
    long = batch.take(batch.rec_len >= 4)
    place = (long.rec_len - 3)[:, None] + torch.arange(3)
    short = replace(long, rec_items=long.rec_items.gather(1, place), rec_len=torch.full_like(long.rec_len, 3))
    assert len(long) and torch.equal(scores(model, long), scores(model, short))


@needs_recbole
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_rows_without_a_history_score_zero_and_do_not_train(name, small):
    model = ready(name, small)
    batch = exam(model, small)
    batch.rec_len[:3] = 0
    found = scores(model, batch)
    assert torch.equal(found[:3], torch.zeros_like(found[:3]))
    known = torch.arange(len(batch))[batch.rec_len > 0]
    torch.testing.assert_close(found[known], scores(model, batch.take(known)), rtol=1e-5, atol=1e-6)
    train = training(model, small)
    for empty in (replace(train, rec_len=torch.zeros_like(train.rec_len)), train.take(torch.arange(0))):
        loss = model.loss(empty)
        loss.backward()
        assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


@needs_recbole
def test_a_single_row_is_no_batch_for_batch_normalisation(small):
    model = ready("din", small).train()
    batch = training(model, small)
    batch = batch.take(batch.rec_len > 0)
    alone = replace(batch.take(torch.arange(1)), cand=batch.item[:1, None], label=torch.ones(1, 1))
    assert model.loss(alone) == 0
    assert model.loss(batch.take(torch.arange(1))) > 0, "one event with four negatives is five rows"


@needs_recbole
def test_fresh_losses(small):
    def fresh(name: str, **config: Any) -> float:
        model = build_model(name, small, **config)
        model.precompute(TrainData(Batches(small), ("rec",), 0))
        torch.manual_seed(0)
        result = model.train().loss(training(model, small))
        return float(result[0] if isinstance(result, tuple) else result)

    classes = math.log(len(small.log.items) + 1)
    assert fresh("sasrec") == pytest.approx(classes, abs=0.1)
    assert fresh("gru4rec") == pytest.approx(classes, abs=0.1)
    assert fresh("recbole:BERT4Rec") == pytest.approx(classes, abs=0.1)
    assert fresh("sasrec", loss_type="BPR") == pytest.approx(math.log(2), abs=0.1)
    assert fresh("recbole:BPR") == pytest.approx(math.log(2), abs=0.02)
    # On so small a graph the vectors of user and clicked item already share a part.
    assert fresh("recbole:LightGCN") == pytest.approx(math.log(2), abs=0.1)
    # Batch normalisation gives DIN's logits a spread of their own from the start.
    assert fresh("din") == pytest.approx(math.log(2), abs=0.15)


@needs_recbole
def test_din_pools_for_the_candidate_and_ignores_order_and_user(small):
    model = ready("din", small)
    batch = exam(model, small)
    full = batch.take(batch.rec_len == 6)
    assert len(full)
    torch.testing.assert_close(scores(model, full), scores(model, replace(full, rec_items=full.rec_items.flip(1))))
    assert torch.equal(scores(model, full), scores(model, replace(full, user=full.user.roll(1))))
    # The same history change moves candidates by different amounts.
    other = replace(full, rec_items=torch.where(torch.arange(6) == 2, full.cand[:, :1], full.rec_items))
    assert (scores(model, other) - scores(model, full)).std(1).min() > 1e-3


@needs_recbole
def test_masked_rows_are_the_layout_of_scoring():
    torch.manual_seed(0)
    items = torch.tensor([[4, 5, 6, 7], [4, 5, 0, 0]]).repeat(200, 1)
    past = {"user_id": torch.arange(400), "item_id_list": items, "item_length": (items > 0).sum(1)}
    target = torch.tensor([8, 9]).repeat(200)
    whole = torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]]).repeat(200, 1)
    for last_only in (0.0, 1.0):
        rows = recbole_rows.masked(past, target, 20, 0.5, last_only)
        hidden = rows["masked_items"] == 21
        assert torch.equal(rows["masked_items"][~hidden], whole[~hidden])
        assert hidden.any(1).all() and not hidden[:, 0].any() and not hidden[whole == 0].any()
        # Places and answers belong together; unused ones are 0 and count nothing.
        used = rows["masked_places"] > 0
        assert torch.equal(used.sum(1), hidden.sum(1))
        assert torch.equal(rows["masked_positives"], torch.where(used, whole.gather(1, rows["masked_places"]), 0))
        if last_only:
            assert torch.equal(hidden, torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0]]).bool().repeat(200, 1))
    assert hidden.sum() == 400


@needs_recbole
def test_the_last_click_is_projected_as_all_clicks_were(small):
    """GRU4Rec is asked without the projection of the clicks before the last, which RecBole makes and drops."""
    model: Any = ready("recbole:GRU4Rec", small)
    original = type(model.net).__mro__[1]
    items = torch.tensor([[3, 1, 2, 0], [4, 0, 0, 0]])
    length = torch.tensor([3, 1])
    with torch.no_grad():
        ours, theirs = model.net(items, length), original.forward(model.net, items, length)
    assert type(model.net).forward is not original.forward
    assert torch.allclose(ours, theirs, atol=1e-6)


@needs_recbole
@pytest.mark.parametrize("name", ["sasrec", "recbole:BERT4Rec"])
def test_networks_have_the_dropout_of_the_blocks(name, small):
    model: Any = build_model(name, small)
    kinds = {type(module) for module in model.net.modules() if isinstance(module, nn.Dropout)}
    assert kinds == {Dropout}


@needs_recbole
def test_lightgcn_spreads_over_the_normalised_graph(small):
    model = ready("recbole:LightGCN", small)
    rows = small.rows("train", "rec")
    user, item = small.log.events.user[rows], small.log.events.item[rows]
    n_users, n_items = len(small.log.users) + 1, len(small.log.items) + 1
    graph = np.zeros((n_users + n_items, n_users + n_items))
    graph[user, n_users + item] = graph[n_users + item, user] = 1
    scale = (graph.sum(1) + 1e-7) ** -0.5
    graph = torch.tensor(scale[:, None] * graph * scale)
    layer = torch.cat([model.net.user_embedding.weight, model.net.item_embedding.weight]).detach().double()
    spread = (layer + graph @ layer + graph @ graph @ layer) / 3
    batch = exam(model, small)
    expected = torch.einsum("bd,bkd->bk", spread[batch.user], spread[n_users + batch.cand])
    torch.testing.assert_close(scores(model, batch).double(), expected, rtol=1e-4, atol=1e-5)


@needs_recbole
@pytest.mark.parametrize("name", ["recbole:LightGCN", "recbole:NGCF"])
def test_propagated_embeddings_do_not_outlive_their_weights(name, small):
    model = ready(name, small)
    batch, kept = exam(model, small), {key: value.clone() for key, value in model.state_dict().items()}
    usual = scores(model, batch)
    with torch.no_grad():
        model.net.item_embedding.weight.add_(torch.randn_like(model.net.item_embedding.weight))
    model.train().eval()
    assert not torch.allclose(scores(model, batch), usual)
    # The trainer puts the best weights back this way at the end of a fit.
    model.load_state_dict(kept)
    assert torch.equal(scores(model, batch), usual)


@needs_recbole
@pytest.mark.parametrize("name", [*SEQUENTIAL, *GENERAL, "recbole:NCEPLRec", "recbole:NNCF"])
def test_state_restores_the_scores(name, small):
    model = ready(name, small)
    fresh = build_model(name, small, seed=7)
    fresh.load_state({key: value.clone() for key, value in model.state().items()})
    batch = exam(model, small)
    assert torch.equal(scores(model, batch), scores(fresh.eval(), batch))


@needs_recbole
@pytest.mark.parametrize("name", ["sasrec", "din", "recbole:BPR", "recbole:Pop", "recbole:BERT4Rec"])
def test_fit_learns_and_repeats_itself(name, small):
    def fit() -> tuple[Ranker, dict[str, Any]]:
        settings = {"epochs": 2, "patience": 2}
        model = build_model(name, small, **settings)
        valid = RowValidation(Batches(small), ("rec",), model.window) if name != "recbole:Pop" else None
        return model, model.fit(TrainData(Batches(small), ("rec",), 0), valid)

    (one, facts), (two, _) = fit(), fit()
    assert facts["epochs"] in (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.state().values(), two.state().values(), strict=True))
    fresh = build_model(name, small)
    fresh.precompute(TrainData(Batches(small), ("rec",), 0))
    before, after = fresh.state(), one.state()
    assert before.keys() != after.keys() or any(not torch.equal(before[key], after[key]) for key in before)


@needs_recbole
def test_pop_counts_the_training_clicks(small):
    model = build_model("recbole:Pop", small)
    model.fit(TrainData(Batches(small), ("rec",), 0), None)
    counts = np.bincount(small.log.events.item[small.rows("train", "rec")], minlength=len(small.log.items) + 1)
    # RecBole adds 1 to an item once a batch, however often it was clicked in it.
    batch = exam(model, small, len(small.log.items))
    assert torch.equal(scores(model, batch) > 0, torch.from_numpy(counts[batch.cand] > 0))


@needs_recbole
def test_shipped_defaults_and_options(small):
    shipped = recbole_data.settings("SASRec", {})
    assert shipped["layer_norm_eps"] == 1e-12 and isinstance(shipped["layer_norm_eps"], float)
    assert recbole_data.settings("LightGCN", {"n_layers": 3})["n_layers"] == 3
    assert recbole_data.settings("LightGCN", {})["absent"] is None
    model = build_model("recbole:SASRec", small, options={"hidden_size": 32, "n_heads": 4})
    assert model.net.item_embedding.weight.shape == (len(small.log.items) + 1, 32)
    evidence = json.loads(json.dumps(model.evidence()))
    assert (evidence["recbole"], evidence["recbole settings"]["hidden_size"]) == ("1.2.1", 32)
    with pytest.raises(UsageError, match="'hidden_sise'; did you mean hidden_size"):
        build_model("recbole:SASRec", small, options={"hidden_sise": 32})
    with pytest.raises(UsageError, match="history_rec must be at least 2"):
        build_model("recbole:BERT4Rec", small, history_rec=1)
    with pytest.raises(UsageError, match="needs negatives"):
        model = ready("recbole:BPR", small)
        batch = training(model, small)
        model.loss(replace(batch, negatives=batch.negatives[:, :0]))


@needs_recbole
def test_names(small):
    with pytest.raises(UsageError, match=r"unknown RecBole model 'SASRek'; did you mean .*SASRec"):
        registry.get("recbole:SASRek")
    with pytest.raises(RunError, match="recbole:S3Rec cannot be bridged: it needs attributes"):
        registry.get("recbole:S3Rec")
    # Knowledge-based and context-aware models are no recommenders of this kind.
    with pytest.raises(UsageError, match="unknown RecBole model 'KGAT'"):
        registry.get("recbole:KGAT")
    cls = registry.get("recbole:LightGCN")
    assert cls is registry.get("recbole:LightGCN")
    assert (cls.uses_user, cls.uses_history, cls.uses_query) == (True, False, False)
    assert cls.entry.name == "recbole:LightGCN" and cls.entry.tasks == ("rec",)
    assert "sasrec" in registry.select("sasrec,recbole:NARM", ("rec",), trivial=False)


def test_without_recbole_one_line_says_what_to_install(small, monkeypatch):
    usual = builtins.__import__

    def hidden(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "recbole":
            raise ModuleNotFoundError(f"No module named '{name}'", name="recbole")
        return usual(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.split(".")[0] == "recbole"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", hidden)
    recbole_classes.known_classes.cache_clear()
    try:
        for name in ("recbole:SASRec", "sasrec"):
            with pytest.raises(RunError) as caught:
                build_model(name, small)
            line = str(caught.value)
            assert "pip install --no-deps recbole==1.2.1" in line and "bench[recbole]" in line and "\n" not in line
    finally:
        recbole_classes.known_classes.cache_clear()


@needs_recbole
def test_exact_masks_are_those_of_recboles_own_transform(small):
    """`recbole_exact` brings back what the workaround mends: the clicked item is no label, the first click may be hidden."""
    model = build_model("recbole:BERT4Rec", small, recbole_exact=True, options={"mask_ratio": 0.5, "ft_ratio": 0.0})
    mended = build_model("recbole:BERT4Rec", small, options={"mask_ratio": 0.5, "ft_ratio": 0.0})
    batch = training(model, small)
    batch = batch.take(batch.rec_len >= 2)
    past = recbole_rows.past(batch, 6)
    torch.manual_seed(0)
    rows = recbole_rows.masked_as_recbole(past, 130, 0.5, 0.0)
    hidden = rows["masked_items"] == 131
    assert torch.equal(rows["masked_items"][~hidden], past["item_id_list"][~hidden])
    assert hidden[:, 0].any() and not (hidden & (past["item_id_list"] == 0)).any()
    for row in range(len(batch)):
        # RecBole keeps the last int(ratio * length) of the hidden places, padded on the left.
        places = torch.nonzero(hidden[row]).flatten().tolist()
        kept = ([0] * 3 + places)[-3:]
        labels = ([0] * 3 + past["item_id_list"][row][places].tolist())[-3:]
        assert rows["masked_places"][row].tolist() == kept and rows["masked_positives"][row].tolist() == labels
    torch.manual_seed(0)
    alone = recbole_rows.masked_as_recbole(past, 130, 0.5, 1.0)
    assert torch.equal((alone["masked_items"] == 131).nonzero()[:, 1], past["item_length"] - 1)

    def read(other: Ranker) -> bool:
        """Whether another clicked item changes the loss."""
        losses = []
        for item in (batch.item, batch.item % 130 + 1):
            torch.manual_seed(1)
            losses.append(float(other.eval().loss(replace(batch, item=item)).detach()))
        return losses[0] != losses[1]

    assert read(mended) and not read(model)
