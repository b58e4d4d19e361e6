"""MovieLens-100K as the RecBole package carries it, with queries made from genre and decade.

The queries are synthetic: after Ai et al. (SIGIR 2017), a purchase is searched by one path of the item's categories.
Here a path is a genre with a decade (variant E; the paper's difficulty on Kindle is variant A, the combination of all
genres).
"""

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bench.data import hashing
from bench.data.build import build, k_core
from bench.data.log import Log
from bench.data.sources import Source, SourceConfig, source
from bench.data.words import tokenize
from bench.datasets.recbole import read_atomic
from bench.errors import RunError

_MD5 = {
    "ml-100k.inter": "a8a8c3f165aedc53f63b5dc0a0463b14",
    "ml-100k.item": "fb748e97e64d9a35421d06d7083d0959",
    "ml-100k.user": "ac50ecbab626dbefa83288a3593f92ab",
}


class Config(SourceConfig):
    """How ratings become a Log."""

    mode: Literal["disjoint", "mirror"] = "disjoint"
    """Whether a rating is an event of one task, chosen by a hash, or of both."""
    queries: Literal["E", "A"] = "E"
    """By which query a movie is searched: E = one of its genres with its decade, A = all its genres together."""


@source(
    "ml-100k",
    title="MovieLens-100K (5-core)",
    split="leave-one-out",
    cite="Harper and Konstan, TiiS 2015",
    synthetic="queries (genre and decade of the movie)",
    items="film",
)
class MovieLens100K(Source):
    """The files that RecBole's package carries."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """Ratings, movies and users, checked by md5."""
        spec = importlib.util.find_spec("recbole")
        if spec is None or not spec.submodule_search_locations:
            raise RunError("ml-100k comes with RecBole, which is not installed: pip install --no-deps recbole==1.2.1")
        folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"
        files = {name: folder / name for name in _MD5}
        for name, path in files.items():
            if not path.exists():
                raise RunError(
                    f"{path} is missing; reinstall it: pip install --force-reinstall --no-deps recbole==1.2.1"
                )
            checksum = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if checksum != _MD5[name]:
                raise RunError(
                    f"{path} has md5 {checksum}, expected {_MD5[name]}; reinstall recbole==1.2.1 with --no-deps"
                )
        return files

    def prepare(self, files: dict[str, Path]) -> Log:
        """Ratings of the 5-core as events."""
        ratings = read_atomic(files["ml-100k.inter"]).table
        items = _items(read_atomic(files["ml-100k.item"]).table, self.config.queries)
        users = read_atomic(files["ml-100k.user"]).table.rename(columns={"user_id": "id"})
        users = users[["id", "age", "gender", "occupation"]].rename(
            columns=lambda name: name if name == "id" else f"feature:{name}"
        )
        ratings = ratings[k_core(ratings["user_id"].to_numpy(), ratings["item_id"].to_numpy())]
        return assemble(ratings, items, users, self.config)


def assemble(ratings: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame, config: Config) -> Log:
    """Log of a ratings table (user_id, item_id, timestamp in seconds) with items that carry `queries` (lists of paths)."""
    user = ratings["user_id"].astype(np.int64).to_numpy()
    item = ratings["item_id"].astype(np.int64).to_numpy()
    # Each random choice hashes under a prefix of its own: with one hash the task would decide the path.
    paths = items.set_index("id")["queries"].reindex(ratings["item_id"])
    number = hashing.below(hashing.draw(hashing.key("path", config.seed), user, item), paths.str.len().to_numpy())
    query = [entry[index] for entry, index in zip(paths, number, strict=True)]
    events = pd.DataFrame(
        {
            "act": user * (item.max() + 1) + item,
            "user": ratings["user_id"].to_numpy(),
            "item": ratings["item_id"].to_numpy(),
            "time": (ratings["timestamp"].astype(float) * 1000).astype(np.int64).to_numpy(),
            "query": query,
        }
    )
    if config.mode == "mirror":
        events = pd.concat([events.assign(task=0, query=""), events.assign(task=1)], ignore_index=True)
    else:
        task = hashing.below(hashing.draw(hashing.key("task", config.seed), user, item), 2)
        events = events.assign(task=task, query=np.where(task == 1, events["query"], ""))
    queries = pd.DataFrame({"id": sorted({key for keys in items["queries"] for key in keys})})
    queries["text"] = queries["id"]
    return build("ml-100k", config.mode, events, items, queries, users, seed=config.seed)


def _items(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Items with their text (title, genres, decade) and the queries that can be made for them."""
    # One movie has "V" for its year and the year inside its title.
    year = (
        table["release_year"].str.extract(r"^(\d{4})$")[0].fillna(table["movie_title"].str.extract(r"\((\d{4})\)")[0])
    )
    decade = (year.str[:3] + "0s").where(year.notna(), "unknown decade")
    genres = table["class"].str.split()
    title = table["movie_title"].str.replace(r"\s*\(\d{4}\)", "", regex=True)
    if variant == "A":
        queries = [[" ".join(_plain(genre) for genre in entry)] for entry in genres]
    else:
        queries = [[f"{_plain(genre)} {when}" for genre in entry] for entry, when in zip(genres, decade, strict=True)]
    text = [
        f"{name} {' '.join(_plain(genre) for genre in entry)} {when}"
        for name, entry, when in zip(title, genres, decade, strict=True)
    ]
    return pd.DataFrame(
        {
            "id": table["item_id"],
            "text": text,
            "provenance": "title, genres and decade",
            "categories": [[_plain(genre) for genre in entry] for entry in genres],
            "queries": queries,
            "words": [tokenize(entry) for entry in text],
            "feature:decade": decade,
        }
    )


def _plain(genre: str) -> str:
    """Genre names as one lower-case word: `Sci-Fi` -> `scifi`, so that text and query agree."""
    return re.sub(r"[^a-z]", "", genre.lower())
