"""KuaiSAR: real searches and recommendations of a short-video app (Zenodo record 8181109, CC BY-NC-SA 4.0).

The papers that use it do not say how they reduce it. The steps here, each counted in the Log's manifest: clicks only,
search rows of videos and image atlases, one act a search session, users of both services, iterative 5-core over both
tasks. What is open is a setting.
"""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import NonNegativeInt

from bench.data.build import assemble, dense, labels
from bench.data.log import Entities, Log
from bench.data.ragged import Ragged
from bench.data.sources import Source, SourceConfig, source
from bench.datasets.kuaisar.clicks import Clicks, read_clicks
from bench.datasets.kuaisar.csv import Release
from bench.datasets.kuaisar.interactions import REC_FILE, SEARCH_FILE
from bench.datasets.kuaisar.items import ITEM_FILE, LEVELS, USER_FILE, Items, read_items, read_users
from bench.errors import RunError

FILES = (REC_FILE, SEARCH_FILE, ITEM_FILE, USER_FILE)
RECORD = "https://zenodo.org/records/8181109"
# A generated release carries this file and is called by this name in every caption.
SIMULATED_MARK = "simulated.json"
SIMULATED = "everything (simulated)"

# What the papers print: Sun et al. (CIKM 2023), table 1, and the constants of UniSAR's released code.
_RAW = {
    "kuaisar": {
        "users": 25_877, "items": 6_890_707, "actions": 19_664_885, "rec items": 4_046_367, "rec actions": 14_605_716,
        "search items": 3_026_189, "search actions": 5_059_169, "queries": 453_667,
    },
    "kuaisar-small": {
        "users": 25_877, "items": 4_195_529, "actions": 10_664_332, "rec items": 2_281_034, "rec actions": 7_493_101,
        "search items": 2_012_476, "search actions": 3_171_231, "queries": 267_608,
    },
}  # fmt: skip
_PROCESSED = {
    "kuaisar": {
        "users": 22_700, "items": 673_415, "words": 394_911, "first-level categories": 37, 
        "second-level categories": 296, "rec training rows (about)": 3_490_000, "search training rows (about)": 298_000,
    },
}  # fmt: skip


class Config(SourceConfig):
    """How the release becomes a Log."""

    mode: Literal["natural"] = "natural"
    """The files say of each row which task it belongs to."""
    core: NonNegativeInt = 5
    """Fewest clicks of a user and of an item; 0 = no filter."""
    core_rounds: Literal["iterative", "once"] = "iterative"
    """Filter until nothing changes, or in one round."""
    core_rows: Literal["clicks", "exposures"] = "clicks"
    """Count clicks, or everything that was displayed."""
    core_scope: Literal["union", "each-task"] = "union"
    """Count both tasks together, or each by itself."""
    item_types: str = "VIDEO,IMAGE_ATLAS"
    """Kinds of search results that count, by comma."""
    unclicked_sessions: Literal["drop", "first-item"] = "drop"
    """Leave sessions without a click out, or take their first item, which plays by itself."""
    clicks: NonNegativeInt = 5
    """Most clicks of a session that are kept; 0 = all."""
    words: NonNegativeInt = 50
    """Most words of a caption."""
    author: bool = False
    """Whether the author is a feature of an item."""
    last_day: Literal["full", "partial", "24h"] = "full"
    """What the split `last-day` tests on: the last full day in Shanghai, the last day however short, or the last 24
    hours."""
    check_time: bool = True
    """Compare the readable time of each row with its timestamp."""


class _Published(Source):
    """A release as a folder or as the zip it is published in."""

    Config = Config
    folder: ClassVar[str]
    archive: ClassVar[str]

    def raw_files(self) -> dict[str, Path]:
        """The CSV files of a folder, or the zip."""
        files = find(self.root, self.folder, self.archive)
        if Release(files).holds(SIMULATED_MARK):
            # Generated files in the place of the real ones: every caption has to say so.
            self.entry = replace(type(self).entry, synthetic=SIMULATED)  # type: ignore[misc]
        return files

    def prepare(self, files: dict[str, Path]) -> Log:
        """See `prepare` of this module."""
        return prepare(self.entry.name, Release(files), self.config)


@source("kuaisar", title="KuaiSAR", split="last-day", cite="Sun et al., CIKM 2023", items="video")
class KuaiSAR(_Published):
    """The full release."""

    folder = "KuaiSAR_v2"
    archive = "KuaiSAR_v2.zip"


@source("kuaisar-small", title="KuaiSAR-small", split="last-day", cite="Sun et al., CIKM 2023", items="video")
class KuaiSARSmall(_Published):
    """The small release."""

    folder = "KuaiSAR_final"
    archive = "KuaiSAR.zip"


def find(root: Path, folder: str, archive: str) -> dict[str, Path]:
    """The release's CSV files in `root/folder` or in `root`, else the zip in `root`.

    Raises:
        RunError: neither is there, or a file of the folder is missing.
    """
    for place in (root / folder, root):
        files = {name: place / name for name in FILES}
        missing = [name for name, path in files.items() if not path.exists()]
        if not missing:
            mark = place / SIMULATED_MARK
            return files | ({SIMULATED_MARK: mark} if mark.exists() else {})
        if len(missing) < len(FILES):
            raise RunError(f"{place} lacks {', '.join(missing)}; unpack {archive} of {RECORD} completely")
    zipped = root / archive
    if not zipped.exists():
        raise RunError(
            f"no {folder}/ and no {archive} in {root}; download {archive} from {RECORD} and put it there "
            "(unpacking is not needed)"
        )
    if not zipfile.is_zipfile(zipped):
        size = f"{zipped.stat().st_size:,} bytes"
        raise RunError(f"{zipped} is not a complete zip ({size}); download it again from {RECORD}")
    return {archive: zipped}


