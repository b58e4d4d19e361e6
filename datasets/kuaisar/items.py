"""Items and users of KuaiSAR for the Log: captions, two category levels, user features; only of those that remain."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bench.data.ragged import Ragged
from bench.datasets.kuaisar.csv import Column, Release, word_ids

ITEM_FILE, USER_FILE = "item_features.csv", "user_features.csv"
LEVELS = ("first", "second")
USER_FEATURES = ("search_active_level", "rec_active_level", "onehot_feat1", "onehot_feat2")
_ITEM_COLUMNS = {
    "item": Column(("item_id",)),
    "caption": Column(("caption",), "text"),
    "author": Column(("author_id",)),
    **{f"{level} id": Column((f"{level}_level_category_id",)) for level in LEVELS},
    **{f"{level} name": Column((f"{level}_level_category_name_en",), "label", optional=True) for level in LEVELS},
}


@dataclass(frozen=True)
class Items:
    """Facts of the wanted items, one entry an item, in the order asked for; items without a row have empty ones."""

    caption: Ragged  # original token ids, int64, cut
    category: np.ndarray  # (n, 2) int64 original id of each level, 0 = none
    names: list[dict[int, str]]  # English name of each category id, by level
    author: np.ndarray  # (n,) int64, 0 = unknown
    missing: int  # wanted items without a row
    rows: int  # rows of the file


def read_items(release: Release, wanted: np.ndarray, words: int) -> Items:
    """Rows of the items `wanted` (ascending ids); captions cut after `words` token ids.

    Raises:
        RunError: a caption is no list of ids, or a wanted item has two rows that differ.
    """
    places: list[np.ndarray] = []
    lists: list[Ragged] = []
    columns: dict[str, list[np.ndarray]] = {"author": [], **{f"{level} id": [] for level in LEVELS}}
    names: list[dict[int, str]] = [{} for _ in LEVELS]
    seen = np.full(len(wanted), -1, dtype=np.int64)
    rows = stored = 0
    for record, batch in release.batches(ITEM_FILE, _ITEM_COLUMNS):
        item = batch["item"].to_numpy()
        index = np.minimum(np.searchsorted(wanted, item), len(wanted) - 1)
        kept = np.flatnonzero(wanted[index] == item)
        rows += len(item)
        batch, index = batch.take(pa.array(kept)), index[kept]
        captions, bad = word_ids(batch["caption"].fill_null(""))
        if bad.any():
            row = int(np.argmax(bad))
            shown = batch["caption"][row].as_py()[:40]
            release.fail(ITEM_FILE, record + int(kept[row]), "caption", f"'{shown}' is not a list of token ids")
        lists.append(Ragged(captions.offsets.to_numpy(), captions.flatten().to_numpy()).cut(words))
        for name, part in columns.items():
            part.append(batch[name].to_numpy())
        for level, known in zip(LEVELS, names, strict=True):
            if f"{level} name" in batch.schema.names:
                known |= _names(columns[f"{level} id"][-1], batch[f"{level} name"])
        # Repeated rows of an item may only repeat what is known.
        again = _repeated(seen, index, stored)
        places.append(index)
        stored += len(index)
        if len(again):
            _same(release, record, kept, index, again, seen, lists, columns, stored - len(index))
    row_of = np.concatenate(places)
    first = seen[row_of] == np.arange(stored)
    order = np.full(len(wanted), stored, dtype=np.int64)
    order[row_of[first]] = np.flatnonzero(first)
    everything = _concatenated(lists)
    empty = np.zeros(1, dtype=np.int64)
    return Items(
        caption=Ragged(np.r_[everything.offsets, everything.offsets[-1]], everything.values).take(order),
        category=np.stack([np.concatenate([*columns[f"{level} id"], empty])[order] for level in LEVELS], axis=1),
        names=names,
        author=np.concatenate([*columns["author"], empty])[order],
        missing=int((seen < 0).sum()),
        rows=rows,
    )


def read_users(release: Release, wanted: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
    """Features of the users `wanted` (ascending ids) as codes from 1 in the order of their values; 0 = no row.

    Returns (name -> (n,) int32, number of users without a row).
    """
    columns = {"user": Column(("user_id",)), **{name: Column((name,)) for name in USER_FEATURES}}
    seen = np.zeros(len(wanted), dtype=bool)
    values = {name: np.zeros(len(wanted), dtype=np.int64) for name in USER_FEATURES}
    for record, batch in release.batches(USER_FILE, columns):
        user = batch["user"].to_numpy()
        index = np.minimum(np.searchsorted(wanted, user), len(wanted) - 1)
        kept = np.flatnonzero(wanted[index] == user)
        index = index[kept]
        _, first = np.unique(index, return_index=True)
        twice = seen[index]
        twice[np.setdiff1d(np.arange(len(index)), first)] = True
        if twice.any():
            row = int(np.argmax(twice))
            release.fail(USER_FILE, record + int(kept[row]), "user_id", f"user {int(user[kept[row]])} has a second row")
        seen[index] = True
        for name in USER_FEATURES:
            values[name][index] = batch[name].to_numpy()[kept]
    features = {}
    for name, column in values.items():
        features[name] = np.where(seen, np.searchsorted(np.unique(column[seen]), column) + 1, 0).astype(np.int32)
    return features, int((~seen).sum())


def _names(ids: np.ndarray, labels: pa.Array) -> dict[int, str]:
    """English name of each category id; 0 and the release's word for nothing have none."""
    filled = labels.cast(pa.string()).fill_null("")
    _, first = np.unique(ids, return_index=True)
    pairs = zip(ids[first].tolist(), filled.take(pa.array(first)).to_pylist(), strict=True)
    return {number: name for number, name in pairs if number and name not in ("", "empty")}


def _repeated(seen: np.ndarray, place: np.ndarray, stored: int) -> np.ndarray:
    """Rows of this batch whose item has been seen; notes the first row of each new item in `seen`."""
    _, first = np.unique(place, return_index=True)
    fresh = np.zeros(len(place), dtype=bool)
    fresh[first] = True
    fresh &= seen[place] < 0
    seen[place[fresh]] = stored + np.flatnonzero(fresh)
    return np.flatnonzero(~fresh)


def _same(
    release: Release,
    record: int,
    kept: np.ndarray,
    place: np.ndarray,
    again: np.ndarray,
    seen: np.ndarray,
    lists: list[Ragged],
    columns: dict[str, list[np.ndarray]],
    before: int,
) -> None:
    captions = _concatenated(lists)
    first, second = seen[place[again]], before + again
    same = np.ones(len(again), dtype=bool)
    for parts in columns.values():
        column = np.concatenate(parts)
        same &= column[first] == column[second]
    left, right = captions.take(first), captions.take(second)
    same &= left.lengths == right.lengths
    alike = left.take(np.flatnonzero(same)).values == right.take(np.flatnonzero(same)).values
    owner = np.repeat(np.flatnonzero(same), left.lengths[same])
    same[owner[~alike]] = False
    if not same.all():
        row = int(kept[again[np.argmin(same)]])
        release.fail(ITEM_FILE, record + row, "item_id", "the item has an earlier row with other facts")


def _concatenated(lists: list[Ragged]) -> Ragged:
    shifts = np.cumsum([0, *(len(part.values) for part in lists)])
    offsets = [part.offsets[:-1] + shift for part, shift in zip(lists, shifts[:-1], strict=True)]
    return Ragged(np.concatenate([*offsets, shifts[-1:]]), np.concatenate([part.values for part in lists]))
