"""Item sequences without times: `user_sequence.txt` with `<user> <item> <item> ...` a line, oldest first.

With the category files of PGPR beside it (product.txt, category.txt, category_p_c.txt) an interaction can be searched
by the categories of its item, after Ai et al. (SIGIR 2017); without them the data serve recommendation only.
`item_text.txt` (`<item> <text>`) or IDGenRec's `item_generative_indexing_phase_0.txt` gives items a text.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from bench.data.build import build, k_core
from bench.data.log import Log
from bench.data.ragged import Ragged
from bench.data.sources import FolderSource, SourceConfig, source
from bench.datasets.amazon.catalogue import catalogue_files, read_catalogue
from bench.datasets.amazon.files import find, read_lines
from bench.datasets.amazon.queries import drawn_queries, path_queries, task_events
from bench.datasets.amazon.text import chosen_fields, item_texts
from bench.datasets.amazon.words import Stem, stemmer
from bench.errors import RunError

_FIELDS = ("text", "category", "brand")
_TEXTS = {"item_text.txt": "text", "item_generative_indexing_phase_0.txt": "text that a model generated (IDGenRec)"}


class Config(SourceConfig):
    """How sequences become a Log."""

    mode: Literal["disjoint", "mirror"] = "disjoint"
    """Whether an interaction is an event of one task, chosen by a hash, or of both."""
    core: PositiveInt = 1
    """Iterative k-core: fewest interactions of a user and of an item; 1 keeps the sequences as they are."""
    queries: Literal["path", "single", "none"] = "path"
    """`path`: all categories of the item as one query, general to special; `single`: one of its categories. Both need
    the category files, which list a set: general to special is the order by number of items."""
    top_level: bool = False
    """Keep the category that most items have."""
    stem: Literal["s", "krovetz", "none"] = "s"
    """How words are cut."""
    text: str = "text,category,brand"
    """What an item's text is made of, by comma."""


