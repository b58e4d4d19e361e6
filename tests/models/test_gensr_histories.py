"""GenSR's histories: the last clicks of both tasks, all those of a search, whatever stands in the padding behind them."""

from dataclasses import replace

import pytest
import torch

from bench.data.batch import Batch
from bench.models.gensr.model import GenSR

from .gensr_world import close, embedded, inserted, scores, titles


def clicks(batch: Batch, row: int) -> list[int]:
    """All clicks of a row in the order of both tasks, counted one by one."""
    found: list[int] = []
    for place in range(int(batch.rec_len[row] + batch.search_len[row])):
        column = int(batch.merged_column[row, place])
        if batch.merged_task[row, place] == 0:
            found.append(int(batch.rec_items[row, column]))
        else:
            found += [item for item in batch.search_items[row, column].tolist() if item]
    return found


def with_second_clicks(batch: Batch) -> Batch:
    """The batch with a second clicked item in every other search."""
    first = batch.search_items[..., :1]
    second = (first + 20) % 60 + 1
    second[:, 1::2] = 0
    second[~batch.search_mask] = 0
    return replace(batch, search_items=torch.cat([first, second], 2))


def without_clicks(batch: Batch) -> Batch:
    """The batch with every other search left without a click."""
    items = batch.search_items.clone()
    items[:, ::2] = 0
    return replace(batch, search_items=items)


def cut(batch: Batch, junk: bool) -> Batch:
    """At most two clicks and one search a row, and of every third row one click alone; what is behind is junk or not there."""
    rec_len, search_len = batch.rec_len.clamp(max=2), batch.search_len.clamp(max=1)
    rec_len[::3], search_len[::3] = 1, 0
    order = torch.tensor([[1, 0, 0]] * len(batch))
    order[search_len == 0] = torch.tensor([0, 0, 0])
    column = torch.where(order == 1, 0, (order == 0).long().cumsum(1) - 1).clamp(min=0)
    found = replace(batch, rec_len=rec_len, search_len=search_len)
    if not junk:
        return replace(
            found,
            rec_items=batch.rec_items[:, :2] * found.rec_mask[:, :2],
            rec_times=batch.rec_times[:, :2],
            search_query=batch.search_query[:, :1],
            search_items=batch.search_items[:, :1] * found.search_mask[:, :1, None],
            search_times=batch.search_times[:, :1],
            merged_task=order,
            merged_column=column,
        )
    width = batch.merged_task.shape[1]
    return replace(
        found,
        rec_items=torch.where(found.rec_mask, batch.rec_items, 9),
        search_items=torch.where(found.search_mask[..., None], batch.search_items, 11),
        search_query=torch.where(found.search_mask, batch.search_query, 3),
        merged_task=torch.cat([order, torch.ones(len(batch), width - 3, dtype=torch.long)], 1),
        merged_column=torch.cat([column, torch.full((len(batch), width - 3), 2)], 1),
    )


@pytest.mark.parametrize("change", [with_second_clicks, without_clicks])
def test_a_search_brings_all_of_its_clicks_or_none(world, change):
    model = world.model(history=40)
    batch = change(world.batch(model))
    with torch.no_grad():
        encoded = model.encode(batch)
        for row in range(len(batch)):
            past = clicks(batch, row)
            assert len(past) != int(batch.merged_len[row])
            assert int(encoded.mask[row].sum()) == int(encoded.semantic_mask[row].sum()) == len(past)
            real = torch.ones(1, len(past), dtype=torch.bool)
            close(encoded.cf[row, : len(past)], model.cf_view.encoder(model.cf[past][None], real)[0])
            read = titles(model)[past][None]
            close(encoded.semantic[row, : len(past)], model.semantic_view.encoder(read, real)[0])


def test_the_history_is_as_many_clicks_as_asked_not_as_many_searches(world, model):
    batch = with_second_clicks(world.batch(model))
    assert all(len(clicks(batch, row)) > 6 for row in range(len(batch)))
    assert model.encode(batch).mask.sum(1).tolist() == [6] * len(batch)
    part, _ = embedded(model, batch, 1)
    vectors = inserted(model, batch, 1)
    with torch.no_grad():
        for row in range(len(part)):
            past = clicks(part, row)[-6:]
            real = torch.ones(1, len(past), dtype=torch.bool)
            for number, view, table in ((0, model.cf_view, model.cf), (1, model.semantic_view, titles(model))):
                history = view.encoder(table[past][None], real)
                pooled = view.filter(table[part.cand[row]][None], history, real)[0]
                expected = model.project(pooled) if number == 0 else pooled
                close(vectors[row, :, number], expected * model.scale)


