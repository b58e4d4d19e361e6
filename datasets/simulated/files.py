"""Simulated events as the CSV files of a KuaiSAR release: the same names, columns and oddities, at any size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from bench.datasets.kuaisar.source import SIMULATED_MARK
from bench.datasets.simulated.events import Delivered, Searched, simulate
from bench.datasets.simulated.structure import (
    COMMON,
    DAY_MS,
    POOL,
    START_MS,
    Parameters,
    Structure,
    common_word,
    generator,
    intent_word,
    query_words,
)
from bench.files import atomic_folder

Spelling = Literal["v2", "documented"]
_CHUNK = 400_000
_SOURCES = ["USER_INPUT", "SEARCH_HISTORY", "RELATED_SEARCH", "HOT_LIST"]
_SHANGHAI_MS = 8 * 3_600_000
_REC_HEADERS = {
    "v2": "user_id,item_id,duration_ms,playing_time,timestamp,forward,like,follow,search_photo_related,search,click,"
    "time",
    "documented": "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,"
    "search_item_related",
}
_SEARCH_HEADERS = {
    "v2": "user_id,search_session_id,search_session_timestamp,search_session_source,keyword,item_id,click_cnt,"
    "item_type,time",
    "documented": "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,"
    "item_id,click_cnt,item_type",
}
_LEVELS = ("first", "second", "third", "fourth")
_ITEM_HEADER = ",".join(
    ["item_id", "caption", "author_id", "item_type", "upload_time", "upload_type"]
    + [f"{level}_level_category_{part}" for level in _LEVELS for part in ("id", "name", "name_en")]
)


def write_raw(folder: Path, parameters: Parameters, spelling: Spelling = "v2") -> None:
    """Write `rec_inter.csv`, `src_inter.csv`, `item_features.csv`, `user_features.csv`, `social_network.csv`.

    `simulated.json` beside them holds the parameters; by it the reader knows that the release is not real. The folder
    is made at once or not at all; an existing one is replaced. The same parameters give the same bytes.

    Args:
        folder: for instance `<data root>/kuaisar/KuaiSAR_v2`, where the data set `kuaisar` reads them.
        parameters: size and strengths.
        spelling: column names of the second version of the release, or those that its documentation prints.
    """
    with atomic_folder(folder, "the simulated files") as scratch:
        structure = Structure(parameters)
        _write_items(scratch / "item_features.csv", structure)
        _write_users(scratch, parameters)
        rec, search = simulate(structure)
        _write_rec(scratch / "rec_inter.csv", rec, parameters, spelling)
        _write_search(scratch / "src_inter.csv", search, parameters, spelling)
        # Whoever reads these files has to know that nobody clicked.
        (scratch / SIMULATED_MARK).write_text(json.dumps(parameters.model_dump(), indent=1) + "\n")


def _write_rec(path: Path, rec: Delivered, parameters: Parameters, spelling: Spelling) -> None:
    rng = generator("rec file", parameters)

    def chunk(part: slice) -> dict[str, np.ndarray | pa.Array]:
        size = len(rec.user[part])
        time = rec.time[part]
        length = rng.integers(5_000, 120_000, size)
        click = rec.click[part]
        related = (rng.random(size) < 0.01).astype(np.int8)
        return {
            "user_id": rec.user[part] + 1,
            "item_id": rec.item[part] + 1,
            "duration_ms": length,
            "playing_time": (length * rng.random(size) * (0.2 + click)).astype(np.int64),
            "timestamp": time,
            "forward": click * (rng.random(size) < 0.01),
            "like": click * (rng.random(size) < 0.05),
            "follow": click * (rng.random(size) < 0.01),
            "search_photo_related": related,
            "search_item_related": related,
            "search": np.maximum(related, (rng.random(size) < 0.01).astype(np.int8)),
            "click": click,
            "time": _clock(time),
        }

    _write(path, _REC_HEADERS[spelling], len(rec.user), chunk)


def _write_search(path: Path, search: Searched, parameters: Parameters, spelling: Spelling) -> None:
    rng = generator("search file", parameters)
    numbers, code = np.unique(search.intent.astype(np.int64) * parameters.queries + search.query, return_inverse=True)
    words, lengths = query_words(numbers // parameters.queries, numbers % parameters.queries)
    keyword = _bracketed(words[np.arange(4) < lengths[:, None]], lengths)

    def chunk(part: slice) -> dict[str, np.ndarray | pa.Array]:
        size, time = len(search.user[part]), search.time[part]
        # The source belongs to the session: a function of its time.
        source = pa.array(_SOURCES).take(pa.array(time % len(_SOURCES)))
        kinds = np.where(search.other[part], rng.integers(2, 7, size), (rng.random(size) < 0.1).astype(np.int64))
        kind = pa.array(["VIDEO", "IMAGE_ATLAS", "USER", "LIVE", "COMMODITY", "MUSIC", "ADVERT"]).take(pa.array(kinds))
        shown = _clock(time)
        return {
            "user_id": search.user[part] + 1,
            "search_session_id": search.session[part],
            "search_session_timestamp": time,
            "search_session_source": source,
            "search_source": source,
            "keyword": keyword.take(pa.array(code[part])),
            "item_id": search.item[part] + 1,
            "click_cnt": search.click[part],
            "item_type": kind,
            "time": shown,
            "search_session_time": shown,
        }

    _write(path, _SEARCH_HEADERS[spelling], len(search.user), chunk)


def _write_items(path: Path, structure: Structure) -> None:
    parameters = structure.parameters
    rng = generator("item file", parameters)
    # As many first levels for the second ones as in the release (37 and 296).
    second = np.arange(parameters.topics)
    first = second // 8
    names = {
        "first": (pa.array([f"大类{number + 1}" for number in range(int(first.max()) + 1)]), "area"),
        "second": (pa.array([f"小类{number + 1}" for number in range(parameters.topics)]), "topic"),
    }

    def chunk(part: slice) -> dict[str, np.ndarray | pa.Array]:
        intent = structure.intent[part]
        size = len(intent)
        topic = intent // parameters.intents
        columns: dict[str, np.ndarray | pa.Array] = {
            "item_id": np.arange(part.start, part.start + size) + 1,
            "caption": _captions(rng, intent),
            "author_id": rng.integers(0, max(2, parameters.items // 4), size),
            "item_type": pa.array(["NORMAL", "AD"]).take(pa.array((rng.random(size) < 0.02).astype(np.int8))),
            "upload_time": pc.utf8_slice_codeunits(_clock(START_MS - rng.integers(0, 400 * DAY_MS, size)), 0, 10),
            "upload_type": pa.array(["ShortImport", "LongImport", "PictureSet"]).take(
                pa.array(rng.integers(0, 3, size))
            ),
        }
        for level, code in (("first", first[topic]), ("second", topic)):
            chinese, english = names[level]
            columns[f"{level}_level_category_id"] = code + 1
            columns[f"{level}_level_category_name"] = chinese.take(pa.array(code))
            number = pa.array(code + 1).cast(pa.string())
            columns[f"{level}_level_category_name_en"] = pc.binary_join_element_wise(english, number, " ")
        for level in _LEVELS[2:]:
            columns[f"{level}_level_category_id"] = np.zeros(size, dtype=np.int8)
            columns[f"{level}_level_category_name"] = pa.repeat("空", size)
            columns[f"{level}_level_category_name_en"] = pa.repeat("empty", size)
        return columns

    _write(path, _ITEM_HEADER, parameters.items, chunk)


def _captions(rng: np.random.Generator, intent: np.ndarray) -> pa.Array:
    """Half of the words belong to the item's intent, the others mean nothing; one in a hundred has a line break."""
    lengths = 6 + rng.poisson(15, len(intent))
    owner = np.repeat(np.arange(len(intent)), lengths)
    # Frequent and rare words without meaning.
    common = common_word((COMMON * rng.random(len(owner)) ** 3).astype(np.int64))
    own = intent_word(intent[owner], rng.integers(POOL, size=len(owner)))
    text = _bracketed(np.where(rng.random(len(owner)) < 0.5, own, common), lengths)
    broken = pa.array(rng.random(len(intent)) < 0.0086)
    return pc.if_else(broken, pc.replace_substring(text, ", ", ",\n", max_replacements=1), text)