@source(
    "sequences:",
    title="Item sequences without times",
    split="leave-one-out",
    synthetic="queries (categories of the item)",
)
class Sequences(FolderSource):
    """Sequences of the folder that the argument names."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """The sequences, and what lies beside them: category files and texts."""
        chosen_fields(self.config.text, _FIELDS)
        folder = self.folder
        sequences = find(folder, "user_sequence.txt")
        if sequences is None:
            raise RunError(
                f"{folder} has no user_sequence.txt; put one there (packed or not) with `<user> <item> <item> ...` a "
                "line, oldest first"
            )
        text = find(folder, *_TEXTS)
        return {"user_sequence.txt": sequences} | catalogue_files(folder) | ({"item text": text} if text else {})

    def prepare(self, files: dict[str, Path]) -> Log:
        """Interactions with the place in their sequence as time, and queries from categories."""
        config = self.config
        rows = read_sequences(files["user_sequence.txt"])
        steps = {
            "interactions in the file": len(rows),
            "users in the file": int(rows["user"].nunique()),
            "items in the file": int(rows["item"].nunique()),
        }
        rows = rows[k_core(rows["user"].to_numpy(), rows["item"].to_numpy(), config.core)].reset_index(drop=True)
        if not len(rows):
            raise RunError(
                f"{files['user_sequence.txt']}: nothing is left in the {config.core}-core; a smaller core keeps more: "
                "--set sequences.core=1"
            )
        steps[f"interactions in the {config.core}-core"] = len(rows)
        steps["repeated user-item rows"] = int(rows.duplicated(["user", "item"]).sum())
        user, _ = pd.factorize(rows["user"], sort=True)
        item, item_ids = pd.factorize(rows["item"], sort=True)
        catalogue = read_catalogue(files)
        steps["items in the category files"] = sum(name in catalogue.categories for name in item_ids)
        stem = stemmer(config.stem)
        lists = self._queries([catalogue.categories.get(name, []) for name in item_ids], stem, steps)
        texts = sorted({key for entry in lists for key in entry})
        index = {key: number for number, key in enumerate(texts)}
        carried = Ragged.from_lists([[index[key] for key in entry] for entry in lists])
        drawn = drawn_queries(user, item, carried, config.seed)
        rows["query"] = np.asarray([*texts, ""], dtype=object)[drawn]
        steps["interactions with a query"] = int((drawn >= 0).sum())
        steps["distinct queries drawn"] = len(np.unique(drawn[drawn >= 0]))
        own = read_texts(files["item text"]) if "item text" in files else {}
        parts = [
            {
                "text": own.get(name, ""),
                "category": ", ".join(catalogue.categories.get(name, [])),
                "brand": catalogue.brand.get(name, ""),
            }
            for name in item_ids
        ]
        text = item_texts(parts, chosen_fields(config.text, _FIELDS), stem)
        items = pd.DataFrame(
            {
                "id": item_ids,
                "text": text.text,
                "provenance": text.provenance,
                "words": text.words,
                "word_origins": text.word_origins,
                "categories": [catalogue.categories.get(name, []) for name in item_ids],
                **({"queries": lists} if texts else {}),
            }
        )
        mode = config.mode if texts else "natural"
        manifest = {
            "steps": steps,
            "coverage": text.coverage,
            "times": "order",
            "time": "not available: the place in the user's sequence stands for it",
            "queries": "from the item's categories" if texts else "none: recommendation only",
            **({} if texts else {"synthetic": ""}),
            **({"item text": _TEXTS[files["item text"].name.removesuffix(".gz")]} if "item text" in files else {}),
        }
        return build(
            f"sequences:{self.folder.name}",
            mode,
            task_events(rows, user, item, mode, config.seed),
            items,
            pd.DataFrame({"id": texts, "text": texts, "words": [key.split() for key in texts]}, dtype=object),
            seed=config.seed,
            manifest=manifest,
        )

    def _queries(self, categories: list[list[str]], stem: Stem, steps: dict[str, int]) -> list[list[str]]:
        """Queries of each item; none where there are no categories."""
        if self.config.queries == "none" or not any(categories):
            return [[] for _ in categories]
        if self.config.queries == "path":
            generated = path_queries(
                [[names] for names in categories], stem, None, top_level=self.config.top_level, stop_words=False
            )
        else:
            # Two levels a path, the first of them dropped again: one query a category.
            kept = [names if self.config.top_level else names[1:] for names in categories]
            generated = path_queries(
                [[["", name] for name in names] for names in kept], stem, None, top_level=False, stop_words=False
            )
        steps |= {"items with a query": sum(bool(entry) for entry in generated.lists)}
        return generated.lists


def read_sequences(path: Path) -> pd.DataFrame:
    """One row an interaction: `act`, `user`, `item`, `time` (the place in the sequence).

    Raises:
        RunError: a line has no items, or its user has a line already; with the line.
    """
    users: dict[str, int] = {}
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        user, *items = line.split() or [""]
        if not items:
            raise RunError(f"{path}, line {number}: expected `<user> <item> <item> ...`, found {line[:60]!r}")
        if user in users:
            raise RunError(f"{path}, line {number}: the user {user} has a sequence already, in line {users[user]}")
        users[user] = number
        entries.append(items)
    lengths = np.asarray([len(items) for items in entries])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    total = int(lengths.sum())
    return pd.DataFrame(
        {
            "act": np.arange(total),
            "user": np.repeat(np.asarray(list(users), dtype=object), lengths),
            "item": np.asarray([item for items in entries for item in items], dtype=object),
            "time": np.arange(total) - starts,
        }
    )


def read_texts(path: Path) -> dict[str, str]:
    """`<item> <text>` a line.

    Raises:
        RunError: an item occurs twice; with the line.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        item, _, text = line.strip().partition(" ")
        if item in texts:
            raise RunError(f"{path}, line {number}: the item {item} has a text already")
        texts[item] = text.strip()
    return texts