def test_a_second_click_in_the_padding_of_a_search_is_not_read(world, model):
    batch = with_second_clicks(world.batch(model))
    behind = replace(batch, search_items=torch.where(batch.search_mask[..., None], batch.search_items, 13))
    assert torch.equal(scores(model, behind), scores(model, batch))


def test_positions_are_counted_back_from_the_newest_click(world):
    model = world.model()
    batch = cut(world.batch(model), True)
    before = model.encode(batch).cf
    with torch.no_grad():
        for number in range(3, 6):
            model.cf_view.encoder.position.weight[number] += 1
        assert torch.equal(model.encode(batch).cf, before)
        model.cf_view.encoder.position.weight[2].normal_()  # of the oldest of three clicks
    after, long = model.encode(batch).cf, batch.merged_len == 3
    assert torch.equal(after[~long], before[~long]) and not torch.allclose(after[long], before[long])
    oldest = [model.cf_view.encoder.placed(torch.zeros(1, 6, 8), torch.arange(6)[None] < count) for count in (3, 1)]
    weight = model.cf_view.encoder.position.weight
    assert torch.equal(oldest[0][0, :3], weight[[2, 1, 0]]) and torch.equal(oldest[1][0, 0], weight[0])


READINGS = [
    {},
    {"mode": "released"},
    {"filter": "mean"},
    {"filter": "bilinear"},
    {"semantic_history": "tokens"},
    {"positions": False},
]


@pytest.fixture(scope="module", params=READINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "paper")
def reading(request, world) -> GenSR:
    return world.model(**request.param)


def test_what_stands_behind_a_short_history_never_matters(world, reading):
    batch = world.batch(reading)
    junk, narrow = cut(batch, True), cut(batch, False)
    assert set(narrow.merged_len.tolist()) == {1, 3}
    assert torch.equal(scores(reading, junk), scores(reading, narrow))


def test_a_short_history_scores_as_where_there_is_no_place_for_more(world, reading, monkeypatch):
    """Padding up to the longest history against none at all."""
    batch = cut(world.batch(reading), True)
    expected = scores(reading, batch)
    for row in range(len(batch)):
        alone = batch.take(torch.tensor([row]))
        with monkeypatch.context() as patch:
            patch.setattr(reading.config, "history", int(alone.merged_len))
            close(scores(reading, alone), expected[row : row + 1])


def test_an_empty_history_scores_as_another_empty_one(world, reading):
    batch = world.batch(reading)
    empty = replace(batch, rec_len=batch.rec_len * 0, search_len=batch.search_len * 0)
    turned = replace(empty, rec_items=batch.rec_items.flip(0), search_items=batch.search_items.flip(0))
    found = scores(reading, empty)
    assert torch.isfinite(found).all() and torch.equal(scores(reading, turned), found)


def first_words(model: GenSR) -> torch.Tensor:
    """(n_items + 1, width) the first word of each item's text, on the scale of the views."""
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    rows = [torch.zeros(64)]
    for text in model.catalog.item_text[1:]:
        rows.append(model.words.weight[tokenizer(str(text), add_special_tokens=False)["input_ids"][0]].detach())
    return torch.stack(rows) / model.scale


@pytest.mark.parametrize("semantic_history", ["items", "tokens"])
def test_short_titles_of_the_history_leave_those_of_candidates_whole(world, semantic_history):
    model = world.model(history_title_tokens=1, semantic_history=semantic_history)
    batch = world.batch(model)
    part, _ = embedded(model, batch, 1)
    vectors = inserted(model, batch, 1)
    whole, first = titles(model), first_words(model)
    assert not torch.allclose(whole[1:], first[1:])
    close(vectors[:, :, 3], (whole * model.scale)[part.cand])
    with torch.no_grad():
        for row in range(len(part)):
            past = clicks(part, row)[-6:]
            real = torch.ones(1, len(past), dtype=torch.bool)
            history = model.semantic_view.encoder(first[past][None], real)
            pooled = model.semantic_view.filter(whole[part.cand[row]][None], history, real)[0]
            close(vectors[row, :, 1], pooled * model.scale)


def test_short_titles_of_candidates_leave_those_of_the_history_whole(world):
    model = world.model(title_tokens=1, semantic_history="tokens")
    batch = world.batch(model)
    counts = model.encode(batch).semantic_mask.sum(1)
    tokenizer = model.context.backbone("small-t5", model.wording.texts()).tokenizer
    for row in range(len(batch)):
        texts = [str(model.catalog.item_text[item]) for item in clicks(batch, row)[-6:]]
        assert int(counts[row]) == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
