"""Finding a model by its name.

Models in the tree carry `@register(...)`; other people's packages add theirs through the entry-point group
`bench.models`. A function with `@register_family("prefix:")` gives the models of another library by their class names.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from bench import plugins
from bench.errors import RunError, UsageError, unknown
from bench.messages import split_commas

if TYPE_CHECKING:
    from bench.ranker.ranker import Ranker

PACKAGES = ("bench.models", "bench.baselines")
ENTRY_POINTS = "bench.models"
GROUPS = ("rec", "search", "unified", "trivial")
_Plugin = TypeVar("_Plugin", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelEntry:
    """What is known of a model without importing it. `target` is `module:Class`, `package` who ships it."""

    name: str
    title: str
    tasks: tuple[str, ...]
    group: str
    cite: str
    target: str
    package: str

    def record(self) -> dict[str, Any]:
        """Plain values, for listings."""
        return asdict(self) | {"tasks": ",".join(self.tasks)}


def register(
    name: str, *, title: str, tasks: tuple[str, ...], group: str, cite: str = ""
) -> Callable[[_Plugin], _Plugin]:
    """Put a Ranker into the registry.

    Args:
        name: what people type.
        title: what tables print.
        tasks: of "rec" and "search", those it serves.
        group: "rec", "search", "unified" or "trivial".
        cite: author, venue and year.
    """

    def mark(cls: _Plugin) -> _Plugin:
        target = f"{cls.__module__}:{cls.__name__}"
        setattr(cls, "entry", ModelEntry(name, title, tuple(tasks), group, cite, target, plugins.TREE))  # noqa: B010
        return cls

    return mark


def register_family(prefix: str, *, title: str) -> Callable[[_Plugin], _Plugin]:
    """Put a function into the registry that makes the Ranker class of `prefix` + argument.

    Args:
        prefix: what people type before the argument, ending with ":".
        title: a line for listings.
    """
    if not prefix.endswith(":"):
        raise ValueError(f"a family's prefix ends with ':', got {prefix!r}")
    return lambda function: function


@cache
def entries() -> dict[str, ModelEntry]:
    """All models by name: those in the tree and those of installed packages.

    Raises:
        RunError: two models claim the same name, or an entry point leads nowhere.
    """
    declarations = plugins.declarations("model", PACKAGES, ENTRY_POINTS, "register")
    return {name: _entry(declaration) for name, declaration in declarations.items()}


@cache
def families() -> dict[str, plugins.Declaration]:
    """The families of models by their prefix."""
    return plugins.declarations("model family", PACKAGES, ENTRY_POINTS + ".families", "register_family")


def members(family: str) -> list[dict[str, str]]:
    """What a family's library has: name, kind, and why it is refused ("" where it is not).

    Raises:
        RunError: the library is not installed.
    """
    known = families()[family]
    listed: list[dict[str, str]] = plugins.load("model family", family, known.target).members()
    return listed


def get(name: str) -> "type[Ranker]":
    """The class of a model; `recbole:<Class>` and other families make theirs.

    Raises:
        UsageError: there is no such name. RunError: it cannot be imported or is no Ranker.
    """
    family, argument = _family(name)
    if family is not None:
        return plugins.load("model family", family.name, family.target)(argument)
    known = entries()
    if name not in known:
        raise unknown("model", name, known)
    cls = plugins.load("model", name, known[name].target)
    if not hasattr(cls, "entry") or not callable(getattr(cls, "score", None)):
        raise RunError(f"model '{name}' ({known[name].target}) is no Ranker with @register; see docs/add-a-model.md")
    return cls


def entry(name: str) -> ModelEntry:
    """The entry of a name; only a family's model is imported for it.

    Raises:
        UsageError: there is no such name.
    """
    if _family(name)[0] is not None:
        return get(name).entry
    if name not in entries():
        raise unknown("model", name, entries())
    return entries()[name]


def select(names: str, tasks: tuple[str, ...], trivial: bool = True) -> list[str]:
    """Expand a comma list of names and groups (`all`, rec, search, unified, trivial) for the tasks at hand.

    Trivial models of the tasks are appended unless `trivial` is False. A model that serves none of the tasks is
    refused when it was named, left out when a group brought it.

    Raises:
        UsageError: no name, an unknown name, or a model that serves none of the tasks.
    """
    asked = split_commas(names)
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
            if _family(part)[0] is not None:
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


def _family(name: str) -> tuple[plugins.Declaration | None, str]:
    """The family that a name belongs to and the argument after its prefix."""
    prefix, colon, argument = name.partition(":")
    return (families().get(prefix + colon), argument) if colon else (None, "")


def _entry(declaration: plugins.Declaration) -> ModelEntry:
    facts = {"cite": ""} | declaration.facts | {"tasks": tuple(declaration.facts["tasks"])}
    return ModelEntry(name=declaration.name, target=declaration.target, package=declaration.package, **facts)
