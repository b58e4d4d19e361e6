"""Amazon product reviews of any category: the 2014 and the 2018 release and Kaggle's Kindle dump.

Purchases are reviews; there are no real queries. After Van Gysel et al. (CIKM 2016) and Ai et al. (SIGIR 2017) a
purchase is searched by a category path of the product, one path drawn by a hash; or by the queries that Ai et al.
published.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bench.data.log import Log
from bench.data.sources import Source, SourceConfig, source
from bench.datasets.amazon.files import find
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
    """`core`: the iterative k-core, applied to whatever the file holds (1 = all rows).

    `queries`: from category `paths`, or `published` (query_text.txt, train.qrels and test.qrels of Ai et al. in the
    same folder). `top_level` keeps the first level of a path, `stem` and `stop_words` say how its words are cut,
    `min_count` how often a word must occur in training reviews to be one. (Published queries are cut already; other
    words are brought into their form.) `text`: what an item's text is made of; `review_words`: how many words of its
    training reviews. `text_split`: the split that says which reviews are training ones; `every` takes those that no
    split holds out, so that the Log is clean under all of them.
    """

    mode: Literal["disjoint", "mirror"] = "disjoint"
    core: Annotated[int, Field(ge=1)] = 5
    queries: Literal["paths", "published"] = "paths"
    top_level: bool = False
    stem: Literal["s", "krovetz", "none"] = "s"
    stop_words: bool = False
    min_count: Annotated[int, Field(ge=1)] = 5
    text: str = "title,description,category,reviews"
    review_words: Annotated[int, Field(ge=0)] = 20
    text_split: Literal["every", "leave-one-out", "last-day", "global-time"] = "every"


class KindleConfig(Config):
    """The paper's construction: each purchase in both tasks, first levels of paths kept as in the published queries."""

    mode: Literal["disjoint", "mirror"] = "mirror"
    top_level: bool = True


@source(
    "amazon:",
    title="Amazon product reviews (5-core)",
    split="leave-one-out",
    cite="He and McAuley, WWW 2016; Ni et al., EMNLP-IJCNLP 2019",
    synthetic="queries (category paths of the product)",
)
class Amazon(Source):
    Config = Config

    @property
    def folder(self) -> Path:
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
        chosen_fields(self.config.text)
        folder = self.folder
        published = self.config.queries == "published"
        patterns = {
            "reviews": ("reviews_*.json", "*_5.json", f"{folder.name}.json", "*reviews*.csv"),
            "metadata": ("meta_*.json",),
        }
        if published:
            patterns |= {name: (name,) for name in ("query_text.txt", "train.qrels", "test.qrels")}
        found = {name: find(folder, *choices) for name, choices in patterns.items()}
        # The published queries stand for the category paths; metadata then only add text.
        missing = [name for name, path in found.items() if path is None and not (published and name == "metadata")]
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
        titles = sorted({path for ending in ("", ".gz") for path in folder.glob(f"*title*.csv{ending}")})
        return {name: path for name, path in found.items() if path} | {f"titles {path.name}": path for path in titles}

    def prepare(self, files: dict[str, Path]) -> Log:
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
)
class AmazonKindle(Amazon):
    Config = KindleConfig

    @property
    def folder(self) -> Path:
        return self.root

    @property
    def label(self) -> str:
        return "amazon-kindle"

    def reference(self, facts: dict[str, Any]) -> dict[str, Any]:
        return kindle_reference(facts, self.config)
