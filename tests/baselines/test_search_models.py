"""QEM, HEM, AEM, ZAM, TEM and CoPPS: what each reads and what it does not, and what its attention does."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bench.baselines.copps import CoPPS
from bench.data.batch import Batch
from bench.ranker import registry
from bench.ranker.contract import Context, TorchRanker
from bench.testing.planted import planted

FAMILY = ("qem", "hem", "aem", "zam", "tem", "copps")
PERSONAL = ("aem", "zam", "tem", "copps")
CLOSE = {"atol": 2e-6, "rtol": 1e-5}


def build(name: str, seed: int = 0, **settings) -> TorchRanker:
    """A small model with random weights (HEM's users included), ready for its first loss."""
    cls = registry.get(name)
    torch.manual_seed(seed)
    sizes = {"heads": 2, "hidden": 24} if name in ("tem", "copps") else {}
    model = cls(cls.Config(**{"dim": 16, "history_length": 6} | sizes | settings), Context(planted().catalog))
    model.precompute(planted().train(("search",)))
    if name == "hem":
        nn.init.normal_(model.users.weight)
    return model.eval()


@cache
def rows() -> Batch:
    """Search rows, some without a past."""
    model = build("aem")
    return planted().scoring(("search",), model.window)


@cache
def training() -> Batch:
    model = build("aem")
    (batch,) = planted().train(("search",)).events(32, negatives=5, window=model.window).batches(0, 1)
    return batch


def scores(model: TorchRanker, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.score(batch)


def without_past(batch: Batch) -> Batch:
    none = torch.zeros_like(batch.rec_len)
    return replace(batch, rec_len=none, search_len=none)


def reordered_past(batch: Batch) -> Batch:
    """The units of each row in the opposite order."""
    last = (batch.merged_len[:, None] - 1 - torch.arange(batch.merged_task.shape[1])).clamp(min=0)
    return replace(
        batch, merged_task=batch.merged_task.gather(1, last), merged_column=batch.merged_column.gather(1, last)
    )


def changed(first: Tensor, second: Tensor) -> Tensor:
    """(B,) which rows of scores differ."""
    return (first - second).abs().amax(1) > 1e-5


# The matrix of the family.


@pytest.mark.parametrize("name", FAMILY)
def test_users_count_in_hem_alone(name):
    model, batch = build(name), rows()
    difference = changed(scores(model, batch), scores(model, replace(batch, user=batch.user.flip(0) % 7 + 1)))
    assert difference.any() if name == "hem" else not difference.any()


@pytest.mark.parametrize("name", FAMILY)
def test_the_past_counts_in_personal_models_alone(name):
    model, batch = build(name), rows()
    difference = changed(scores(model, batch), scores(model, without_past(batch)))
    assert torch.equal(difference, batch.merged_len > 0) if name in PERSONAL else not difference.any()


@pytest.mark.parametrize("name", PERSONAL)
def test_one_setting_says_which_clicks_are_read(name):
    for history, matters in (("both", True), ("search", False)):
        model = build(name, history=history)
        batch = planted().scoring(("search",), model.window)
        other = replace(batch, rec_items=torch.where(batch.rec_mask, batch.rec_items % 50 + 1, 0))
        searches = replace(batch, search_items=torch.where(batch.search_click_mask, batch.search_items % 50 + 1, 0))
        assert changed(scores(model, batch), scores(model, other)).any() == matters
        assert changed(scores(model, batch), scores(model, searches)).any()


@pytest.mark.parametrize("name", FAMILY)
def test_the_order_of_the_past_counts_where_there_are_positions(name):
    batch = rows()
    short = batch.take(batch.merged_len.clamp(max=6) == batch.merged_len)  # the same clicks in both orders
    assert len(short) > 3
    for settings, matters in (({}, name in ("tem", "copps")), ({"positions": False}, False)):
        if settings and name not in ("tem", "copps"):
            continue
        model = build(name, **settings)
        before, after = scores(model, short), scores(model, reordered_past(short))
        if matters:
            assert changed(before, after).any()
        else:
            torch.testing.assert_close(after, before, **CLOSE)


@pytest.mark.parametrize("name", FAMILY)
def test_order_of_query_words_and_padding_count_nothing_but_words_do(name):
    model, batch = build(name), rows()
    expected = scores(model, batch)
    table = model.query_encoder.query_words
    lengths = (table > 0).sum(1, keepdim=True)
    column = torch.arange(table.shape[1])
    turned = table.gather(1, torch.where(column < lengths, lengths - 1 - column, column))
    assert not torch.equal(turned, table)
    model.query_encoder.query_words = torch.cat([turned, torch.zeros_like(turned)], 1)
    torch.testing.assert_close(scores(model, batch), expected, **CLOSE)
    model.query_encoder.query_words = torch.cat([table, torch.full_like(table[:, :1], 3)], 1)
    assert changed(scores(model, batch), expected).all()


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_without_a_past_is_qem_in_aem_and_zam_but_not_in_transformers(name):
    model, batch = build(name, item_bias=True), without_past(rows())
    query = model.query_encoder(batch.query)
    unpersonal = torch.einsum("bd,bkd->bk", query, model.items(batch.cand)) + model.item_biases[batch.cand]
    same = not changed(scores(model, batch), unpersonal).any()
    assert same == (name in ("qem", "aem", "zam"))
    if name in PERSONAL:
        same_query = batch.take(torch.nonzero(batch.query == batch.query.mode().values).squeeze(1))
        same_query = replace(same_query, cand=same_query.cand[:1].expand(len(same_query), -1))
        torch.testing.assert_close(scores(model, same_query), scores(model, same_query)[:1].expand(len(same_query), -1))


@pytest.mark.parametrize("name", FAMILY)
def test_a_candidate_counts_through_its_own_row_alone_and_rows_are_encoded_once(name):
    model, batch = build(name), rows()
    once = model.score_items(model.encode(batch), batch.cand)
    each = [scores(model, replace(batch, cand=batch.cand[:, k : k + 1])) for k in range(batch.cand.shape[1])]
    torch.testing.assert_close(torch.cat(each, 1), once.detach(), **CLOSE)
    candidate = torch.tensor([[planted().catalog.n_items]])
    row = without_past(batch).take(torch.tensor([0]))
    model.score(replace(row, cand=candidate)).sum().backward()
    touched = model.items.weight.grad.abs().sum(1).nonzero().flatten()
    assert touched.tolist() == [int(candidate)]


@pytest.mark.parametrize("name", FAMILY)
def test_text_teaches_items_that_nobody_searched_for(name):
    model, batch = build(name), training()
    clicked = torch.cat([batch.item[:, None], batch.negatives], 1).unique()
    torch.manual_seed(3)
    for _ in range(8):
        model.text_loss(batch).backward()
    moved = model.items.weight.grad.abs().sum(1).nonzero().flatten()
    assert len(set(moved.tolist()) - set(clicked.tolist())) >= 0.8 * (planted().catalog.n_items - len(clicked))
    assert not model.items.weight.grad[0].any() and model.words.weight.grad.any()
    # The text term reads neither the query encoder nor what personalises.
    outside = [
        n for n, p in model.named_parameters() if n.split(".")[0] not in ("items", "words", "word_biases", "users")
    ]
    assert outside and all(model.get_parameter(n).grad is None for n in outside)
    assert (name == "hem") == any(n.startswith("users") for n, p in model.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("name", FAMILY)
def test_the_record_says_which_words_are_predicted(name):
    said = build(name).evidence()
    assert said["words of items"].startswith("text of the item without words of the item's queries (")
    assert ("words of users" in said) == (name == "hem")
    assert build(name, words="all").evidence()["words of items"].startswith("text of the item (")


# HEM.


def test_hem_with_the_query_alone_ignores_the_user_and_the_other_way_round():
    batch = rows()
    other_user, other_query = replace(batch, user=batch.user % 9 + 1), replace(batch, query=batch.query % 5 + 1)
    only_query, only_user = build("hem", query_weight=1), build("hem", query_weight=0)
    torch.testing.assert_close(scores(only_query, other_user), scores(only_query, batch), atol=0, rtol=0)
    assert changed(scores(only_query, other_query), scores(only_query, batch)).any()
    torch.testing.assert_close(scores(only_user, other_query), scores(only_user, batch), atol=0, rtol=0)
    assert changed(scores(only_user, other_user), scores(only_user, batch)).any()


def test_two_users_of_hem_differ_by_half_their_vectors_whatever_the_query():
    model, batch = build("hem"), rows()
    one, two = (replace(batch, user=torch.full_like(batch.user, user)) for user in (3, 8))
    gap = 0.5 * model.items(batch.cand) @ (model.users.weight[3] - model.users.weight[8])
    torch.testing.assert_close(scores(model, one) - scores(model, two), gap.detach(), atol=1e-5, rtol=1e-4)


def test_hem_with_a_zero_user_ranks_as_its_query_does():
    model, batch = build("hem", query_weight=0.3, item_bias=False), rows()
    nn.init.zeros_(model.users.weight)
    query = torch.einsum("bd,bkd->bk", model.query_encoder(batch.query), model.items(batch.cand))
    torch.testing.assert_close(scores(model, batch), 0.3 * query.detach(), **CLOSE)


def test_users_of_hem_learn_words_without_a_search():
    model, batch = build("hem"), training()
    torch.manual_seed(0)
    for _ in range(8):
        model.text_loss(batch).backward()
    never = torch.tensor(
        [row for row in range(1, 41) if planted().log.users.id[row] in ("user00", "user01", "user02", "user03")]
    )
    assert model.users.weight.grad[never].abs().sum(1).gt(0).all()


# AEM and ZAM.


def test_weights_of_aem_and_zam_by_hand():
    logits = torch.tensor([[math.log(3), 0.0, -math.inf], [-math.inf] * 3, [2.0, -math.inf, -math.inf]])
    aem = build("aem").weights(logits)
    torch.testing.assert_close(aem, torch.tensor([[0.75, 0.25, 0], [0, 0, 0], [1, 0, 0]]))
    zam = build("zam").weights(logits)
    sigmoid = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(zam, torch.tensor([[0.6, 0.2, 0], [0, 0, 0], [sigmoid, 0, 0]]))
    # A constant moves ZAM's threshold and nothing in AEM.
    torch.testing.assert_close(build("aem").weights(logits + 1), aem)
    assert (build("zam").weights(logits + 1) - zam)[0].abs().max() > 0.01
    # Large logits neither overflow nor leave the zero vector a weight of its own.
    torch.testing.assert_close(build("zam").weights(logits[:1] + 300), aem[:1])
    # Without an irrelevant click the zero vector weighs more.
    assert (
        1 - build("zam").weights(torch.tensor([[1.0, -math.inf]])).sum()
        > 1 - build("zam").weights(torch.tensor([[1.0, -1.0]])).sum()
    )


def past_and_logits(model: TorchRanker, batch: Batch) -> tuple[Tensor, Tensor]:
    past = model.past_clicks(batch)
    logits = model.attention(model.query_encoder(batch.query), model.items(past.items), past.mask)
    return past.mask, logits.detach()


@pytest.mark.parametrize("name", ["aem", "zam"])
def test_attention_sums_to_one_in_aem_and_to_less_in_zam(name):
    model, batch = build(name), rows()
    real, logits = past_and_logits(model, batch)
    weights = model.weights(logits)
    assert not weights[~real].any()
    total = weights.sum(1)[real.any(1)]
    if name == "aem":
        torch.testing.assert_close(total, torch.ones_like(total))
    else:
        assert (total < 1).all() and (total > 0).all()
    _, other = past_and_logits(model, replace(batch, query=batch.query % 5 + 1))
    assert ((model.weights(other) - weights).abs().amax(1) > 1e-6)[real.sum(1) > 1].any()
    nn.init.zeros_(model.head_weights)
    _, flat = past_and_logits(model, batch)
    count = real.sum(1, keepdim=True) + (name == "zam")
    torch.testing.assert_close(model.weights(flat), torch.where(real, 1 / count.clamp(min=1), 0.0))


def test_a_single_click_weighs_one_in_aem_whatever_the_query():
    model, batch = build("aem", history_length=1), rows()
    batch = batch.take(batch.merged_len > 0)
    past = model.past_clicks(batch)
    expected = model.query_encoder(batch.query) + model.items(past.items[:, 0])
    torch.testing.assert_close(model.intent(batch), expected)


def test_zam_lies_between_the_query_alone_and_aem():
    batch = rows()
    zam, aem, qem = build("zam"), build("aem"), build("qem")
    for other in (aem, qem):
        other.load_state_dict({n: v for n, v in zam.state_dict().items() if n in other.state_dict()})

    def with_logits(value: float) -> Tensor:
        zam.attention = lambda query, items, real: torch.full(real.shape, value).masked_fill(~real, -torch.inf)
        return scores(zam, batch)

    aem.attention = lambda query, items, real: torch.zeros(real.shape).masked_fill(~real, -torch.inf)
    torch.testing.assert_close(with_logits(-40.0), scores(qem, batch), **CLOSE)
    torch.testing.assert_close(with_logits(40.0), scores(aem, batch), **CLOSE)


# TEM.


def test_gradients_reach_every_click_of_tem_and_no_padding():
    model, batch = build("tem", layers=2), rows()
    past = model.past_clicks(batch)
    tokens = model.items(past.items).detach().requires_grad_()
    model.read(model.query_encoder(batch.query), tokens, past.mask).pow(3).sum().backward()
    assert torch.equal(tokens.grad.abs().sum(2) > 0, past.mask)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_output_of_tem_is_normalised_and_its_short_cut_is_the_whole_encoder(layers):
    model, batch = build("tem", layers=layers), rows()
    intent = model.intent(batch).detach()
    torch.testing.assert_close(intent.mean(1), torch.zeros(len(batch)), atol=1e-5, rtol=0)
    torch.testing.assert_close(intent.var(1, correction=0), torch.ones(len(batch)), atol=1e-2, rtol=0)
    past = model.past_clicks(batch)
    mask = torch.cat([torch.ones_like(past.mask[:, :1]), past.mask], 1)
    sequence = torch.cat([model.query_encoder(batch.query)[:, None], model.items(past.items)], 1)
    torch.testing.assert_close(model.encoder(sequence, mask)[:, 0], model.encoder.first(sequence, mask), **CLOSE)
    wider = (
        torch.cat([sequence, torch.ones_like(sequence[:, :1])], 1),
        torch.cat([mask, torch.zeros_like(mask[:, :1])], 1),
    )
    model.encoder.sinusoids = torch.cat([model.encoder.sinusoids, torch.ones_like(model.encoder.sinusoids[:1])])
    torch.testing.assert_close(model.encoder.first(*wider), model.encoder.first(sequence, mask), **CLOSE)


def test_the_first_layer_of_tem_by_hand():
    """Attention on the raw input, the network on the normalised one, a last normalisation (one layer, one head)."""
    model = build("tem", heads=1, positions=False)
    (layer,) = model.encoder.layers
    x = torch.randn(1, 4, 16)
    q, k, v = (x @ layer.attention.weight.T + layer.attention.bias).chunk(3, -1)
    pooled = (q @ k.transpose(1, 2) / 4).softmax(-1) @ v
    y = x + layer.attention.out(pooled)
    inner = torch.nn.functional.gelu(layer.network.inner(layer.norm2(y)), approximate="tanh")
    expected = model.encoder.norm(y + layer.network.outer(inner))
    torch.testing.assert_close(model.encoder(x, torch.ones(1, 4, dtype=torch.bool)), expected)


# CoPPS.


def test_copps_without_contrast_and_past_queries_is_tem():
    shared = {"dim": 16, "heads": 2, "hidden": 24, "item_bias": False, "dropout": 0.0, "batch_size": 32}
    plain = {"contrast_weight": 0.0, "pretrain_epochs": 0, "past_queries": False}
    tem, copps = build("tem", **shared), build("copps", **shared, **plain)
    missing, unexpected = copps.load_state_dict(tem.state_dict(), strict=False)
    assert not unexpected and {name.split(".")[0] for name in missing} == {"rows", "head"}
    losses, batch = [], training()
    for model in (tem, copps):
        torch.manual_seed(5)
        losses.append(model.loss(batch)[0])
    assert torch.equal(*losses)
    assert torch.equal(scores(tem, rows()), scores(copps, rows()))
    train = planted().train(("search",))
    assert [stage.name for stage in copps.stages(train)] == ["fit"]
    assert [stage.name for stage in build("copps").stages(train)] == ["pretrain", "fit"]


def test_the_contrast_of_copps_enters_with_its_weight_and_reads_no_query():
    model, batch = build("copps", contrast_weight=0.5, ratio=0.0), training()
    torch.manual_seed(1)
    loss, parts = model.loss(batch)
    expected = parts["search"] + parts["text"] + 0.5 * parts["contrast"]
    torch.testing.assert_close(loss, expected)
    other = replace(batch, query=batch.query % 5 + 1)
    # Without augmentation both views are the history itself: neither chance nor the query now changes them.
    torch.testing.assert_close(model.contrast(other), model.contrast(batch))
    assert model.contrast(without_past(batch)) == 0


def test_queries_of_past_searches_count_in_copps():
    model, batch = build("copps"), rows()
    other = replace(batch, search_query=batch.search_query % 7 + 1)
    assert changed(scores(model, batch), scores(model, other)).any()
    assert isinstance(model, CoPPS)
    assert not changed(*(scores(build("copps", past_queries=False), each) for each in (batch, other))).any()
