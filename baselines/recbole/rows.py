"""Batches in the form of RecBole's interactions: a mapping from field names to tensors.

B rows, L history positions, K candidates. Field names are RecBole's usual ones.
"""

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.ranker.contract import Batch

Interaction = dict[str, Tensor]


def past(batch: Batch, limit: int) -> Interaction:
    """user_id (B,), item_id_list (B, limit) with the last recommendation clicks and 0 after item_length (B,)."""
    column = torch.arange(limit, device=batch.user.device)
    items, length = batch.rec_items, batch.rec_len
    if items.shape[1] != limit:
        length = length.clamp(max=limit)
        column_of = (batch.rec_len - length)[:, None] + column
        items = items.gather(1, column_of.clamp(max=items.shape[1] - 1))
    items = items.masked_fill(column >= length[:, None], 0)
    return {"user_id": batch.user, "item_id_list": items, "item_length": length}


def labelled(past: Interaction, batch: Batch) -> Interaction:
    """Every candidate as a row of its own with its label: B * K rows."""
    rows = {name: value.repeat_interleave(batch.cand.shape[1], 0) for name, value in past.items()}
    return rows | {"item_id": batch.cand.flatten(), "label": batch.label.flatten()}  # type: ignore[union-attr]


def paired(past: Interaction, batch: Batch) -> Interaction:
    """The clicked item beside one negative per row: B * N rows.

    RecBole's order: the whole batch with its first negatives, then with the second ones.

    Raises:
        UsageError: the batch has no negatives.
    """
    negatives = batch.negatives
    if negatives is None or not negatives.shape[1]:
        raise UsageError("a pairwise loss needs negatives; set negatives to at least 1")
    times = negatives.shape[1]
    rows = past | {"item_id": batch.item}
    if times > 1:
        rows = {name: value.repeat(times, *[1] * (value.dim() - 1)) for name, value in rows.items()}
    return rows | {"neg_item_id": negatives.T.flatten()}


def random_items(items: Tensor, n_items: int) -> Tensor:
    """A random item for every item, 0 for padding."""
    return torch.randint(1, n_items + 1, items.shape, device=items.device).masked_fill(items == 0, 0)


def masked(past: Interaction, item: Tensor, n_items: int, ratio: float, last_only: float) -> Interaction:
    """Cloze rows over history and clicked item (Sun et al., CIKM 2019, section 3.6); every length must be at least 2.

    Each place is masked with probability `ratio`; in a share `last_only` of the rows only the last, as in scoring.
    RecBole masks the history only, so that no user's last training click is ever a label, and counts its places from
    the first item, although its network drops that item in scoring; here it is dropped in training, too. The network
    leaves place 0 out of its loss, so that place is never masked; a row without a masked place gets the last one.
    """
    items, length, limit = past["item_id_list"], past["item_length"], past["item_id_list"].shape[1]
    longer = torch.cat([items, torch.zeros_like(items[:, :1])], 1)
    sequence, last = longer.scatter(1, length[:, None], item[:, None])[:, 1:], (length - 1)[:, None]
    column = torch.arange(limit, device=items.device)
    draws = torch.rand(sequence.shape, device=items.device)
    chosen = (draws < ratio) & (column > 0) & (column <= last)
    alone = torch.rand((len(items), 1), device=items.device) < last_only
    alone |= ~chosen.any(1, keepdim=True)
    chosen = torch.where(alone, column == last, chosen)
    # At most so many places of a row, as in RecBole, but never none.
    count = max(1, int(ratio * limit))
    places = draws.masked_fill(~chosen, 2.0).argsort(1)[:, :count]
    real = chosen.gather(1, places)
    places = places.masked_fill(~real, 0)
    hidden = torch.zeros_like(chosen).scatter(1, places, True) & (column > 0)
    return {
        "masked_items": sequence.masked_fill(hidden, n_items + 1),
        "masked_positives": sequence.gather(1, places).masked_fill(~real, 0),
        "masked_negatives": torch.randint(1, n_items + 1, places.shape, device=items.device),
        "masked_places": places,
    }


def masked_as_recbole(past: Interaction, n_items: int, ratio: float, last_only: float) -> Interaction:
    """Cloze rows as RecBole's `MaskItemSequence` makes them, for comparison; every length must be at least 1.

    Each place of the history is masked with probability `ratio`, its last `ratio` x limit masks count; with probability
    `last_only` the whole batch has its last place masked alone. The clicked item is in none of the sequences.
    """
    items, length, limit = past["item_id_list"], past["item_length"], past["item_id_list"].shape[1]
    column = torch.arange(limit, device=items.device)
    hidden = (torch.rand(items.shape, device=items.device) < ratio) & (column < length[:, None])
    if bool(torch.rand(()) < last_only):
        hidden = column == length[:, None] - 1
    count = max(1, int(ratio * limit))
    # The masked places in their order, right aligned; those before the last `count` are hidden but not asked for.
    order = torch.where(hidden, column, -1).sort(1).values[:, -count:]
    real = order >= 0
    places = order.clamp(min=0)
    return {
        "masked_items": items.masked_fill(hidden, n_items + 1),
        "masked_positives": items.gather(1, places).masked_fill(~real, 0),
        "masked_negatives": torch.randint(1, n_items + 1, places.shape, device=items.device),
        "masked_places": places,
    }