def prepare(name: str, release: Release, config: Config) -> Log:
    """The Log of a release; steps, statistics and the papers' figures are in its manifest."""
    clicks = read_clicks(release, config)
    user_ids, user = dense(clicks.user)
    item_ids, item = dense(clicks.item)
    items = read_items(release, item_ids, config.words)
    user_features, no_user_row = read_users(release, user_ids)
    query, used = _used_queries(clicks)
    query_words = clicks.queries.words.take(used)
    vocabulary = dense(np.concatenate([items.caption.values, query_words.values]))[0]
    word_texts = labels(vocabulary)
    item_table, categories = _item_table(item_ids, items, vocabulary, config.author)
    query_text = clicks.queries.text.take(pa.array(used))
    events = {"act": clicks.act, "user": user, "item": item, "time": clicks.time, "task": clicks.task, "query": query}
    manifest: dict[str, Any] = {
        # The system delivers items in batches with one time: what came with a click is not its past.
        "strict_time": True,
        "last_day": config.last_day,
        "time_zone": "Asia/Shanghai",
        "steps": clicks.steps,
        "statistics": {
            "raw": clicks.raw | {"item rows": items.rows},
            "processed": _processed(clicks, items, vocabulary),
        },
        "reference": {"raw": _RAW.get(name, {}), "processed": _PROCESSED.get(name, {})},
        "shown in the sessions and not clicked": len(clicks.shown_act),
        "items without a row in item_features.csv": items.missing,
        "users without a row in user_features.csv": no_user_row,
    }
    return assemble(
        name,
        "natural",
        events | {"session": clicks.act},
        items=item_table,
        queries=Entities(id=labels(query_text), text=labels(query_text), words=_coded(query_words, vocabulary)),
        users=Entities(
            id=labels(user_ids),
            features={name: np.r_[0, codes].astype(np.int32) for name, codes in user_features.items()},
        ),
        words=Entities(id=word_texts),
        categories=categories,
        seed=config.seed,
        manifest=manifest,
        shown=(clicks.shown_act, np.searchsorted(item_ids, clicks.shown_item) + 1),
    )


def _used_queries(clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
    """Query code of each click (from 1, 0 for rec) among the queries that clicks use, and the rows of those queries."""
    used = np.unique(clicks.query[clicks.query >= 0])
    code = np.where(clicks.query >= 0, np.searchsorted(used, clicks.query) + 1, 0)
    return code.astype(np.int32), used


def _item_table(item_ids: np.ndarray, items: Items, vocabulary: np.ndarray, author: bool) -> tuple[Entities, Entities]:
    """Item table and category table. A category's id is `level:original id`, its text the English name."""
    entries: list[str] = []
    names: list[str] = []
    place = np.zeros(items.category.shape, dtype=np.int32)
    named = []
    for level, known in enumerate(items.names):
        ids = np.unique(items.category[:, level])
        ids = ids[ids > 0]
        code = np.searchsorted(ids, items.category[:, level]) + 1 + len(entries)
        place[:, level] = np.where(items.category[:, level] > 0, code, 0)
        entries += [f"{level + 1}:{number}" for number in ids.tolist()]
        names += [known.get(number, "") for number in ids.tolist()]
        named.append(pa.array(["", *names]).take(pa.array(place[:, level])))
    rows, columns = np.nonzero(place)
    words = pa.array(items.caption.values).cast(pa.string())
    caption = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(items.caption.offsets), words), " ")
    text = pc.utf8_trim(pc.replace_substring_regex(pc.binary_join_element_wise(*named, caption, " "), " +", " "), " ")
    has_name = np.asarray([False] + [bool(name) for name in names])[place].any(1)
    has_caption = items.caption.lengths > 0
    kinds = np.asarray(
        ["", "caption (token ids)", "category names", "category names, caption (token ids)"], dtype=object
    )
    # Codes of each level from 1, 0 = none (and for the padding row).
    levels = {
        f"{level}_level_category": np.unique(np.r_[0, codes], return_inverse=True)[1].astype(np.int32)
        for level, codes in zip(LEVELS, items.category.T, strict=True)
    }
    authors = {"author": np.r_[0, np.unique(items.author, return_inverse=True)[1] + 1].astype(np.int32)}
    table = Entities(
        id=labels(item_ids),
        text=labels(text),
        provenance=np.r_[kinds[:1], kinds[has_caption + 2 * has_name]],
        words=_coded(items.caption, vocabulary),
        categories=Ragged.from_pairs(rows + 1, place[rows, columns], len(item_ids) + 1),
        features=levels | (authors if author else {}),
    )
    padded = np.asarray(["", *entries], dtype=object)
    return table, Entities(id=padded, text=np.asarray(["", *names], dtype=object))


def _coded(lists: Ragged, vocabulary: np.ndarray) -> Ragged:
    """Original token ids as codes from 1, with the padding row in front."""
    codes = (np.searchsorted(vocabulary, lists.values) + 1).astype(np.int32)
    return Ragged(np.r_[0, lists.offsets], codes)


def _processed(clicks: Clicks, items: Items, vocabulary: np.ndarray) -> dict[str, int]:
    levels = [len(np.unique(column[column > 0])) for column in items.category.T]
    return {
        "users": len(pd.unique(clicks.user)),
        "items": len(items.caption),
        "words": len(vocabulary),
        "first-level categories": levels[0],
        "second-level categories": levels[1],
        "rec clicks": int((clicks.task == 0).sum()),
        "search clicks": int((clicks.task == 1).sum()),
        "search sessions": len(pd.unique(clicks.act[clicks.task == 1])),
    }
