"""Nodes of a cluster that do not see the folders of the command: data go there once, results come back.

What travels are files, as arrays of bytes in Ray's object store. A node keeps the data in its own data folder
(`BENCH_DATA` there, else the user's), where the next command finds them.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import sources
from bench.errors import RunError
from bench.experiments.job import Job, JobResult, unranked
from bench.experiments.prepared_data import candidates_of, open_choice
from bench.experiments.progress import Reporter
from bench.files import atomic_folder, exclusive_folder
from bench.messages import reason
from bench.store.results import Store

Packed = dict[str, NDArray[np.uint8]]  # name of a file, below its folder -> content
_GIVEN = "given:"


@dataclass(frozen=True)
class Folders:
    """What a node is asked for: a file of the command in the results folder, and the data folder of the command."""

    token: str
    data: str

    def seen(self) -> bool:
        """Whether this node works in the folders of the command.

        A node whose BENCH_DATA names another data folder works in that one.
        """
        own = os.environ.get("BENCH_DATA")
        elsewhere = bool(own) and Path(str(own)).expanduser().resolve() != Path(self.data)
        return not elsewhere and Path(self.token).exists()


@dataclass(frozen=True)
class Sent:
    """What a job needs on a node apart, as references into the object store."""

    folders: Folders
    data: Any | None  # the prepared log; None while every node that is known works in the folders of the command
    given: dict[str, Any]  # candidate spec -> its file
    run: Any | None  # the finished run of which a ranking is missing


class NothingSentError(Exception):
    """A node that joined later does not see the folders of the command, and its job came without the data."""


@dataclass(frozen=True)
class Returned:
    """The result of a job on a node apart, with the files of its run."""

    result: JobResult
    files: Packed


@dataclass
class Sender:
    """Puts what jobs need into the object store, the data of each data set once.

    Args:
        ray: the module, connected.
        folders: of the command.
        needed: whether a node is known that does not work in these folders.
    """

    ray: Any
    folders: Folders
    needed: bool
    _put: dict[str, Any] = field(default_factory=dict)

    def of(self, job: Job) -> Sent:
        """What a job needs; the folders' names alone where nobody is known to need more."""
        if not self.needed:
            return Sent(self.folders, None, {}, None)
        store = Store(job.out)
        there = None if job.force else store.finished(job.data.name, job.id)
        given = [choice.spec for choice in job.candidates if choice.spec.startswith(_GIVEN)]
        return Sent(
            self.folders,
            self._once(Path(job.data.folder)),
            {spec: self._once(Path(spec.removeprefix(_GIVEN))) for spec in given},
            self.ray.put(_pack(store.folder(job.data.name, job.id))) if there else None,
        )

    def _once(self, path: Path) -> Any:
        if str(path) not in self._put:
            self._put[str(path)] = self.ray.put(_pack(path))
        return self._put[str(path)]


@contextmanager
def sender(ray: Any, job: Job) -> Iterator[Sender]:
    """What sends data to the nodes that do not work in the folders of the command.

    Args:
        ray: the module, connected.
        job: any job of the command.

    Raises:
        RunError: the results folder cannot be written.
    """
    token = Path(job.out) / f".seen-{secrets.token_hex(8)}"  # a file that nobody else has
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise RunError(f"cannot write to {job.out}: {reason(error)}") from error
    try:
        folders = Folders(str(token), job.data.root)
        yield Sender(ray, folders, _some_apart(ray, folders))
    finally:
        token.unlink(missing_ok=True)


def _some_apart(ray: Any, folders: Folders) -> bool:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    asked = ray.remote(num_cpus=0)(Folders.seen)
    calls = [
        asked.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(folders)
        for node in others
    ]
    try:
        return not all(ray.get(calls))
    except ray.exceptions.RayError:
        return True  # a node is lost right now; what is sent in vain does no harm


def complete(job: Job) -> bool:
    """Whether nothing is left to do for a job, as the folders of the command say."""
    there = None if job.force else Store(job.out).finished(job.data.name, job.id)
    return there is not None and not unranked(there, job.candidates, job.top_lists)


def settle(ray: Any, job: Job, sent: Sent) -> Job:
    """The job in the folders of this node, with everything there that it needs.

    Raises:
        RunError: the node has no room, or its data folder cannot be written.
        NothingSentError: the job came without the data.
    """
    if sent.data is None:
        raise NothingSentError
    root = sources.data_root()
    folder = root / "prepared" / f"copy-{job.data.fingerprint[:24]}"
    with exclusive_folder(folder, "the copy of the data"):
        if not (folder / "manifest.json").exists():
            with atomic_folder(folder, "the copy of the data") as scratch:
                _unpack(ray.get(sent.data), scratch)
    choices = []
    for choice in job.candidates:
        if choice.spec in sent.given:
            lists = root / "given" / choice.fingerprint[:24]
            with (
                exclusive_folder(lists, "the copy of the candidates"),
                atomic_folder(lists, "the candidates") as scratch,
            ):
                _unpack(ray.get(sent.given[choice.spec]), scratch)
            choice = replace(choice, spec=f"{_GIVEN}{lists / Path(choice.spec.removeprefix(_GIVEN)).name}")
        choices.append(choice)
    # A folder for each results folder of the command: what is begun there is the job's own.
    out = root / "results" / Path(job.out).name
    here = Store(str(out)).folder(job.data.name, job.id)
    if sent.run is not None and not here.exists():
        with atomic_folder(here, "the copy of the run") as scratch:
            _unpack(ray.get(sent.run), scratch)
    data = replace(job.data, folder=str(folder), root=str(root))
    return replace(job, out=str(out), data=data, candidates=tuple(choices))


def collect(job: Job, result: JobResult) -> Returned:
    """The result of a job that `settle` gave, with its files, which this node does not keep."""
    folder = Store(job.out).folder(job.data.name, job.id)
    packed = _pack(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return Returned(result, packed)


def store_returned(job: Job, returned: Returned, reporter: Reporter) -> JobResult:
    """Put the files of a run that comes back into the folders of the command.

    Where another command has finished the same run meanwhile, its result stands.

    Args:
        job: as the command planned it.
        returned: from the node.
        reporter: hears of a wait for another process.

    Raises:
        RunError: the results folder cannot be written.
    """
    store = Store(job.out)

    def waiting(line: str) -> None:
        reporter.note(f"{job.label}: {line}; waiting for it")

    with store.locked(job.data.name, job.id, waiting):
        there = None if job.force else store.finished(job.data.name, job.id)
        if there is not None and not unranked(there, job.candidates, job.top_lists):
            return JobResult(there, "none")
        part = store.part(job.data.name, job.id)
        shutil.rmtree(part, ignore_errors=True)
        _unpack(returned.files, part)
        store.publish(job.data.name, job.id)
    prepared = open_choice(job.data)
    for choice in job.candidates:
        candidates_of(prepared, choice).save(store.candidates(job.data.name), prepared.split)
    return returned.result


def _pack(path: Path) -> Packed:
    """A file, or all files of a folder."""
    files: Sequence[Path] = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    base = path.parent if path.is_file() else path
    return {file.relative_to(base).as_posix(): np.fromfile(file, np.uint8) for file in files}


def _unpack(packed: Packed, folder: Path) -> None:
    """Write the files; the record of a run last, since a folder that has it is complete."""
    try:
        for name in sorted(packed, key=lambda name: name == "run.json"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            packed[name].tofile(path)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {reason(error)}") from error
