"""The best known settings of a model for `bench run --tuned`."""

from dataclasses import dataclass
from typing import Any

from bench.errors import UsageError
from bench.experiments.prepared_data import PreparedData
from bench.messages import shell_word
from bench.store.results import Store
from bench.store.studies import Study, studies


@dataclass(frozen=True)
class Tuned:
    """Settings that a search found, and the words that a record and a caption have for it."""

    values: dict[str, Any]
    origin: str


def best_known(
    store: Store, prepared: PreparedData, model: str, tasks: tuple[str, ...], budget: str, validation_rows: int
) -> Tuned:
    """The settings of the best trial over all complete searches of a model on these data, tasks and budget.

    Searches of older sources count: settings outlive them. Values are compared on the same validation rows.

    Raises:
        UsageError: there is no such search.
    """
    found = [
        study
        for study in studies(store)
        if study.record.model == model
        and study.record.finished
        and study.record.dataset["fingerprint"] == prepared.log.fingerprint
        and study.record.dataset["split"] == prepared.split.label
        and study.record.tasks == list(tasks)
        and study.record.budget == budget
        and study.record.validation_rows == validation_rows
        and study.best is not None
    ]
    if not found:
        words = f"bench tune --models {shell_word(model)} --dataset {shell_word(prepared.name)} --budget {budget}"
        raise UsageError(f"--tuned: no complete search of {model} on {prepared.name} with these options; {words}")
    chosen = max(found, key=_value)
    assert chosen.best is not None
    spent = chosen.spent()
    return Tuned(chosen.best.values, f"{spent['trials']} trials, {chosen.record.search}, {chosen.record.id}")


def _value(study: Study) -> float:
    return study.best.value or 0.0 if study.best else 0.0
