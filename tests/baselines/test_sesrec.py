"""SESRec: its published size, its states, co-attention and hard split by hand, its losses, users without a behaviour."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.baselines.sesrec import SESRec, Side, split_side, triplets
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context


class World:
    """A small log of both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=24, n_items=60, length=16, n_queries=8)
        self.catalog = Catalog(log)
        self.train = TrainData(Batches(split(log)), ("rec",), 0)

    def model(self, **settings) -> SESRec:
        torch.manual_seed(0)
        config = SESRec.Config(**{"dropout": 0.0, "batch_size": 64} | settings)
        return SESRec(config, Context(self.catalog, tasks=("rec",))).eval()

    def batch(self, model: SESRec) -> Batch:
        return next(model.stream(self.train).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture
def model(world) -> SESRec:
    """Weights are larger than at the start, so that the co-attention has something to say."""
    model = world.model()
    for parameter in model.together.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture
def batch(world, model) -> Batch:
    """A training batch; some rows lack one or both behaviours."""
    batch = world.batch(model)
    assert (batch.rec_len == 0).any() and (batch.search_len == 0).any()
    return batch


def both(batch: Batch) -> Batch:
    return batch.take((batch.rec_len > 1) & (batch.search_len > 1))


def test_size_on_amazon_is_that_of_the_official_code():
    """In the official constants users have no row for padding; here they have one."""
    users, items, queries, words, history, d = 68_223, 61_934, 4_298, 1_846, 15, 32
    tables = users * 32 + (items + 1) * 32 + (queries + 1) * 16 + (words + 1) * 16 + 1 * 32 + 2 * history * d
    projections = (16 + 16 + 1) * d + (d + 1) * d
    transformer = (4 * d * d + 4 * d) + 2 * (d * d + d) + 2 * 2 * d  # attention, network, norms
    co_attention, alignment, pooling = d * d + 2 * d, d * d + 1, 2 * d * d
    network = (7 * d + 32 + 1) * 200 + (200 + 1) * 80 + (80 + 1)
    official = tables + projections + 2 * transformer + co_attention + alignment + pooling + network
    assert official == 4_351_146  # as counted by its own modules
    sizes = {"n_users": users, "n_items": items, "n_queries": queries, "n_words": words}
    query_words = torch.zeros(queries + 1, 1, dtype=torch.long)
    catalog = SimpleNamespace(**sizes, item_features={}, user_features={}, query_words=query_words)
    with torch.device("meta"):
        model = SESRec(SESRec.Config(**SESRec.published["amazon-kindle"]), Context(catalog, tasks=("rec",)))
    assert sum(p.numel() for p in model.parameters()) == official + 32


def with_several_clicks(batch: Batch) -> Batch:
    """The batch after about half of its searches gained one or two clicked items and some lost all."""
    (first,) = batch.search_items.unbind(2)  # (B, Ls)
    second = torch.where((first > 0) & (first % 2 == 0), (first + 17) % 60 + 1, 0)
    third = torch.where((first > 0) & (first % 4 == 0), (first + 30) % 60 + 1, 0)
    items = torch.stack([first, second, third], 2) * (first % 7 > 0)[..., None]
    assert set((items > 0).sum(2)[batch.search_mask].tolist()) == {0, 1, 2, 3}
    return replace(batch, search_items=items)


def torch_layer(ours: nn.Module, d: int, heads: int) -> nn.Module:
    """The published layer, torch's own with LeakyReLU after normalisation, with our weights."""
    layer = nn.TransformerEncoderLayer(d, heads, d, 0.0, F.leaky_relu, batch_first=True)
    state = {name: value for name, value in ours.state_dict().items() if name.startswith("norm")}
    state |= {"self_attn.in_proj_weight": ours.attention.weight, "self_attn.in_proj_bias": ours.attention.bias}
    linears = {"self_attn.out_proj": ours.attention.out, "linear1": ours.network.inner, "linear2": ours.network.outer}
    for name, linear in linears.items():
        state |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
    layer.load_state_dict(state)
    return layer


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_states_are_those_of_torch_layers_over_clicks_and_over_queries_with_source_and_clicks(world, layers):
    model = world.model(layers=layers)
    for parameter in model.encoders.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = with_several_clicks(world.batch(model))
    d, encoded = model.items.linear.out_features, model.encode(batch)
    inputs = {"rec": torch.zeros(*batch.rec_items.shape, d), "search": torch.zeros(*batch.search_query.shape, d)}
    for row in range(len(batch)):
        clicks = batch.rec_items[row, : batch.rec_len[row]]
        inputs["rec"][row, : len(clicks)] = model.items(clicks)
        for slot in range(int(batch.search_len[row])):
            query, found = batch.search_query[row, slot], batch.search_items[row, slot]
            vector = model.queries(query[None])[0] + model.source.weight[0]
            if (found > 0).any():
                vector = vector + model.items(found[found > 0]).mean(0)
            inputs["search"][row, slot] = vector
    for kind, side in (("rec", encoded.rec), ("search", encoded.search)):
        encoder = model.encoders[kind]
        states = inputs[kind] + encoder.position.weight[: inputs[kind].shape[1]]
        for layer in encoder.layers:
            states = torch_layer(layer, d, model.config.heads)(states, src_key_padding_mask=~side.mask)
        assert len(encoder.layers) == layers and (side.mask.sum(1) > 2).sum() > 10
        torch.testing.assert_close(side.states[side.mask], states[side.mask], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_split_is_that_of_the_co_attention_by_hand(model, batch):
    encoded, attention, cut = model.encode(batch), model.together, 0
    for row in range(len(batch)):
        rec = encoded.rec.states[row, : batch.rec_len[row]]
        search = encoded.search.states[row, : batch.search_len[row]]
        if not len(rec) or not len(search):
            continue
        affinity = torch.tanh(rec @ attention.affinity @ search.T)
        by_side = {
            "rec": (affinity @ search @ attention.of_search[0], encoded.rec),
            "search": (affinity.T @ rec @ attention.of_rec[0], encoded.search),
        }
        for scores, side in by_side.values():
            weights, n = scores.softmax(0), len(scores)
            torch.testing.assert_close(side.weights[row, :n], weights, rtol=1e-3, atol=1e-5)
            similar = weights >= 1 / n - 1e-5
            dissimilar = ~similar if (~similar).any() else torch.ones_like(similar)
            assert side.similar[row, :n].tolist() == similar.tolist()
            assert side.dissimilar[row, :n].tolist() == dissimilar.tolist()
            cut += bool((~similar).any())
    assert cut > 20


def test_the_two_sets_are_a_partition_unless_they_are_everything(model, batch):
    encoded = model.encode(batch)
    for side in (encoded.rec, encoded.search):
        assert ((side.similar | side.dissimilar) == side.mask).all()
        overlap = (side.similar & side.dissimilar).any(1)
        assert (overlap == (side.mask.any(1) & ~side.apart)).all()
        assert (side.similar == side.mask)[~side.apart].all()
        assert side.similar.any(1)[side.mask.any(1)].all()
    alone = (batch.rec_len > 0) & (batch.search_len == 0)
    assert alone.any() and not encoded.rec.apart[alone].any()  # nothing to compare with: all weights are even


@torch.no_grad()
def test_scores_are_those_of_seven_vectors_and_the_user(model, batch):
    rows = both(batch)
    encoded, scores = model.encode(rows), model.score(rows)
    for row in range(len(rows)):
        for k in range(rows.cand.shape[1]):
            candidate, parts = model.items(rows.cand[row, k : k + 1])[0], []
            for name, side in (("rec", encoded.rec), ("search", encoded.search)):
                for mask in (side.mask, side.similar, side.dissimilar):
                    states = side.states[row][mask[row]]
                    parts.append((states @ model.pooling[name].weight @ candidate).softmax(0) @ states)
            x = torch.cat([*parts, model.users(rows.user[row : row + 1])[0], candidate])
            assert float(scores[row, k]) == pytest.approx(float(model.network(x)), abs=1e-4)


def test_a_past_query_and_a_click_in_a_search_count(model, batch):
    rows = both(batch)
    usual = model.score(rows)
    query = torch.where(rows.search_mask, rows.search_query % 8 + 1, 0)
    items = torch.where(rows.search_click_mask, rows.search_items % 60 + 1, 0)
    for change in ({"search_query": query}, {"search_items": items}):
        assert ((model.score(replace(rows, **change)) - usual).abs().amax(1) > 1e-6).all()


def test_without_auxiliaries_the_loss_is_that_of_the_clicks(world):
    model = world.model(pair_weight=0.0, triplet_weight=0.0)
    batch = world.batch(model)
    loss, parts = model.loss(batch)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(model.score(batch), batch.label))
    assert set(parts) == {"click"} and float(loss.detach()) == pytest.approx(0.693, abs=0.2)


def test_the_loss_is_the_weighted_sum_of_its_parts(world):
    model = world.model(pair_weight=0.2, triplet_weight=0.3, margin=5.0)
    loss, part = model.loss(world.batch(model))
    assert float(part["triplets"].detach()) > 0 and float(part["pairs"].detach()) > 0
    torch.testing.assert_close(loss, part["click"] + 0.2 * part["pairs"] + 0.3 * part["triplets"])


@torch.no_grad()
def test_the_pair_loss_is_the_mean_over_all_clicks_in_the_searches_of_the_histories(world):
    model = world.model(pair_temperature=0.3)  # of 1024 drawn items and queries the catalogue is all
    batch = with_several_clicks(world.batch(model))
    _, parts = model.loss(batch)
    items, queries, pairs, losses = model.items(torch.arange(61)), model.queries(torch.arange(9)), model.pairs, []
    for row, slot, click in (batch.search_items > 0).nonzero().tolist():
        if slot >= batch.search_len[row]:
            continue
        query, item = queries[batch.search_query[row, slot]], items[batch.search_items[row, slot, click]]
        for left, right, others in ((query, item, items), (item, query, queries)):
            logits = torch.tanh(torch.cat([right[None], others[1:]]) @ (left @ pairs.weight)) / pairs.temperature
            losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
    torch.testing.assert_close(parts["pairs"], torch.stack(losses).mean())


def test_the_alignment_leaves_the_source_of_a_search_out(world, batch):
    model = world.model()
    table = {"queries": model.queries, "items": model.items}

    def pairs() -> float:
        torch.manual_seed(1)
        return float(model.pairs.of_histories(batch, *table.values(), 1024, 1)[0].detach())

    usual = pairs()
    with torch.no_grad():
        model.source.weight += 1
    assert pairs() == usual


def test_triplets_are_hinges_between_euclidean_distances():
    states = torch.randn(3, 4, 8, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    weights = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.9, 0.1, 0, 0], [0.25] * 4])
    side = split_side(states, mask, weights)
    assert side.similar.int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert side.apart.tolist() == [True, True, False]
    expected = []
    for row, n in ((0, 4), (1, 2)):
        x, w, chosen = states[row, :n], weights[row, :n], side.similar[row, :n]
        anchor = w @ x
        near, far = (torch.linalg.vector_norm(anchor - x[c].mean(0) + 1e-6) for c in (chosen, ~chosen))
        expected.append((near - far + 7.0).clamp(min=0))
    torch.testing.assert_close(triplets(side, 7.0), torch.stack(expected))


def test_triplets_alone_train_the_co_attention(world):
    gradients = {}
    for weight in (0.0, 1.0):
        model = world.model(triplet_weight=weight, margin=20.0)
        model.loss(world.batch(model))[0].backward()
        gradients[weight] = [p.grad is not None and bool(p.grad.any()) for p in model.together.parameters()]
    assert gradients == {0.0: [False] * 3, 1.0: [True] * 3}


def test_every_parameter_gets_a_gradient(world):
    model = world.model(margin=1.0)
    model.loss(world.batch(model))[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kinds", [("rec_len",), ("search_len",), ("rec_len", "search_len")])
def test_users_without_a_behaviour_are_served(world, batch, kinds):
    model = world.model()
    changed = replace(batch, **{kind: torch.zeros_like(batch.rec_len) for kind in kinds})
    loss, parts = model.loss(changed)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.score(changed)).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert float(parts["triplets"].detach()) == float(parts["active"].detach()) == 0


def test_a_side_keeps_what_it_was_made_of():
    side = split_side(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2))
    assert isinstance(side, Side) and not side.similar.any() and not side.dissimilar.any() and not side.apart.any()
