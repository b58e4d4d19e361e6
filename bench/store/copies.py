"""Runs copied from one results folder into another: what people read of them, without the weights."""

import glob
import shutil
from functools import partial
from pathlib import Path

from bench.files import atomic_folder, write_atomically
from bench.store.records import read_run
from bench.store.results import CURVE, Store, checked_file, read_lists, read_ranks


def copy_run(source: Store, folder: Path, target: Store) -> bool:
    """Copy a finished run's record, curve, ranks and lists, and the candidates that it ranked.

    Args:
        source: the results folder that the run lies in.
        folder: of the run.
        target: the other results folder. A run of the same id there is replaced unless it is the same.

    Returns:
        whether the run was copied; False where it is there already.

    Raises:
        RunError: a file is not what the record says, a process works on the run there, or that folder cannot be written.
    """
    record = read_run(folder)
    dataset, evaluations = record.dataset["name"], record.evaluations.values()
    files = [folder / "run.json"]
    if CURVE in record.files:
        files.append(checked_file(folder, CURVE))
    for evaluation in evaluations:
        read_ranks(folder, evaluation)
        read_lists(folder, evaluation)
        files += [folder / name for name in (evaluation.ranks, evaluation.lists) if name]
    starts = {evaluation.fingerprint[:16] for evaluation in evaluations}
    candidates = [path for start in starts for path in source.candidates(dataset).glob(f"{start}.*")]
    target.check_writable()
    with target.locked(dataset, record.id):
        place = target.folder(dataset, record.id)
        there = place / "run.json"
        if there.exists() and there.read_bytes() == files[0].read_bytes():
            return False
        for leftover in place.parent.glob(f".{glob.escape(record.id)}-*"):  # of a copy that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with atomic_folder(place, "the run") as scratch:
            for path in files:
                shutil.copyfile(path, scratch / path.name)
        for path in candidates:
            copied = target.candidates(dataset) / path.name
            if not copied.exists():
                write_atomically(copied, partial(shutil.copyfile, path))
    return True
