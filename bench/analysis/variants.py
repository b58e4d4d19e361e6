"""Figures 4 and 5 of the GenSR paper: one model with parts taken away (ablation), or with other settings (sweep).

Every variant is fitted with the same seeds, ranked on the same candidates and compared with the default by users. All of
them are one command of the executor, so what is there, or is asked for twice, is not repeated.
"""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench.errors import RunError, UsageError, unknown
from bench.evaluation.metrics import PRIMARY, parse
from bench.evaluation.significance import compare, holm, mean_over_seeds
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest, run_together
from bench.experiments.settings import Overrides
from bench.messages import split_commas
from bench.ranker import registry
from bench.store.records import RunRecord
from bench.store.results import Store, read_ranks

DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """A model with changed settings; without any it is the default."""

    model: str
    name: str
    settings: dict[str, Any]
    key: str = ""  # of a sweep
    value: Any = None


def ablations(models: list[str]) -> list[Variant]:
    """The default and the declared ablations of each model.

    Raises:
        UsageError: a model declares none.
    """
    out = []
    for model in models:
        cls = registry.get(model)
        if not cls.ablations:
            raise UsageError(
                f"{model} declares no ablations; `bench analyze sweep --grid {model}.KEY=A,B` changes settings"
            )
        out.append(Variant(model, DEFAULT, {}))
        out += [Variant(model, name, settings) for name, settings in cls.ablations.items()]
    return out


def grid(models: list[str], grids: tuple[str, ...]) -> list[Variant]:
    """The default and every value of each grid `MODEL.KEY=A,B,C`, one key changed at a time.

    Raises:
        UsageError: no such key, no value, or a model that the command does not name.
    """
    if not grids:
        raise UsageError("no grid given; --grid MODEL.KEY=A,B,C, for example --grid gensr.temperature=0.01,0.07,0.5")
    out: dict[str, list[Variant]] = {}
    for text in grids:
        owner, equals, values = text.partition("=")
        model, dot, key = owner.partition(".")
        if not (equals and dot and model and key and split_commas(values)):
            raise UsageError(f"--grid {text}: expected MODEL.KEY=A,B,C")
        if model not in models:
            raise unknown("model in --grid", model, models)
        fields = registry.get(model).Config.model_fields
        if key not in fields:
            raise unknown(f"setting of {model} in --grid", key, fields)
        variants = out.setdefault(model, [Variant(model, DEFAULT, {})])
        for value in split_commas(values):
            parsed = Overrides.parse((f"{model}.{key}={value}",)).of(model)
            variants.append(Variant(model, f"{key}={value}", parsed, key, parsed[key]))
    return [variant for variants in out.values() for variant in variants]


def run_variants(
    request: RunRequest, variants: list[Variant], reporter: Reporter | None = None
) -> list[tuple[Variant, Store, dict[str, RunRecord]]]:
    """Fit what is missing; each variant with its finished runs.

    Raises:
        UsageError: settings that do not fit the model. RunError: a run fails.
    """
    result = run_together([_request(request, variant) for variant in variants], reporter)
    for variant, paths in zip(variants, result.asked, strict=True):
        for path in paths:
            if path in result.failed:
                raise RunError(f"{variant.model} with {variant.name}: {path}: {result.failed[path]}")
    found = zip(variants, result.asked, strict=True)
    return [(variant, result.store, {path: result.runs[path] for path in paths}) for variant, paths in found]


def _request(request: RunRequest, variant: Variant) -> RunRequest:
    """The request of one variant, without what the user set for the other models of the analysis."""
    others = set(split_commas(request.models)) - {variant.model}
    kept = {name: values for name, values in request.overrides.values.items() if name not in others}
    overrides = Overrides({variant.model: variant.settings}).over(Overrides(kept))
    return replace(request, models=variant.model, overrides=overrides, trivial=False)


def table(results: list[tuple[Variant, Store, dict[str, RunRecord]]], metric: str = str(PRIMARY)) -> pd.DataFrame:
    """Per model, variant and task: mean, spread over seeds, and the difference to the default with its interval and test.

    The p-values of a model on a task are adjusted together (Holm); a variant that is the default itself is not tested. The
    test has users as its unit and speaks of these trained models; the spread over seeds says how much another training
    would change.
    """
    wanted = parse(metric)
    values: dict[tuple[str, str, str, str], list] = {}
    about: dict[tuple[str, str], Variant] = {}
    of_default = {variant.model: runs.keys() for variant, _, runs in results if variant.name == DEFAULT}
    same = {(variant.model, variant.name) for variant, _, runs in results if runs.keys() == of_default[variant.model]}
    for variant, store, runs in results:
        about[variant.model, variant.name] = variant
        for path, record in runs.items():
            dataset, _, name = path.partition("/")
            evaluation = next(iter(record.evaluations.values()))
            ranks = read_ranks(store.folder(dataset, name), evaluation)
            for task in record.tasks:
                values.setdefault((dataset, variant.model, task, variant.name), []).append(
                    ranks.only(task).per_user(wanted)
                )
    lines = []
    for (dataset, model, task, name), seeds in values.items():
        means = [float(of_user.mean()) for _, of_user in seeds]
        line = {
            "dataset": dataset,
            "model": model,
            "task": task,
            "variant": name,
            "key": about[model, name].key,
            "value": about[model, name].value,
            "metric": metric,
            "seeds": len(seeds),
            "mean": sum(means) / len(means),
            "spread over seeds": float(pd.Series(means).std(ddof=1)) if len(means) > 1 else float("nan"),
        }
        if (model, name) not in same:
            against = compare(mean_over_seeds(seeds), mean_over_seeds(values[dataset, model, task, DEFAULT]), seed=0)
            line |= {"difference": against.difference, "low": against.low, "high": against.high, "p": against.p}
        lines.append(line)
    frame = pd.DataFrame(lines)
    if "p" in frame:
        frame["p_holm"] = float("nan")
        for _, group in frame[frame["p"].notna()].groupby(["dataset", "model", "task"]):
            frame.loc[group.index, "p_holm"] = holm(group["p"].to_numpy())
    return frame
