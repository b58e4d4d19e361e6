"""The best settings of a search as a file for `bench run --config`."""

from typing import Any

from bench.files import write_atomically
from bench.store.studies import Study


def write_best(study: Study) -> None:
    """Write best.yaml beside the study, one of whose trials has a value."""
    import yaml

    best, record, spent = study.best, study.record, study.spent()
    assert best is not None
    content: dict[str, Any] = {"models": record.model, "dataset": record.dataset["name"], "budget": record.budget}
    content |= {"set": {record.model: best.values}} if best.values else {}
    head = (
        f"# {record.title} on {record.dataset.get('title', record.dataset['name'])}: the best of {spent['trials']:.0f} trials\n"
        f"# ({record.search}, scheduler {record.scheduler}, seed {record.seed}), N@10 on validation {best.value:.6f}.\n"
        f"# bench run --config {study.folder / 'best.yaml'}\n"
    )
    text = head + yaml.safe_dump(content, sort_keys=False)
    write_atomically(study.folder / "best.yaml", lambda scratch: scratch.write_text(text))
