"""Finding a model by its name.

Models in the tree carry `@register(...)`; other people's packages add theirs through the entry-point group
`bench.models`. To list names fast, the decorators are read from the source without importing it, so their arguments
must be literals.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.data.declared import declared
from bench.errors import RunError, UsageError, unknown

if TYPE_CHECKING:
    from bench.ranker.contract import Ranker

PACKAGES = ("bench.models", "bench.baselines")
ENTRY_POINTS = "bench.models"
GROUPS = ("rec", "search", "unified", "trivial")
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True)
class Entry:
    """What is known of a model without importing it. `target` is `module:Class`."""

    name: str
    title: str
    tasks: tuple[str, ...]
    group: str
    cite: str
    target: str
    origin: str

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"tasks": ",".join(self.tasks)}


def register(
    name: str, *, title: str, tasks: tuple[str, ...], group: str, cite: str = ""
) -> Callable[[_Class], _Class]:
    """Put a Ranker into the registry.

    Args:
        name: what people type.
        title: what tables print.
        tasks: of "rec" and "search", those it serves.
        group: "rec", "search", "unified" or "trivial".
        cite: author, venue and year.
    """

    def mark(cls: _Class) -> _Class:
        cls.entry = Entry(name, title, tuple(tasks), group, cite, f"{cls.__module__}:{cls.__name__}", "")  # type: ignore[attr-defined]
        return cls

    return mark


@cache
def entries() -> dict[str, Entry]:
    """All models by name: those in the tree and those of installed packages.

    Raises:
        RunError: two models claim the same name.
    """
    found: dict[str, Entry] = {}
    for package in PACKAGES:
        for entry in _in_tree(package):
            _add(found, entry)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _add(found, _outside(point))
    return dict(sorted(found.items()))


def get(name: str) -> "type[Ranker]":
    """The class of a model; `recbole:<Class>` gives any RecBole model through the bridge.

    Raises:
        UsageError: there is no such name.
    """
    if name.startswith("recbole:"):
        from bench.baselines.recbole_bridge import bridge

        return bridge(name.removeprefix("recbole:"))
    known = entries()
    if name not in known:
        raise unknown("model", name, known)
    module, _, attribute = known[name].target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RunError(f"model '{name}' ({known[name].target}) cannot be imported: {error}") from error
    if not hasattr(cls, "entry") or not callable(getattr(cls, "score", None)):
        raise RunError(f"model '{name}' ({known[name].target}) is no Ranker with @register; see docs/add-a-model.md")
    return cls


def entry(name: str) -> Entry:
    """The entry of a name, importing the model only where the name is made up on the fly (`recbole:...`)."""
    return get(name).entry if name.startswith("recbole:") else _known(name)  # type: ignore[attr-defined]


def select(names: str, tasks: tuple[str, ...], trivial: bool = True) -> list[str]:
    """Expand a comma list of names and groups (`all`, rec, search, unified, trivial) for the tasks at hand.

    Trivial models of the tasks are appended unless `trivial` is False. A model that serves none of the tasks is
    refused when it was named, left out when a group brought it.
    """
    asked = [part.strip() for part in names.split(",") if part.strip()]
    if not asked:
        raise UsageError(
            "no models given; name some (--models gensr,unisar) or a group (all, rec, search, unified, trivial)"
        )
    chosen: list[str] = []
    for part in asked:
        if part == "all" or part in GROUPS:
            fits = [e for e in entries().values() if set(e.tasks) & set(tasks) and (part == "all" or e.group == part)]
            chosen += [e.name for e in fits]
            continue
        try:
            serves = entry(part).tasks
        except UsageError as error:
            if part.startswith("recbole:"):
                raise
            raise unknown("model", part, [*entries(), *GROUPS, "all"]) from error
        if not set(serves) & set(tasks):
            raise UsageError(
                f"model '{part}' serves {' and '.join(serves)}, not {' or '.join(tasks)}; change --tasks or leave it out"
            )
        chosen.append(part)
    if trivial:
        chosen += [e.name for e in entries().values() if e.group == "trivial" and set(e.tasks) & set(tasks)]
    return list(dict.fromkeys(chosen))


def _known(name: str) -> Entry:
    if name not in entries():
        raise unknown("model", name, entries())
    return entries()[name]


def _add(found: dict[str, Entry], entry: Entry) -> None:
    if entry.name in found:
        raise RunError(
            f"two models are called '{entry.name}': {found[entry.name].target} ({found[entry.name].origin}) and "
            f"{entry.target} ({entry.origin}); rename one of them"
        )
    found[entry.name] = entry


def _in_tree(package: str) -> list[Entry]:
    spec = importlib.util.find_spec(package)
    folder = Path(spec.submodule_search_locations[0])  # type: ignore[union-attr,index]
    entries = []
    for path in sorted(folder.glob("*.py")):
        entries += _declared(path, f"{package}.{path.stem}", "bench")
    return entries


def _declared(path: Path, module: str, origin: str) -> list[Entry]:
    return [
        Entry(
            name=name,
            target=f"{module}:{cls}",
            origin=origin,
            **({"cite": ""} | facts | {"tasks": tuple(facts["tasks"])}),
        )
        for cls, name, facts in declared(path, "register")
    ]


def _outside(point: importlib.metadata.EntryPoint) -> Entry:
    origin = point.dist.name if point.dist else "unknown package"
    try:
        spec = importlib.util.find_spec(point.module)
    except ModuleNotFoundError:  # its parent package is gone
        spec = None
    if spec is None or spec.origin is None:
        raise RunError(f"entry point '{point.name}' of {origin} names the module {point.module}, which cannot be found")
    for entry in _declared(Path(spec.origin), point.module, origin):
        if entry.target == f"{point.module}:{point.attr}":
            if entry.name != point.name:
                raise RunError(
                    f"entry point '{point.name}' of {origin} leads to a model registered as '{entry.name}'; make them equal"
                )
            return entry
    raise RunError(
        f"entry point '{point.name}' of {origin}: {point.value} carries no @register(...) with literal arguments"
    )
