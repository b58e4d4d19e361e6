"""Runs every check on one model and reports."""

import math
from contextlib import suppress
from typing import Any

import torch

from bench.errors import UsageError, unknown
from bench.ranker import registry
from bench.ranker.config import is_training_length
from bench.ranker.contract import Ranker
from bench.testing import invariances, learning
from bench.testing.learning import NotApplicable
from bench.testing.report import Failed, Report, Result
from bench.testing.subject import Subject, error_line, generators_kept


def exemptions(subject: Subject) -> str:
    """`exempt` names checks of the battery, each with a sentence."""
    for name, sentence in subject.cls.exempt.items():
        check, _, detail = name.partition(":")
        if check not in CHECKS or check == "exemptions" or (detail and check != "gradients"):
            known = ", ".join([*CHECKS, "gradients:<parameter>"])
            raise Failed(f"`exempt` names '{name}', which is no check; checks: {known}")
        if len(str(sentence).split()) < 3:
            raise Failed(f"`exempt` gives no sentence for '{name}'; say why the check does not apply")
    return f"{len(subject.cls.exempt)} declared" if subject.cls.exempt else "none"


def budgets(subject: Subject) -> str:
    """`--budget quick` only is_training_length the training, and what is declared as published are settings of the model."""
    cls, defaults = subject.cls, subject.cls.Config()
    for key, value in cls.quick.items():
        if key == "backbone":
            continue
        if not is_training_length(key):
            raise Failed(f"`quick` sets {key}, which is not the length of the training; make it the default instead")
        # 0 stands for a whole pass.
        default = getattr(defaults, key, None) or math.inf
        if not 0 < value <= default:
            raise Failed(f"`quick` sets {key} to {value}, longer than the default {default}")
    for dataset, settings in cls.published.items():
        try:
            cls.Config(**settings)
        except (TypeError, ValueError) as error:
            raise Failed(f"`published` for {dataset} are no settings of this model: {error_line(error)}") from error
        if early := [key for key in settings if key in cls.quick]:
            raise Failed(f"`published` for {dataset} sets {early[0]}, which `quick` would change")
    return ", ".join(f"quick {key}={value}" for key, value in cls.quick.items()) or "quick is full"


CHECKS = {"exemptions": exemptions, "budgets": budgets, **learning.CHECKS, **invariances.CHECKS}


def check(model: str | type[Ranker], config: dict[str, Any] | None = None, *, only: tuple[str, ...] = ()) -> Report:
    """Run the conformance battery on a model.

    Args:
        model: a name of the registry (`unisar`, `recbole:GRU4Rec`), or a class with `@register`.
        config: settings on top of the class's `quick` ones and of the battery's short training.
        only: names of checks; default all.

    Returns:
        a Report. A check that fails, also with an exception out of the model's code, is a result, no error.

    Raises:
        UsageError: there is no such model, check or setting. RunError: the model cannot be imported or built here, for
            instance because an optional package is missing.
    """
    for name in only:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    cls = registry.get(model) if isinstance(model, str) else model
    if not hasattr(cls, "entry"):
        raise UsageError(f"{cls.__name__} is not registered; put @register(...) on the class (docs/add-a-model.md)")
    name = model if isinstance(model, str) else cls.entry.name
    results = []
    with generators_kept():
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
    return Report(name, results)


def _result(name: str, run: Any, subject: Subject) -> Result:
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
