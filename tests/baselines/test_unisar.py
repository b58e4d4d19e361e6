"""UniSAR: which slots see which, its losses in closed form, its published size, users without a history."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.baselines.unisar import model as unisar
from bench.baselines.unisar.model import UniSAR
from bench.data import sources
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.log import REC, SEARCH, Log
from bench.data.split import split
from bench.data.training import TrainData
from bench.datasets.kuaisar.items import USER_FEATURES
from bench.datasets.simulated.source import Parameters, write_raw
from bench.ranker.blocks.lengths import by_length, trim
from bench.ranker.contract import Context


class World:
    """A small log whose users have both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=24, n_items=60, length=16, n_queries=8)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))
        self.train = TrainData(self.batches, ("rec", "search"), 0)

    def model(self, tasks=("rec", "search"), **settings) -> UniSAR:
        torch.manual_seed(0)
        config = UniSAR.Config(**{"dropout": 0.0, "batch_size": 64} | settings)
        return UniSAR(config, Context(self.catalog, tasks=tasks))

    def batch(self, model: UniSAR) -> Batch:
        return next(model.stream(self.train).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture
def model(world) -> UniSAR:
    return world.model()


@pytest.fixture
def batch(world, model) -> Batch:
    """A training batch; some rows lack one or both behaviours."""
    batch = world.batch(model)
    assert (batch.rec_len == 0).any() and (batch.search_len == 0).any()
    return batch


def both(batch: Batch) -> Batch:
    return batch.take((batch.rec_len > 1) & (batch.search_len > 1))


def without(batch: Batch, *kinds: str) -> Batch:
    """The batch after its rows lost their clicks ("rec") or searches ("search")."""
    zero = torch.zeros_like(batch.rec_len)
    codes = {"rec": REC, "search": SEARCH}
    gone = torch.zeros_like(batch.merged_task, dtype=torch.bool)
    for kind in kinds:
        gone |= batch.merged_task == codes[kind]
    order = gone.long().argsort(dim=1, stable=True)
    changed = {"rec_len": zero} if "rec" in kinds else {}
    changed |= {"search_len": zero} if "search" in kinds else {}
    merged = {"merged_task": batch.merged_task.gather(1, order), "merged_column": batch.merged_column.gather(1, order)}
    return replace(batch, **merged, **changed)


def test_the_query_counts_in_search_only(model, batch):
    other = replace(batch, query=torch.where(batch.query > 0, batch.query % 8 + 1, 3))
    moved = (model.eval().score(batch) - model.score(other)).abs().amax(1)
    assert (moved[batch.task == 0] == 0).all()
    assert (moved[batch.task == 1] > 0).all()


def published_layer(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """torch's own layer with our weights."""
    pairs = [(ours.attention, theirs.self_attn)]
    if hasattr(ours, "cross"):
        pairs.append((ours.cross, theirs.multihead_attn))
    state = {name: value for name, value in ours.state_dict().items() if name.startswith("norm")}
    for mine, other in pairs:
        prefix = "self_attn" if other is theirs.self_attn else "multihead_attn"
        state[f"{prefix}.in_proj_weight"], state[f"{prefix}.in_proj_bias"] = mine.weight, mine.bias
        state[f"{prefix}.out_proj.weight"], state[f"{prefix}.out_proj.bias"] = mine.out.weight, mine.out.bias
    for name, linear in {"linear1": ours.network.inner, "linear2": ours.network.outer}.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = linear.weight, linear.bias
    theirs.load_state_dict(state)
    return theirs.train()


@pytest.mark.parametrize("layers", [1, 2])
def test_transitions_are_torch_layers_under_the_mask_of_equal_kinds(world, layers):
    model = world.model(layers=layers)
    for transformer in model.encoders.values():
        for parameter in transformer.parameters():
            nn.init.normal_(parameter, std=0.3)
    part = trim(both(world.batch(model)))
    rows, width = len(part), part.merged_task.shape[1]
    clicked = torch.randn(*part.rec_items.shape, 64) * part.rec_mask[..., None]
    searched = torch.randn(*part.search_query.shape, 64) * part.search_mask[..., None]
    sides = dict(zip(("rec", "search"), model.transition(part, clicked, searched), strict=True))

    merged = torch.zeros(rows, width, 64)
    for row in range(rows):
        for slot in range(int(part.merged_len[row])):
            source = clicked if part.merged_task[row, slot] == REC else searched
            merged[row, slot] = source[row, part.merged_column[row, slot]]
    merged = merged + model.positions["all"].weight[:width]
    equal = part.merged_task[:, :, None] == part.merged_task[:, None, :]  # the diagonal among them
    # Slots of padding may attend to anything, so that torch gives no NaN there.
    blocked = ((equal | ~part.merged_mask[:, None, :]) & part.merged_mask[:, :, None]).repeat_interleave(2, dim=0)
    inputs = {"rec": clicked, "search": searched}
    expected = {kind: x + model.positions[kind].weight[: x.shape[1]] for kind, x in inputs.items()}
    for number in range(layers):
        encoders = {kind: transformer.layers[number] for kind, transformer in model.encoders.items()}
        torch_layers = {
            kind: published_layer(layer, nn.TransformerEncoderLayer(64, 2, 64, 0.0, batch_first=True))
            for kind, layer in encoders.items()
        }
        merged = torch_layers["all"](merged, src_mask=blocked)
        for kind, x in expected.items():
            expected[kind] = torch_layers[kind](x, src_key_padding_mask=~sides[kind].mask)
    for kind, code in (("rec", REC), ("search", SEARCH)):
        within, across, mask = sides[kind]
        torch.testing.assert_close(within[mask], expected[kind][mask], rtol=1e-4, atol=1e-5)
        for row in range(rows):
            real = part.merged_mask[row] & (part.merged_task[row] == code)
            torch.testing.assert_close(across[row][mask[row]], merged[row, real], rtol=1e-4, atol=1e-5)


def test_a_click_sees_no_other_click_across(model, batch):
    part = trim(both(batch))
    clicked = torch.randn(*part.rec_items.shape, 64, requires_grad=True)
    searched = torch.randn(*part.search_query.shape, 64, requires_grad=True)
    across = model.transition(part, clicked, searched)[0].across
    by_click, by_search = torch.autograd.grad(across[:, 0].square().sum(), (clicked, searched))
    assert (by_click[:, 1:] == 0).all()
    assert (by_search.abs().sum(-1)[part.search_mask] > 0).all()


def test_fusion_is_a_torch_decoder_layer_and_pooling_follows_the_candidate(model, batch):
    part = trim(both(batch))
    shape = (*part.rec_items.shape, 64)
    within, across, mask = torch.randn(shape), torch.randn(shape), part.rec_mask
    layer = model.fusion["rec"].layers[0]
    decoder = published_layer(layer, nn.TransformerDecoderLayer(64, 2, 64, 0.0, batch_first=True))
    expected = decoder(within, across, tgt_key_padding_mask=~mask, memory_key_padding_mask=~mask)
    fused = layer(within, mask, across, mask)
    torch.testing.assert_close(fused[mask], expected[mask], rtol=1e-4, atol=1e-5)

    candidates, pool = torch.randn(len(part), 3, 64), model.pooling["rec"]
    pooled = pool(fused, mask, candidates)
    for row in range(len(part)):
        keys = fused[row][mask[row]]
        for k in range(3):
            weights = torch.softmax(torch.stack([key @ pool.weight @ candidates[row, k] for key in keys]), 0)
            torch.testing.assert_close(pooled[row, k], weights @ keys, rtol=1e-4, atol=1e-5)


def test_without_auxiliaries_the_loss_is_the_weighted_click_loss(world):
    model = world.model(pair_weight=0.0, transition_weight=0.0, search_weight=0.3)
    assert not any(name.startswith(("pairs", "transitions")) for name, _ in model.named_parameters())
    batch = world.batch(model)
    loss, parts = model.loss(batch)
    logits = model.score(batch)
    tasks = (batch.task == 0, batch.task == 1)
    rec, search = (F.binary_cross_entropy_with_logits(logits[rows], batch.label[rows]) for rows in tasks)
    torch.testing.assert_close(loss, rec + 0.3 * search)
    assert set(parts) == {"rec/click", "search/click"}


def test_the_auxiliaries_stand_inside_the_bracket_of_their_task(world):
    model = world.model(pair_weight=0.2, transition_weight=0.5, search_weight=0.3)
    loss, part = model.loss(world.batch(model))
    weights = {"click": 1.0, "pairs": 0.2, "transitions": 0.5}
    rec, search = (sum(w * part[f"{task}/{name}"] for name, w in weights.items()) for task in ("rec", "search"))
    torch.testing.assert_close(loss, rec + 0.3 * search)


def test_fresh_click_loss_is_that_of_a_coin(world):
    model = world.model(dropout=0.1).train()
    _, parts = model.loss(world.batch(model))
    assert parts["rec/click"].item() == pytest.approx(0.693, abs=0.12)
    assert parts["search/click"].item() == pytest.approx(0.693, abs=0.12)


def test_pair_loss_is_the_mean_over_all_pairs_of_the_histories(world):
    model = world.model()
    batch = world.batch(model)
    # All items and queries are negatives: nothing is left to chance.
    by_task = model.pairs.of_histories(batch, model.queries, model.items, negatives=1000, tasks=2)
    items, queries, pairs = model.items(torch.arange(61)), model.queries(torch.arange(9)), model.pairs
    for task in (0, 1):
        losses = []
        for row in (batch.task == task).nonzero().ravel():
            for slot in range(int(batch.search_len[row])):
                for item in batch.search_items[row, slot][batch.search_items[row, slot] > 0]:
                    q, i = queries[batch.search_query[row, slot]], items[item]
                    for left, right, others in ((q, i, items), (i, q, queries)):
                        similarity = torch.cat([right[None], others[1:]]) @ (left @ pairs.weight)
                        logits = torch.tanh(similarity) / pairs.temperature
                        losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
        torch.testing.assert_close(by_task[task], torch.stack(losses).mean())


def test_transition_loss_is_info_nce_over_the_other_vectors(model):
    align = model.transitions["rec"]
    a, b = torch.randn(5, 64), torch.randn(5, 64)
    z, losses = torch.cat([a, b]), []
    for row in range(10):
        partner = (row + 5) % 10
        others = [partner] + [column for column in range(10) if column not in (row, partner)]
        logits = torch.stack([torch.tanh(z[row] @ align.weight @ z[column]) for column in others]) / align.temperature
        assert len(logits) == 2 * 5 - 1
        losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
    torch.testing.assert_close(align(a, b), torch.stack(losses).mean())
    assert align(a[:1], b[:1]) == 0 and align(a[:0], b[:0]) == 0


def test_experts_of_a_task_are_its_own_and_the_shared_ones(model):
    x, context = torch.randn(6, 3, 192), torch.randn(6, 128)
    joined = torch.cat([x, context[:, None].expand(-1, 3, -1)], -1)
    experts = model.experts
    for task in (0, 1):
        groups = [experts.specific[task], experts.shared]
        outputs = torch.cat([F.relu(group(joined)).unflatten(-1, (4, 64)) for group in groups], -2)
        gate = experts.gates[task](joined).softmax(-1)
        torch.testing.assert_close(experts(x, context, task), (outputs * gate[..., None]).sum(-2), rtol=1e-4, atol=1e-5)


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.fixture(scope="module")
def kuaisar(tmp_path_factory) -> Log:
    """A prepared log of generated files in the form of the release."""
    root = tmp_path_factory.mktemp("data")
    write_raw(root / "kuaisar" / "KuaiSAR_v2", Parameters(users=150, items=900, events=12_000, topics=8))
    return sources.load("kuaisar", {}, root)


def published_model(log: Log, **more: Any) -> UniSAR:
    return UniSAR(UniSAR.Config(**UniSAR.published["kuaisar"] | more), Context(Catalog(log)))


def test_size_on_kuaisar_is_the_published_one(kuaisar):
    """The rows of the embedding tables follow the log; all else, and the sum with the release's counts, is published."""
    model = published_model(kuaisar, released=True)
    levels = [int(name.split(":")[0]) for name in kuaisar.categories.id[1:]]
    tables = {
        "items": (model.items.id, len(kuaisar.items) + 1),
        "first-level categories": (model.items.features[0], levels.count(1) + 1),
        "second-level categories": (model.items.features[1], levels.count(2) + 1),
        "users": (model.users.id, len(kuaisar.users) + 1),
        **{name: (table, None) for name, table in zip(USER_FEATURES, model.users.features, strict=True)},
        "words": (model.queries.words, len(kuaisar.words) + 1),
    }
    for name, (table, rows) in tables.items():
        assert rows is None or len(table.weight) == rows, name
    # Counts of the official code's tables, padding included (constants of its data preparation for KuaiSAR).
    official = {
        "items": 673_416, "first-level categories": 38, "second-level categories": 297, "users": 22_700,
        "onehot_feat1": 8, "onehot_feat2": 3, "search_active_level": 7, "rec_active_level": 4, "words": 394_912,
    }  # fmt: skip
    assert tables.keys() == official.keys()
    network = size(model) - 32 * sum(len(table.weight) for table, _ in tables.values())
    assert network + 32 * sum(official.values()) == 35_599_505
    # Without the dead layers: what the score is made of.
    d, attention, network_of_layer, norm = 64, 4 * 64 * 64 + 4 * 64, 2 * (64 * 64 + 64), 2 * 64
    encoder, decoder = attention + network_of_layer + 2 * norm, 2 * attention + network_of_layer + 3 * norm
    expert, gate = (5 * d + 1) * 64, (5 * d + 1) * 8
    tower = sum((before + 1) * after for before, after in pairwise((64, 128, 64, 200, 80, 1)))
    itemised = {
        "tables": 32 * sum(official.values()),
        "embeddings of items (id, two categories, text), users (id, four features), queries": (3 * 32 + d + 1) * d
        + (5 * 32 + 1) * d
        + (32 + 1) * d,
        "positions": (30 + 30 + 60) * d,
        "encoders, and decoders": 3 * encoder + 2 * decoder,
        "target attention": 2 * d * d,
        "alignments": 3 * (d * d + 1),
        "row in the place of a query": d,
        "experts and gates": 12 * expert + 2 * gate,
        "towers": 2 * tower,
    }
    default = sum(itemised.values())
    assert size(published_model(kuaisar)) - size(model) + 35_599_505 == default
    assert 35_599_505 - default == 3 * encoder + decoder + (5 * d + 1) * 12


def test_the_dead_layers_change_no_score_and_get_no_gradient(world):
    model, released = world.model(), world.model(released=True)
    batch = world.batch(model)
    torch.testing.assert_close(released.score(batch), model.score(batch), rtol=0, atol=0)
    released.loss(batch)[0].backward()
    dead = {name for name, p in released.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == {name for name, _ in released.named_parameters() if name.startswith("unused.")} != set()


def test_kuaisar_gives_items_their_words_and_both_category_levels(kuaisar):
    model = published_model(kuaisar)
    assert [len(codes) for codes in Catalog(kuaisar).item_features.values()] == 2 * [len(kuaisar.items) + 1]
    ids = torch.arange(1, 40)
    usual = model.items(ids)
    for table in (model.items.id, *model.items.features, model.queries.words):
        with torch.no_grad():
            table.weight += 1.0
        assert (model.items(ids) != usual).any(1).all()
        usual = model.items(ids)


def test_pooling_starts_at_the_official_scale_where_settings_are_published(kuaisar, world):
    # Xavier's rule for a tensor (1, d, d), as the official code has it.
    official = torch.nn.init.xavier_normal_(torch.empty(1, 64, 64)).std()
    for model, expected in ((published_model(kuaisar), official), (world.model(), (2 / 128) ** 0.5)):
        for pool in model.pooling.values():
            assert float(pool.weight.detach().std()) == pytest.approx(float(expected), rel=0.1)


@pytest.mark.parametrize("kinds", [("rec",), ("search",), ("rec", "search")])
def test_users_without_a_behaviour_are_served_but_not_aligned(world, batch, kinds):
    model = world.model(pair_weight=0.1)
    changed = without(batch, *kinds)
    loss, parts = model.loss(changed)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.score(changed)).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert float(parts["rec/transitions"]) == float(parts["search/transitions"]) == 0
    if "search" in kinds:
        assert float(parts["rec/pairs"]) == 0


def test_rows_without_a_behaviour_leave_the_alignment_as_it_is(world, model, batch):
    kept = batch.take((batch.rec_len > 0) & (batch.search_len > 0))
    assert len(kept) < len(batch)
    (_, everyone), (_, some) = model.loss(batch), model.loss(kept)
    for task in ("rec", "search"):
        torch.testing.assert_close(everyone[f"{task}/transitions"], some[f"{task}/transitions"])


def test_scoring_many_candidates_equals_scoring_each(model, batch):
    together = model.eval().score(batch)
    alone = torch.cat([model.score(replace(batch, cand=batch.cand[:, [k]])) for k in range(batch.cand.shape[1])], 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    flipped = model.score(replace(batch, cand=batch.cand.flip(1)))
    torch.testing.assert_close(flipped, together.flip(1), rtol=1e-5, atol=1e-6)


def test_cutting_a_batch_by_length_changes_nothing(model, batch, monkeypatch):
    usual = model.eval().score(batch)
    for rows in (1, 7):
        monkeypatch.setattr(unisar, "by_length", lambda batch, rows=rows: by_length(batch, rows))
        torch.testing.assert_close(model.score(batch), usual, rtol=1e-5, atol=1e-6)
    parts = list(by_length(batch, 7))
    assert torch.cat([rows for rows, _ in parts]).sort().values.tolist() == list(range(len(batch)))
    assert sum(part.merged_task.numel() for _, part in parts) < batch.merged_task.numel() / 2


def test_every_parameter_gets_a_gradient(world):
    model = world.model(item_text=True)
    assert model.items.linear.in_features == 2 * 32 + 64  # id and kind, and the text
    model.loss(world.batch(model))[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("task", ["rec", "search"])
def test_one_task_alone(world, task):
    model = world.model(tasks=(task,))
    data = TrainData(world.batches, (task,), 0)
    loss, parts = model.loss(next(model.stream(data).batches(0, 1)))
    assert {name.split("/")[0] for name in parts} == {task}
    expected = parts[f"{task}/click"] + 0.001 * parts[f"{task}/pairs"] + 0.1 * parts[f"{task}/transitions"]
    torch.testing.assert_close(loss, expected)


def test_a_handful_of_events_is_learnt_by_heart(world, model, batch):
    batch = both(batch).take(torch.arange(16))
    optimizer = torch.optim.Adam(model.parameter_groups(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch)[0].backward()
        optimizer.step()
    assert (model.eval().score(batch).argmax(1) == batch.label.argmax(1)).all()


def test_biases_are_not_decayed(model):
    decayed, free = model.parameter_groups()
    names = {id(p): name for name, p in model.named_parameters()}
    assert free["weight_decay"] == 0 and all("bias" in names[id(p)] for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert not any("bias" in names[id(p)] for p in decayed["params"])


class Scripted:
    """Validation that says what it is told: by N@10 the second epoch is the best, by N@5 the third, by rec alone the fourth."""

    CURVE = ((0.10, 0.10, 0.1), (0.30, 0.20, 0.2), (0.20, 0.90, 0.1), (0.25, 0.20, 0.9))

    def __init__(self, model: UniSAR):
        self.model, self.states = model, []

    def evaluate(self, score: Any) -> dict[str, float]:
        ten, five, rec = self.CURVE[min(len(self.states), 3)]
        self.states.append({name: value.clone() for name, value in self.model.state().items()})
        return {"mean/N@10": ten, "mean/N@5": five, "rec/N@10": rec, "search/N@10": 2 * ten - rec}


def test_the_epoch_with_the_best_mean_of_both_tasks_at_ten_is_kept(world):
    model = world.model(epochs=40, steps_per_epoch=1)
    valid = Scripted(model)
    facts = model.fit(world.train, valid)
    assert facts["best_epoch"] == 2 and facts["converged"] and facts["epochs"] == 2 + 5 == len(valid.states)
    kept = model.state()
    same = [all(torch.equal(kept[name], state[name]) for name in kept) for state in valid.states]
    assert same == [False, True, *[False] * 5]


def test_the_bounds_of_a_fit_are_those_of_the_docstring():
    assert UniSAR.Config().epochs == 50
    for name, values in UniSAR.published.items():
        config = UniSAR.Config(**values)
        assert (config.epochs, config.patience, config.check_every) == (100, 5, 0), name
