"""Runs every check on one model and reports."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from bench.errors import UsageError, unknown
from bench.ranker import registry
from bench.ranker.contract import Ranker
from bench.testing import alone, invariances, learning, resuming, settings
from bench.testing.report import Failed, NotApplicable, Report, Result
from bench.testing.subject import Subject, error_line, preserved_generators


def exemptions(subject: Subject) -> str:
    """`exempt` names checks, each with a sentence."""
    for name, sentence in subject.cls.exempt.items():
        check, _, detail = name.partition(":")
        if check not in CHECKS or check == "exemptions" or (detail and check != "gradients"):
            known = ", ".join([*CHECKS, "gradients:<parameter>"])
            raise Failed(f"`exempt` names '{name}', which is no check; checks: {known}")
        if len(str(sentence).split()) < 3:
            raise Failed(f"`exempt` gives no sentence for '{name}'; say why the check does not apply")
    return f"{len(subject.cls.exempt)} declared" if subject.cls.exempt else "none"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "exemptions": exemptions,
    **settings.CHECKS,
    **learning.CHECKS,
    **resuming.CHECKS,
    **invariances.CHECKS,
    **alone.CHECKS,
}


def check(model: str | type[Ranker], config: dict[str, Any] | None = None, *, only: tuple[str, ...] = ()) -> Report:
    """Run the conformance checks on a model.

    Args:
        model: a name of the registry (`unisar`, `recbole:GRU4Rec`), or a class with `@register`.
        config: settings on top of the class's `quick` ones and of the short training of the checks.
        only: names of checks; default all.

    Returns:
        a Report. A check that fails, also with an exception out of the model's code, is a result, no error.

    Raises:
        UsageError: there is no such model, check or setting.
        RunError: the model cannot be imported or built here, for instance because an optional package is missing.
    """
    for name in only:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    cls = registry.get(model) if isinstance(model, str) else model
    if not hasattr(cls, "entry"):
        raise UsageError(f"{cls.__name__} is not registered; put @register(...) on the class (docs/add-a-model.md)")
    name = model if isinstance(model, str) else cls.entry.name
    results = []
    with preserved_generators():
        subject = Subject(name, cls, config)
        torch.manual_seed(0)
        with suppress(Failed):
            # First, and outside of the results: what is missing on this machine is no fault of the model.
            _ = subject.fitted
        for check_name, run in CHECKS.items():
            if only and check_name not in only:
                continue
            torch.manual_seed(0)
            results.append(_result(check_name, run, subject))
            if results[-1].status == "failed":
                subject.failed.add(check_name)
    return Report(name, results)


def _result(name: str, run: Callable[[Subject], str], subject: Subject) -> Result:
    if name in subject.cls.exempt:
        return Result(name, "exempt", subject.cls.exempt[name])
    try:
        return Result(name, "passed", run(subject))
    except NotApplicable as reason:
        return Result(name, "exempt", str(reason))
    except Failed as failure:
        return Result(name, "failed", str(failure))
    except Exception as error:
        return Result(name, "failed", f"raised {error_line(error)}")
