"""Checks of what a class declares about its settings: quick and published ones, and the space that is searched."""

import itertools
import math
from typing import Any

from bench.errors import BenchError
from bench.messages import first_line
from bench.ranker.config import is_training_length
from bench.testing.report import Failed, NotApplicable
from bench.testing.subject import Subject, error_line

RANGES = ("loguniform", "uniform")


def budgets(subject: Subject) -> str:
    """`--budget quick` only shortens the training, and what is declared as published are settings of the model."""
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


def search_space(subject: Subject) -> str:
    """`search_space` fits the config: names, types and bounds of every value, combinations of sizes, the default inside.

    A combination that the Config refuses is a condition that a search keeps to (heads that divide a width). One that the
    Config accepts and the constructor refuses would end a trial, so it fails here.
    """
    cls, space = subject.cls, subject.cls.search_space
    if not space:
        raise NotApplicable("it declares no search space")
    defaults = cls.Config()
    for name, choice in space.items():
        if name not in cls.Config.model_fields:
            raise Failed(f"`search_space` names {name}, which is no setting of this model")
        default, values = getattr(defaults, name), _values(name, choice)
        for value in values:
            try:
                # As it stands: a float for an integer, or a text for a number, would be another trial's key.
                cls.Config.model_validate({name: value}, strict=True)
            except (TypeError, ValueError) as error:
                # The value may need another one beside it; alone, the bounds of its own field are what can be said.
                if _about(error, name):
                    raise Failed(f"`search_space` has {name} = {value!r}: {_message(error)}") from error
        inside = values[0] <= default <= values[1] if _is_range(choice) else default in values
        if not inside:
            raise Failed(f"`search_space` leaves out the default {name} = {default!r}")
    built = _build_combinations(subject)
    return f"{len(space)} settings, defaults inside{f', {built} combinations of sizes built' if built else ''}"


def _is_range(choice: Any) -> bool:
    return isinstance(choice, tuple)


def _values(name: str, choice: Any) -> list[Any]:
    """The values of a list, or the two ends of a range."""
    if _is_range(choice):
        if len(choice) != 3 or choice[0] not in RANGES:
            raise Failed(f"`search_space` has {name} = {choice!r}; a range is ({' or '.join(RANGES)}, low, high)")
        low, high = choice[1:]
        if not low < high or (choice[0] == "loguniform" and low <= 0):
            raise Failed(f"`search_space` has {name} from {low} to {high}, which is no range for {choice[0]}")
        return [low, high]
    if not isinstance(choice, list) or not choice:
        raise Failed(f"`search_space` has {name} = {choice!r}; a list of values or a range is expected")
    if any(choice.count(value) > 1 for value in choice):
        raise Failed(f"`search_space` has values of {name} twice: {choice!r}")
    return choice


def _build_combinations(subject: Subject) -> int:
    """Build the model with every pair of values of two settings that are no plain numbers; returns how many were built."""
    cls = subject.cls
    sizes = {
        name: choice
        for name, choice in cls.search_space.items()
        if not _is_range(choice) and not all(isinstance(value, float) for value in choice)
    }
    trials: list[dict[str, Any]] = [{name: value} for name, values in sizes.items() for value in values]
    for left, right in itertools.combinations(sizes, 2):
        trials += [{left: a, right: b} for a, b in itertools.product(sizes[left], sizes[right])]
    built = 0
    for trial in trials:
        try:
            config = cls.Config(**{**subject.config.model_dump(), **trial})
        except ValueError:
            continue
        try:
            subject.build(config)
        except BenchError as error:
            shown = ", ".join(f"{name} = {value!r}" for name, value in trial.items())
            raise Failed(f"`search_space` offers {shown}, which the model refuses: {first_line(error)}") from error
        built += 1
    return built


def _about(error: Exception, name: str) -> bool:
    """Whether a validation error is about the field itself."""
    details = error.errors() if hasattr(error, "errors") else []
    return not details or any(detail["loc"][:1] == (name,) for detail in details)


def _message(error: Exception) -> str:
    details = error.errors() if hasattr(error, "errors") else []
    return str(details[0]["msg"]) if details else error_line(error)


CHECKS = {"budgets": budgets, "search_space": search_space}
