"""Ranks: what an evaluation leaves, per row, so that every metric at every cut-off is computed from it later."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.data.log import TASKS
from bench.errors import RunError, unknown
from bench.evaluation.metrics import Metric, PerUser, check_counts, values
from bench.files import REMEDY, write_atomically

_COLUMNS = {
    "user": np.int32,
    "event_id": np.int64,
    "item": np.int32,
    "task": np.int8,
    "query": np.int32,
    "better": np.int32,
    "tied": np.int32,
    "candidates": np.int32,
}


@dataclass(frozen=True, repr=False)
class Ranks:
    """Counts of every evaluated row, all columns (n,); `item` is the positive, `query` is 0 for rec.

    `meta` says what was ranked and on what (model, candidates fingerprint, ...); it travels in the file's schema.

    Raises:
        RunError: columns of different lengths, a task code that does not exist, or counts that no ranking can have.
    """

    user: NDArray[np.int32]
    event_id: NDArray[np.int64]
    item: NDArray[np.int32]
    task: NDArray[np.int8]  # 0 = rec, 1 = search
    query: NDArray[np.int32]
    better: NDArray[np.int32]  # negatives strictly above the positive
    tied: NDArray[np.int32]  # negatives with exactly its score
    candidates: NDArray[np.int32]  # length of the list, positive included
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in _COLUMNS.items():
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(dtype))
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) > 1:
            raise RunError(f"columns of the ranks differ in length: {lengths}")
        if len(self) and not 0 <= self.task.min() <= self.task.max() < len(TASKS):
            raise RunError(f"ranks hold the task codes {np.unique(self.task).tolist()}; 0 is rec and 1 is search")
        check_counts(self.better, self.tied, self.candidates)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        rows = ", ".join(f"{int((self.task == code).sum()):,} {name}" for code, name in enumerate(TASKS))
        model = f"{self.meta['model']}: " if "model" in self.meta else ""
        return f"Ranks({model}{rows} rows, lists of up to {int(self.candidates.max(initial=0)):,})"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the rows serve, in the order rec, search."""
        return tuple(name for code, name in enumerate(TASKS) if (self.task == code).any())

    @property
    def tie_rate(self) -> float:
        """Share of rows whose positive ties with a negative; NaN without rows."""
        return float((self.tied > 0).mean()) if len(self) else float("nan")

    def only(self, task: str) -> "Ranks":
        """The rows of one task."""
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        return self.rows(self.task == TASKS.index(task))

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> "Ranks":
        """Some of the rows, by mask or by number."""
        return Ranks(**{name: getattr(self, name)[chosen] for name in _COLUMNS}, meta=self.meta)

    def values(self, metric: Metric) -> NDArray[np.float64]:
        """Expected value of the metric for every row, (n,)."""
        return values(metric, self.better, self.tied, self.candidates)

    def per_user(self, metric: Metric) -> PerUser:
        """Users in ascending order, (u,), and the mean over each one's rows, (u,): the unit of every comparison."""
        users, inverse, rows = self._users
        return users, np.bincount(inverse, self.values(metric), minlength=len(users)) / rows

    @cached_property
    def _users(self) -> tuple[NDArray[np.int32], NDArray[np.integer], NDArray[np.integer]]:
        """Users in ascending order (u,), for each row the position of its user (n,), and rows per user (u,)."""
        if (self.user[1:] < self.user[:-1]).any():
            return np.unique(self.user, return_inverse=True, return_counts=True)
        first = np.ones(len(self), dtype=bool)  # rows in the order of users need no sorting
        np.not_equal(self.user[1:], self.user[:-1], out=first[1:])
        starts = np.flatnonzero(first)
        return self.user[starts], np.cumsum(first) - 1, np.diff(np.append(starts, len(self)))

    def mean(self, metric: Metric) -> float:
        """Mean over users of the mean over a user's rows; NaN without rows.

        The unit is the user, as in the significance tests: a user with many test rows counts once. Where every user
        has one row, as in leave-one-out, this equals the mean over rows that papers print.
        """
        _, means = self.per_user(metric)
        return float(means.mean()) if len(means) else float("nan")

    def save(self, path: Path, remedy: str = REMEDY) -> None:
        """Write Parquet; the same content gives the same bytes, and the file appears whole or not at all.

        Args:
            path: the file.
            remedy: what the user can do where it cannot be written, for the message.

        Raises:
            RunError: the folder is read-only or full.
        """
        table = pa.table({name: getattr(self, name) for name in _COLUMNS})
        table = table.replace_schema_metadata(dict(sorted(self.meta.items())))

        def write(scratch: Path) -> None:
            with scratch.open("wb") as stream:
                pq.write_table(table, stream, compression="zstd", compression_level=3, write_page_checksum=True)
                stream.flush()
                os.fsync(stream.fileno())

        write_atomically(path, write, remedy)

    @classmethod
    def load(cls, path: Path) -> "Ranks":
        """Read a file that `save` wrote.

        Raises:
            RunError: the file is missing, truncated, changed, or does not hold ranks.
        """
        mend = "remove that run and repeat it"
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read()
            meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        except FileNotFoundError:
            raise RunError(f"no ranks at {path}; {mend}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(f"{path} is not readable Parquet ({_one_line(error)}); {mend}") from None
        for name, dtype in _COLUMNS.items():
            if name not in table.column_names:
                raise RunError(f"{path} does not hold ranks: the column {name} is missing; {mend}")
            column = table.column(name)
            if column.null_count or column.type != pa.from_numpy_dtype(dtype):
                raise RunError(f"{path} does not hold ranks: {name} is {column.type} or has gaps; {mend}")
        try:
            return cls(**{name: table.column(name).to_numpy() for name in _COLUMNS}, meta=meta)
        except RunError as error:
            raise RunError(f"{path} does not hold ranks: {error}; {mend}") from None


def count(
    scores: NDArray[np.float32],
    position: NDArray[np.integer],
    valid: NDArray[np.bool_] | None = None,
    model: str = "the model",
    first_row: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Negatives above and tied with the positive of every list, by comparing and never by sorting.

    Args:
        scores: float32 (B, C), higher is better.
        position: column of the positive, (B,).
        valid: (B, C), False where a shorter list is padded; padding is neither counted nor checked.
        model: its name, for messages.
        first_row: number of the batch's first row, for messages.

    Returns:
        better, tied: int32 (B,).

    Raises:
        RunError: wrong shape or type, or a score that is not finite.
    """
    if scores.ndim != 2 or len(scores) != len(position):
        raise RunError(f"{model} returned scores of shape {scores.shape} for {len(position)} lists of candidates")
    if scores.dtype != np.float32:
        raise RunError(f"{model} returned {scores.dtype} scores; float32 is expected, because fewer bits make ties")
    if valid is not None and valid.shape != scores.shape:
        raise RunError(f"{model} returned scores of shape {scores.shape}, the candidates have {valid.shape}")
    broken = ~np.isfinite(scores) if valid is None else ~np.isfinite(scores) & valid
    if broken.any():
        row, column = np.unravel_index(int(broken.argmax()), broken.shape)
        raise RunError(
            f"{model} returned the score {scores[row, column]} in row {first_row + row}, candidate {column}; "
            "a ranking needs finite scores"
        )
    positive = np.take_along_axis(scores, np.asarray(position)[:, None], axis=1)  # (B, 1)
    above, same = scores > positive, scores == positive
    if valid is not None:
        above &= valid
        same &= valid
    return above.sum(axis=1, dtype=np.int32), same.sum(axis=1, dtype=np.int32) - 1


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
