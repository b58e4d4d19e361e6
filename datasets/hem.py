"""The product-search benchmark of Ai et al. (SIGIR 2017, "HEM"): published queries and relevance, search only.

A relevance triple (user, query, item) is a search event; the triples of one (user, item) are one purchase. The
benchmark has no times and its split is random: the user's other training purchases are the history, and nothing says
which came first. The order of the lines stands for time, held-out purchases after it.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from bench.data import hashing
from bench.data.build import build
from bench.data.log import Log
from bench.data.sources import FolderSource, SourceConfig, source
from bench.datasets.amazon.catalogue import Catalogue, catalogue_files, read_catalogue
from bench.datasets.amazon.files import find, title_files
from bench.datasets.amazon.metadata import read_titles
from bench.datasets.amazon.relevance import PUBLISHER, read_queries, read_relevance
from bench.datasets.amazon.text import chosen_fields, item_texts
from bench.datasets.amazon.words import aligned, path_words
from bench.errors import RunError

_FIELDS = ("title", "category", "brand")
_TRAIN, _VALID, _TEST = 0, 1, 2


class Config(SourceConfig):
    """How the benchmark becomes a Log."""

    mode: Literal["natural"] = "natural"
    """Every event is a search."""
    relevance: Literal["published", "test-only"] = "published"
    """`published` trains on train.qrels and tests on test.qrels. `test-only` needs test.qrels alone and holds out one
    purchase of each user with three or more for test and one for validation, by a hash; that is not the published
    protocol."""
    valid_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the training purchases that validates, by a hash; the benchmark has no validation part."""
    carried: Literal["public", "relevance"] = "public"
    """Which queries an item is known to carry. `public`: those of train.qrels, and where category files lie beside
    them the test queries whose words all occur in the item's category names. `relevance`: also those of test.qrels,
    which for an item that nobody bought in the test part says nothing."""
    text: str = "title,category,brand"
    """What an item's text is made of, by comma."""


