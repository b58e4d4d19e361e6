"""The line below a figure: what is shown, and of which data and fits."""

from collections.abc import Mapping
from typing import Any

from bench.data import sources
from bench.errors import BenchError
from bench.messages import comma_list

_SHOWN = {
    "mi": "Mutual information between what a model reads of a candidate and the Yes or No that it answers, on users whom "
    "the estimator has not seen.",
    "space": "A dot is a candidate of a test row; contours hold 20, 50 and 80 % of a task. Overlap 1: a classifier cannot "
    "tell the tasks apart; 0: it always can. The fit of the first seed is drawn.",
    "gradients": "Cosine between the gradients of both tasks' losses on the parameters that they share. Dots: a batch; "
    "lines: means over batches and seeds, smoothed over three checks; dotted: the two halves of one task's rows. Below 0 the "
    "tasks pull apart.",
    "lemma": "Two estimates of one truth each, joined by a line: error and information. Lemma 5.1 holds where a line falls "
    "to the right.",
    "ablation": "What a model loses without a part of it: {metric} of each variant minus that of the default.",
    "sweep": "{metric} of a model under other values of one setting.",
}


def caption(name: str, settings: Mapping[str, Any]) -> str:
    """The caption of every figure of an analysis.

    Args:
        name: of the analysis.
        settings: what decides its numbers.
    """
    shown = _SHOWN[name].format_map(settings)
    if "dataset" not in settings:
        return shown
    datasets = comma_list(_title(dataset) for dataset in settings["dataset"])
    seeds = list(settings["seeds"])
    word = "seed" if len(seeds) == 1 else "seeds"
    return f"{shown} {datasets}; {settings['budget']} budget; {word} {comma_list(seeds)}."


def _title(dataset: str) -> str:
    """What people call a data set; its name where this installation does not know it."""
    try:
        return sources.open_source(dataset).title
    except BenchError:
        return dataset
