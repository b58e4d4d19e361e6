"""Data sources by name, and the cache of prepared Logs.

A source turns raw files into a Log. Sources in the tree carry `@source(...)`; other packages use the entry-point group
`bench.datasets`. A name may carry an argument: `log:<dir>`.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench import plugins
from bench.data import log as logs
from bench.data.log import Log
from bench.errors import RunError, UsageError, unknown
from bench.files import exclusive_folder
from bench.import_closure import own_files
from bench.messages import first_violation

PACKAGE = "bench.datasets"
ENTRY_POINTS = "bench.datasets"
_Class = TypeVar("_Class", bound=type)


class SourceConfig(BaseModel):
    """Settings of a preparation; a subclass adds its own. All of them are part of the Log's manifest."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    seed: int = 0
    """Breaks ties in time and makes the random choices of the preparation."""
    mode: Literal["disjoint", "mirror", "natural"] = "natural"
    """Whether a purchase is an event of one task, of both, or as the data say."""


@dataclass(frozen=True)
class SourceEntry:
    """What is known of a source without importing it."""

    name: str
    title: str
    cite: str
    split: str
    synthetic: str
    items: str
    target: str
    package: str

    def record(self) -> dict[str, Any]:
        """Plain values, for listings."""
        return asdict(self)


def source(
    name: str, *, title: str, split: str, cite: str = "", synthetic: str = "", items: str = "item"
) -> Callable[[_Class], _Class]:
    """Register a Source.

    Args:
        name: what people type; ends with ":" where an argument follows.
        title: what captions print.
        split: the split used when none is asked for.
        cite: author, venue and year.
        synthetic: what is made up in the data, for every caption ("queries"); empty when nothing is.
        items: what one item is called ("film"), for models that speak of it.
    """

    def mark(cls: _Class) -> _Class:
        target = f"{cls.__module__}:{cls.__name__}"
        setattr(cls, "entry", SourceEntry(name, title, cite, split, synthetic, items, target, plugins.TREE))  # noqa: B010
        return cls

    return mark


class Source(ABC):
    """One data source: where its raw files are, and how they become a Log."""

    entry: ClassVar[SourceEntry]
    Config: ClassVar[type[SourceConfig]] = SourceConfig
    # How captions name the data where the name has an argument; `argument` is the last part of a path.
    title_form: ClassVar[str] = "{title}: {argument}"

    def __init__(self, config: SourceConfig, argument: str, root: Path):
        self.config: Any = config
        self.argument = argument
        # Folder of this source under the data root: raw files by convention lie in it.
        self.root = root

    @property
    def title(self) -> str:
        """What captions print: the entry's title and, where the name has an argument, which data these are."""
        if not self.argument:
            return self.entry.title
        argument = Path(self.argument).name or self.argument
        return self.title_form.format(title=self.entry.title, argument=argument.replace("_", " "))

    @abstractmethod
    def raw_files(self) -> dict[str, Path]:
        """Every raw file that the Log depends on, by a name of its own.

        Raises:
            RunError: a file is missing; the message says where to get it and where to put it.
        """

    @abstractmethod
    def prepare(self, files: dict[str, Path]) -> Log:
        """Build the Log."""


class FolderSource(Source):
    """A source whose argument is a folder: its name below the source's folder in the data root, else a path."""

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            UsageError: no argument. RunError: there is no such folder.
        """
        name = self.entry.name
        if not self.argument:
            raise UsageError(f"{name} needs a folder after the colon, {name}DIR: a name below {self.root}, or a path")
        below, typed = self.root / self.argument, Path(self.argument).expanduser()
        for path in (below, typed):
            if path.is_dir():
                return path.resolve()
        raise RunError(f"{name}{self.argument}: there is no folder {below}, and no folder {typed.absolute()} either")


def data_root(given: str | Path | None = None) -> Path:
    """`--data`, else the environment variable BENCH_DATA, else the user's data directory."""
    if given or os.environ.get("BENCH_DATA"):
        return Path(given or os.environ["BENCH_DATA"]).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_data_dir("bench"))


@cache
def entries() -> dict[str, SourceEntry]:
    """All sources by name.

    Raises:
        RunError: two sources claim the same name, or an entry point leads nowhere.
    """
    found = plugins.declarations("data set", (PACKAGE,), ENTRY_POINTS, "source")
    return {
        name: SourceEntry(
            name=name,
            target=each.target,
            package=each.package,
            **({"cite": "", "synthetic": "", "items": "item"} | each.facts),
        )
        for name, each in found.items()
    }


def entry(name: str) -> SourceEntry:
    """The entry of `name` or of `prefix:argument`.

    Raises:
        UsageError: there is no such data set.
    """
    known = entries()
    head, colon, _ = name.partition(":")
    key = name if name in known else head + colon
    if key not in known:
        raise unknown("data set", name, known)
    return known[key]


def open_source(name: str, options: dict[str, Any] | None = None, root: str | Path | None = None) -> Source:
    """The Source of a name with its settings checked."""
    facts = entry(name)
    cls: type[Source] = plugins.load("data set", facts.name, facts.target)
    argument = name.removeprefix(facts.name) if facts.name.endswith(":") else ""
    known = cls.Config.model_fields
    for key in options or {}:
        if key not in known:
            raise unknown(f"setting of {facts.name}", key, known)
    try:
        config = cls.Config(**(options or {}))
    except ValidationError as error:
        raise UsageError(first_violation(error, facts.name)) from None
    return cls(config, argument, data_root(root) / facts.name.rstrip(":"))


def load(name: str, options: dict[str, Any] | None = None, root: str | Path | None = None, fresh: bool = False) -> Log:
    """The prepared Log of a data set: read from the cache under the data root, or prepared now.

    Raises:
        UsageError: unknown name or setting. RunError: raw files missing or bad, cached Log corrupt.
    """
    opened = open_source(name, options, root)
    files = opened.raw_files()
    facts = {label: _file_facts(path) for label, path in sorted(files.items())}
    modules = own_files(type(opened).__module__) | own_files("bench.data.build")
    code = {module: logs.file_sha256(path) for module, path in modules.items()}
    recipe = {"name": name, "config": opened.config.model_dump(), "files": facts, "code": code, "format": logs.FORMAT}
    stamp = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder = data_root(root) / "prepared" / f"{opened.entry.name.rstrip(':')}-{stamp}"
    if folder.exists() and not fresh:
        return logs.load(folder)
    with exclusive_folder(folder, "the prepared log"):
        if folder.exists() and not fresh:  # by the process that was waited for
            return logs.load(folder)
        log = opened.prepare(files)
        manifest = log.manifest | {
            "title": opened.title,
            "config": opened.config.model_dump(),
            "sources": facts,
            "synthetic": log.manifest.get("synthetic", opened.entry.synthetic),
            "items are": log.manifest.get("items are", opened.entry.items),
        }
        return Log(**{**vars(log), "manifest": manifest}).save(folder)


def published_as(name: str, log: Log) -> str:
    """The name under which models publish settings for these data.

    That is the data set that the Log's manifest names under `same_data_as` (a release that somebody else prepared),
    else the source's own name, without the colon before an argument.
    """
    return log.manifest.get("same_data_as") or entry(name).name.rstrip(":")


def _file_facts(path: Path) -> dict[str, Any]:
    """Name, size and checksum of a raw file, for the manifest."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": logs.file_sha256(path)}