def _write_users(folder: Path, parameters: Parameters) -> None:
    rng = generator("user file", parameters)

    def users(part: slice) -> dict[str, np.ndarray | pa.Array]:
        number = np.arange(parameters.users)[part]
        bounds = {"search_active_level": 7, "rec_active_level": 4, "onehot_feat1": 8, "onehot_feat2": 3}
        return {
            "user_id": number + 1,
            **{name: rng.integers(bound, size=len(number)) for name, bound in bounds.items()},
        }

    def friends(part: slice) -> dict[str, np.ndarray | pa.Array]:
        size = part.stop - part.start
        return {name: rng.integers(1, parameters.users + 1, size) for name in ("user_id", "user_follow_id")}

    header = "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2"
    _write(folder / "user_features.csv", header, parameters.users, users)
    _write(folder / "social_network.csv", "user_id,user_follow_id", max(1, parameters.users // 42), friends)


def _write(path: Path, header: str, rows: int, chunk: Callable[[slice], dict[str, np.ndarray | pa.Array]]) -> None:
    names = header.split(",")
    with path.open("wb") as stream:
        stream.write(f"{header}\n".encode())
        for low in range(0, rows, _CHUNK):
            columns = chunk(slice(low, min(low + _CHUNK, rows)))
            _append(stream, pa.table({name: columns[name] for name in names}))


def _append(stream: IO[bytes], table: pa.Table) -> None:
    arrow_csv.write_csv(table, stream, arrow_csv.WriteOptions(include_header=False, quoting_style="needed"))


def _bracketed(values: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """Lists as text: `[20, 34, 3]`."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, pa.array(values).cast(pa.string())), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _clock(time: np.ndarray) -> pa.Array:
    """Readable Beijing time, whole seconds."""
    return pa.array((time + _SHANGHAI_MS) // 1000).cast(pa.timestamp("s")).cast(pa.string())
