"""Amazon product reviews of any category: the 2014 and the 2018 release and Kaggle's Kindle dump.

Purchases are reviews; there are no real queries. After Van Gysel et al. (CIKM 2016) and Ai et al. (SIGIR 2017) a
purchase is searched by a category path of the product, one path drawn by a hash; or by the queries that Ai et al.
published.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from bench.data.log import Log
from bench.data.sources import Source, SourceConfig, source
from bench.datasets.amazon.files import find, title_files
from bench.datasets.amazon.preparation import Preparation
from bench.datasets.amazon.reference import kindle_reference
from bench.datasets.amazon.relevance import PUBLISHER
from bench.datasets.amazon.text import chosen_fields
from bench.errors import RunError, UsageError

_WHERE = (
    "2014: https://jmcauley.ucsd.edu/data/amazon/, 2018: https://nijianmo.github.io/amazon/, "
    "Kindle dump of 2014: bharadwaj6/kindle-reviews on Kaggle"
)


class Config(SourceConfig):
    """How reviews and metadata of a category become a Log."""

    mode: Literal["disjoint", "mirror"] = "disjoint"
    """Whether a purchase is an event of one task, chosen by a hash, or of both."""
    core: PositiveInt = 5
    """Iterative k-core, applied to whatever the file holds: fewest purchases of a user and of an item; 1 keeps all."""
    queries: Literal["paths", "published"] = "paths"
    """From category paths, or those of Ai et al. (query_text.txt, train.qrels and test.qrels in the same folder)."""
    top_level: bool = False
    """Keep the first level of a category path in its query."""
    stem: Literal["s", "krovetz", "none"] = "s"
    """How the words of paths and texts are cut. Published queries are cut already; other words follow their form."""
    stop_words: bool = False
    """Leave stop words out of the queries."""
    min_count: PositiveInt = 5
    """How often a word must occur in training reviews to be a word of a query."""
    text: str = "title,description,category,reviews"
    """What an item's text is made of, by comma."""
    review_words: NonNegativeInt = 20
    """How many words of an item's training reviews its text has."""
    text_split: Literal["every", "leave-one-out", "last-day", "global-time"] = "every"
    """The split that says which reviews are training ones; `every` takes those that no split holds out."""


class KindleConfig(Config):
    """The paper's construction: each purchase in both tasks, first levels of paths kept as in the published queries."""

    mode: Literal["disjoint", "mirror"] = "mirror"
    """Whether a purchase is an event of one task, chosen by a hash, or of both."""
    top_level: bool = True
    """Keep the first level of a category path in its query."""


@source(
    "amazon:",
    title="Amazon product reviews (5-core)",
    split="leave-one-out",
    cite="He and McAuley, WWW 2016; Ni et al., EMNLP-IJCNLP 2019",
    synthetic="queries (category paths of the product)",
    items="product",
)
class Amazon(Source):
    """A category of the 2014 or 2018 release, in a folder of its name."""

    Config = Config
    title_form = "Amazon {argument}"

    @property
    def folder(self) -> Path:
        """Where the raw files are."""
        if not self.argument:
            raise UsageError(
                f"amazon: needs a category after the colon, the name of a folder below {self.root}: amazon:Gift_Cards"
            )
        return self.root / self.argument

    @property
    def label(self) -> str:
        """Name of the Log, the same on every machine."""
        return f"amazon:{self.folder.name}"

    def raw_files(self) -> dict[str, Path]:
        """Reviews, metadata, the published queries where they are asked for, and files of titles."""
        chosen_fields(self.config.text)
        folder = self.folder
        published = self.config.queries == "published"
        patterns = {
            "reviews": ("reviews_*.json", "*_5.json", f"{folder.name}.json", "*reviews*.csv"),
            "metadata": ("meta_*.json",),
        }
        if published:
            patterns |= {name: (name,) for name in ("query_text.txt", "train.qrels", "test.qrels")}
        paths = {name: find(folder, *choices) for name, choices in patterns.items()}
        # The published queries stand for the category paths; metadata then only add text.
        missing = [name for name, path in paths.items() if path is None and not (published and name == "metadata")]
        if missing:
            expected = {
                "reviews": "reviews (reviews_<Category>_5.json.gz, <Category>_5.json.gz or kindle_reviews.csv)",
                "metadata": "metadata (meta_<Category>.json.gz)",
            }
            names = ", ".join(expected.get(name, f"{name}.gz") for name in missing)
            where = _WHERE + (f"; queries and relevance: {PUBLISHER}" if published else "")
            raise RunError(
                f"{folder} has no {names}; get it from the publisher ({where}) and put it there, packed or not"
            )
        return {name: path for name, path in paths.items() if path} | title_files(folder)

    def prepare(self, files: dict[str, Path]) -> Log:
        """Purchases, queries and texts."""
        return Preparation(self.label, self.config, files).log(self.reference)

    def reference(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Published statistics beside ours; for a category that no paper's table is about there are none."""
        return {}


@source(
    "amazon-kindle",
    title="Amazon Kindle Store (5-core)",
    split="leave-one-out",
    cite="He and McAuley, WWW 2016; Ai et al., SIGIR 2017",
    synthetic="queries (category paths of the book)",
    items="book",
)
class AmazonKindle(Amazon):
    """The Kindle Store as the paper prepares it."""

    Config = KindleConfig

    @property
    def folder(self) -> Path:
        """Where the raw files are."""
        return self.root

    @property
    def label(self) -> str:
        """Name of the Log."""
        return "amazon-kindle"

    def reference(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The paper's statistics beside ours."""
        return kindle_reference(facts, self.config)
