"""The analyses of `bench analyze`: from a request to tables and figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis import gradients, lemma, mutual_information, space, variants
from bench.analysis.fitted import check_both_tasks, fitted
from bench.analysis.information import EstimatorConfig
from bench.analysis.output import Analysis
from bench.analysis.over_seeds import differences
from bench.data.log import TASKS
from bench.errors import UsageError
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest
from bench.messages import split_commas
from bench.ranker import registry


def settings_of(request: RunRequest, **more: Any) -> dict[str, Any]:
    """What decides the numbers of an analysis."""
    words = ("models", "dataset", "tasks", "split", "mode", "seeds", "budget", "threads")
    chosen = {name: getattr(request, name) for name in words} | {"set": request.overrides.values}
    return {name: value for name, value in (chosen | more).items() if value not in (None, {}, ())}


def mutual_information_of(
    request: RunRequest,
    negatives: int,
    steps: int,
    published: pd.DataFrame | None = None,
    reporter: Reporter | None = None,
) -> Analysis:
    """Table 1: mutual information of each model and task.

    Args:
        request: models, data and seeds.
        negatives: candidates per test row beside the clicked item.
        steps: of the estimator's training, at most.
        published: values to set beside, with the columns dataset, task, model and mutual_information.
        reporter: shows the progress.

    Raises:
        UsageError: a model has no representation.
    """
    rows = list(mutual_information.rows(fitted(request, reporter), negatives, EstimatorConfig(steps=steps)))
    main = mutual_information.table(rows)
    remarks = [f"{line.model}, {line.task}: {line.remark}" for line in main.itertuples() if line.remark]
    seeds = pd.DataFrame([vars(row) for row in rows])
    tables = {"mi": main, "mi-seeds": seeds}
    tables["mi-differences"] = differences(seeds, ("dataset", "task"), ("mine", "exact"))
    if published is not None:
        tables["mi-published"] = published
        above = published[published["mutual_information"] > np.log(2)]
        if len(above):
            remarks.append(
                f"{len(above)} of {len(published)} published values exceed ln 2 = .693 nats, the most that a Yes or No can "
                "carry: they are in another unit (at most 1 bit) or of another output"
            )
    return Analysis("mi", settings_of(request, negatives=negatives, steps=steps), tables, remarks)


def parameter_space(request: RunRequest, tsne_seeds: int, reporter: Reporter | None = None) -> Analysis:
    """Figure 3: where the tasks lie, per model; a figure for the first seed of each.

    Raises:
        UsageError: a run serves one task only, or a model has no representation.
    """
    _check_tasks(request)
    seeds, points = space.measure(fitted(request, reporter), tsne_seeds)
    tables = {"space": space.table(seeds), "space-seeds": seeds}
    tables["space-differences"] = differences(seeds, ("dataset", "space"), space.COMPARED)
    return Analysis("space", settings_of(request, tsne_seeds=tsne_seeds), tables | {"space-points": points})


def gradient_conflict(request: RunRequest, batches: int, pattern: str, reporter: Reporter | None = None) -> Analysis:
    """Cosines of the tasks' gradients through the training of each model.

    Raises:
        UsageError: one task only, or nothing to compare.
    """
    _check_tasks(request)
    frame = gradients.measure(request, batches, pattern, reporter)
    seeds = gradients.per_seed(frame)
    tables = {"gradients": gradients.table(seeds), "gradients-seeds": seeds, "gradients-steps": frame}
    tables["gradients-differences"] = differences(seeds, ("dataset",), ("between", "gap", "negative"))
    return Analysis("gradients", settings_of(request, batches=batches, parameters=pattern), tables)


def lemma_5_1(dimensions: int, noise: float, seed: int) -> Analysis:
    """Lemma 5.1 in the linear-Gaussian case; needs no data."""
    main = lemma.table(dimensions, noise, seed)
    fails = main[main["smaller error"] != main["more information"]]["case"].tolist()
    remark = f"the inequality fails in {len(fails)} of {len(main)} cases: {'; '.join(fails)}"
    settings = {"dimensions": dimensions, "noise": noise, "seed": seed}
    return Analysis("lemma", settings, {"lemma": main}, [remark])


def ablation(request: RunRequest, metric: str, reporter: Reporter | None = None) -> Analysis:
    """Figure 4: what each part of a model brings.

    Raises:
        UsageError: a model declares no ablations.
    """
    chosen = variants.ablations(_models(request))
    main = variants.table(variants.run_variants(request, chosen, reporter), metric)
    return Analysis("ablation", settings_of(request, metric=metric), {"ablation": main})


def sweep(request: RunRequest, grids: Sequence[str], metric: str, reporter: Reporter | None = None) -> Analysis:
    """Figure 5: one setting after the other.

    Raises:
        UsageError: no such setting.
    """
    chosen = variants.grid(_models(request), tuple(grids))
    main = variants.table(variants.run_variants(request, chosen, reporter), metric)
    return Analysis("sweep", settings_of(request, grid=list(grids), metric=metric), {"sweep": main})


def _models(request: RunRequest) -> list[str]:
    """Models of a request by name.

    Raises:
        UsageError: a group, or no such model.
    """
    names = split_commas(request.models)
    for name in names:
        registry.get(name)
    if not names:
        raise UsageError("no models given; --models gensr")
    return names


def _check_tasks(request: RunRequest) -> None:
    """Refuse, before anything is fitted, models that serve one task only.

    Raises:
        UsageError: there is one.
    """
    for name in registry.select(request.models, request.tasks or TASKS, trivial=False):
        serves = [task for task in registry.entry(name).tasks if task in (request.tasks or TASKS)]
        check_both_tasks(name, serves)
