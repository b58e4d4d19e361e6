"""Searches of settings behind a table: those of its models on its data, with every trial that is over."""

from bench.report.marks import Block
from bench.store.results import Store
from bench.store.studies import Study, studies


def searches(block: Block) -> list[Study]:
    """The searches in the results folders of a block's runs, oldest first; a trial knows validation rows only.

    Raises:
        RunError: a file of a search is not readable.
    """
    models = {row.model for row in block.group.rows}
    data = block.group.dataset
    roots = dict.fromkeys(run.folder.parent.parent for row in block.group.rows for run in row.runs)
    return [
        study
        for root in roots
        for study in studies(Store(root))
        if study.record.model in models
        and (study.record.dataset["fingerprint"], study.record.dataset["split"]) == (data["fingerprint"], data["split"])
        and study.searched
    ]