@source(
    "hem:",
    title="HEM product search",
    split="given",
    cite="Ai et al., SIGIR 2017",
    synthetic="queries (category paths of the product)",
    items="product",
)
class ProductSearch(FolderSource):
    """A category of the benchmark, in the folder that the argument names."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """Queries, relevance, and what lies beside them: category files and titles."""
        chosen_fields(self.config.text, _FIELDS)
        folder = self.folder
        names = ["query_text.txt", "test.qrels"] + (["train.qrels"] if self.config.relevance == "published" else [])
        paths = {name: find(folder, name) for name in names}
        missing = [f"{name}.gz" for name, path in paths.items() if path is None]
        if missing:
            hint = "; without it there is relevance=test-only" if missing == ["train.qrels.gz"] else ""
            raise RunError(
                f"{folder} has no {', '.join(missing)}; get it from {PUBLISHER} and put it there, packed or not{hint}"
            )
        return {name: path for name, path in paths.items() if path} | catalogue_files(folder) | title_files(folder)

    def prepare(self, files: dict[str, Path]) -> Log:
        """Relevance triples as search events, in the order of the lines."""
        queries = read_queries(files["query_text.txt"])
        steps = {"query lines": len(queries)}
        triples = []
        for part, name in ((_TRAIN, "train.qrels"), (_TEST, "test.qrels")):
            if name in files:
                table = read_relevance(files[name], len(queries)).astype({"user": str, "item": str})
                steps |= _counted(name, table)
                triples.append(table.assign(part=np.int8(part), line=np.arange(len(table))))
        rows = pd.concat(triples, ignore_index=True)
        rows["part"], rows["time"], rows["act"] = _parts(rows, self.config)
        for part, name in ((_TRAIN, "training"), (_VALID, "validation"), (_TEST, "test")):
            steps[f"{name} purchases"] = int(rows.loc[rows["part"] == part, "act"].nunique())
        rows["query"] = rows["query"].astype(str)
        events = rows[["act", "user", "item", "time", "query", "part"]].assign(task=1)
        item_ids = np.sort(rows["item"].unique())
        catalogue = read_catalogue(files)
        steps["products in the catalogue"] = len(catalogue.categories)
        titles: dict[str, str] = {}
        for name in files:
            if name.startswith("titles "):
                titles = read_titles(files[name]) | titles
        parts = [
            {
                "title": titles.get(name, ""),
                "category": ", ".join(catalogue.categories.get(name, [])),
                "brand": catalogue.brand.get(name, ""),
            }
            for name in item_ids
        ]
        # The published queries are stemmed already; words of items are brought into their form.
        known = {word for query in queries for word in query.split()}
        text = item_texts(parts, chosen_fields(self.config.text, _FIELDS), lambda word: aligned((word,), known)[0])
        carried = self._carried(rows, item_ids, queries, catalogue, known, steps)
        items = pd.DataFrame(
            {
                "id": item_ids,
                "text": text.text,
                "provenance": text.provenance,
                "words": text.words,
                "word_origins": text.word_origins,
                "categories": [catalogue.categories.get(name, []) for name in item_ids],
                "queries": [[str(number) for number in entry] for entry in carried],
            }
        )
        ids = [str(number) for number in range(len(queries))]
        table = pd.DataFrame({"id": ids, "text": queries, "words": [query.split() for query in queries]})
        published = self.config.relevance == "published"
        manifest = {
            "queries from test relevance": self.config.carried == "relevance" or not published,
            "steps": steps,
            "coverage": text.coverage,
            "times": "order",
            "time": "not available: the order of the lines stands for it, histories are unordered sets of purchases",
            "given split": (
                f"train.qrels and test.qrels as published; {self.config.valid_share:.0%} of the training purchases "
                "validate, by a hash, with queries that training knows (test queries are unknown to it)"
                if published
                else "NOT the published one: purchases of test.qrels, one a user tests and one validates, by a hash"
            ),
        }
        return build(
            f"hem:{self.folder.name}", "natural", events, items, table, seed=self.config.seed, manifest=manifest
        )

    def _carried(
        self,
        rows: pd.DataFrame,
        item_ids: np.ndarray,
        queries: list[str],
        catalogue: Catalogue,
        known: set[str],
        steps: dict[str, int],
    ) -> list[list[int]]:
        """Numbers of the queries that each item carries. A loop over items: each has a handful of queries."""
        public = (
            rows
            if self.config.carried == "relevance" or self.config.relevance == "test-only"
            else rows[rows["part"] != _TEST]
        )
        of_item: dict[str, set[int]] = {name: set() for name in item_ids}
        for name, number in public[["item", "query"]].drop_duplicates().itertuples(index=False):
            of_item[name].add(int(number))
        unknown = set(rows["query"].astype(int)) - set(public["query"].astype(int))
        words = {number: set(queries[number].split()) for number in unknown}
        fitting: dict[tuple[str, ...], set[int]] = {}
        for name in item_ids if words else []:
            names = tuple(catalogue.categories.get(name, ()))
            if names not in fitting:
                vocabulary = set(aligned(path_words(names), known))
                fitting[names] = {number for number, wanted in words.items() if wanted <= vocabulary}
            of_item[name] |= fitting[names]
        tested = rows.loc[rows["part"] == _TEST, ["item", "query"]].drop_duplicates()
        steps["test item-query pairs"] = len(tested)
        steps["test item-query pairs that are known to be carried"] = sum(
            int(number) in of_item[name] for name, number in tested.itertuples(index=False)
        )
        return [sorted(of_item[name]) for name in item_ids]


def _counted(name: str, table: pd.DataFrame) -> dict[str, int]:
    return {
        f"{name} triples": len(table),
        **{
            f"{name} {key}": int(table[column].nunique())
            for key, column in (("users", "user"), ("items", "item"), ("queries", "query"))
        },
        f"{name} user-item pairs": len(table[["user", "item"]].drop_duplicates()),
    }


def _parts(rows: pd.DataFrame, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part, time (a rank) and purchase of each triple; all triples of a purchase share them.

    Hashes see sorted codes of the ids, so that the lines' order decides nothing but the order.
    """
    user, item = pd.factorize(rows["user"], sort=True)[0], pd.factorize(rows["item"], sort=True)[0]
    pair = user.astype(np.int64) * (int(item.max()) + 1) + item
    act, first = np.unique(pair, return_index=True)
    number = np.searchsorted(act, pair)
    owner = user[first]
    draw = hashing.draw(hashing.key("valid", config.seed), owner, item[first])
    part = rows["part"].to_numpy()[first].copy()
    if config.relevance == "published":
        share = (draw >> np.uint64(11)) * 2.0**-53
        # Each user keeps the training purchase with the highest hash, and with it a history.
        part[(part == _TRAIN) & (share < config.valid_share) & (_place(owner, draw, part == _TRAIN) > 0)] = _VALID
    else:
        part[:] = _TRAIN
        place, many = _place(owner, draw, part == _TRAIN), np.bincount(owner)[owner] >= 3
        part[(place == 0) & many], part[(place == 1) & many] = _TEST, _VALID
    line = rows["line"].to_numpy()[first]
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((line, part))] = np.arange(len(first))
    return part[number], rank[number], number


def _place(owner: np.ndarray, draw: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,) place of each purchase `among` those of its user by falling hash, from 0; -1 for the others."""
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((~draw[rows], owner[rows]))]
    position = np.full(len(owner), -1, dtype=np.int64)
    position[order] = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    return position
