"""Facts about a data set for `bench data stats`: counts, split, leak counters, candidates."""

from typing import Any

import numpy as np

from bench.data.log import SEARCH, Log
from bench.evaluation import leaks
from bench.evaluation.candidates import draw
from bench.experiments.prepared_data import PreparedData

# What sources may say of their preparation in the manifest, and how it is headed.
_PREPARATION = {
    "steps": "steps of the preparation",
    "remarks": "remarks",
    "words": "words",
    "coverage": "text by provenance",
    "statistics": "statistics",
    "reference": "the papers' estimates beside ours",
    "release": "the release",
}


def describe(prepared: PreparedData, candidate_seed: int = 0) -> dict[str, dict[str, Any]]:
    """Sections of facts in the order in which people read them; values are numbers, text or booleans."""
    log, tasks = prepared.log, prepared.tasks
    candidates = draw(prepared.split, "test", tasks, "uniform", candidate_seed)
    return {
        "data": {
            "name": prepared.name,
            "title": prepared.entry.title,
            "mode": log.mode,
            "synthetic": prepared.synthetic or "nothing",
            "fingerprint": log.fingerprint,
        },
        "counts": log.manifest["counts"],
        **{title: _flat(log.manifest[key]) for key, title in _PREPARATION.items() if log.manifest.get(key)},
        "text": _text(log),
        f"split {prepared.split.label}": prepared.split.counts(),
        "leak counters (zero: must be 0)": leaks.split_counters(prepared.batches),
        f"candidates {candidates.label}, seed {candidate_seed}": {
            "fingerprint": candidates.fingerprint,
            "rows": len(candidates),
            "mean column of the positive": float(candidates.position.mean()),
            **leaks.candidate_counters(prepared.split, candidates),
        },
    }


def _flat(facts: Any, prefix: str = "") -> dict[str, Any]:
    """Nested facts of a manifest as one level, keys joined by " / "."""
    if isinstance(facts, dict):
        return {
            key: value for name, inner in facts.items() for key, value in _flat(inner, f"{prefix}{name} / ").items()
        }
    if isinstance(facts, list) and facts and isinstance(facts[0], (dict, list)):
        return {
            key: value
            for place, inner in enumerate(facts, 1)
            for key, value in _flat(inner, f"{prefix}{place} / ").items()
        }
    return {prefix.removesuffix(" / ") or "value": facts if isinstance(facts, (int, float, str, bool)) else str(facts)}


def _text(log: Log) -> dict[str, Any]:
    """How much of the data can be read by models of text."""
    facts: dict[str, Any] = {}
    for name, table in (("items", log.items), ("queries", log.queries)):
        if table.text is not None and len(table):
            facts[f"{name} with text"] = float(np.mean([bool(text) for text in table.text[1:]]))
        if table.words is not None and len(table):
            facts[f"words of {name} (mean)"] = float(table.words.lengths[1:].mean())
    if log.items.provenance is not None:
        facts["text of items comes from"] = "; ".join(sorted(set(log.items.provenance[1:]) - {""}))
    search = log.events.task == SEARCH
    if search.any() and log.items.queries is not None:
        facts["queries an item carries (mean)"] = float(log.items.queries.lengths[1:].mean())
    return facts
