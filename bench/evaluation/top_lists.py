"""The ten best candidates of every row: what measures beyond accuracy, and people who look at single rows, need.

Ranks say where the clicked item stands and nothing of the items around it. The lists are kept only where they are asked
for. Items that tie for a place stand in an order of their own for each row (a hash of the row and the item), so that
neither the order of the candidates nor an item's number decides.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.data.hashing import draw, key
from bench.errors import RunError
from bench.files import REMEDY, write_atomically
from bench.messages import first_line

if TYPE_CHECKING:
    from torch import Tensor

DEPTH = 10
_TIES = key("top-lists")
_MEND = "remove that run and repeat it"


@dataclass(frozen=True, repr=False)
class TopLists:
    """The best candidates of n rows, best first; rows as in the ranks of the same evaluation.

    Args:
        event_id: (n,) of the row's event.
        task: (n,) 0 = rec, 1 = search.
        items: int32 (n, DEPTH) item ids; 0 where a list has fewer candidates.
        meta: what was ranked and on what, as in `Ranks`.

    Raises:
        RunError: the columns differ in length, or the lists are not DEPTH wide.
    """

    event_id: NDArray[np.int64]
    task: NDArray[np.int8]
    items: NDArray[np.int32]
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items.shape != (len(self.event_id), DEPTH) or len(self.task) != len(self.event_id):
            raise RunError(f"{len(self.event_id)} rows have lists of shape {self.items.shape}, expected {DEPTH} each")

    def __len__(self) -> int:
        return len(self.event_id)

    def __repr__(self) -> str:
        return f"TopLists({len(self):,} rows)"

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> "TopLists":
        """Some of the rows, by mask or by number."""
        return TopLists(self.event_id[chosen], self.task[chosen], self.items[chosen], self.meta)

    def save(self, path: Path, remedy: str = REMEDY) -> None:
        """Write Parquet; the same content gives the same bytes, and the file appears whole or not at all.

        Args:
            path: the file.
            remedy: what the user can do where it cannot be written, for the message.

        Raises:
            RunError: the folder is read-only or full.
        """
        lists = pa.FixedSizeListArray.from_arrays(pa.array(self.items.ravel()), DEPTH)
        table = pa.table({"event_id": self.event_id, "task": self.task, "items": lists})
        table = table.replace_schema_metadata(dict(sorted(self.meta.items())))
        write = functools.partial(pq.write_table, table, compression="zstd", compression_level=9)
        write_atomically(path, write, remedy)

    @classmethod
    def load(cls, path: Path) -> "TopLists":
        """Read a file that `save` wrote.

        Raises:
            RunError: the file is missing, damaged, or does not hold such lists.
        """
        try:
            table = pq.read_table(path)
            meta = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
            items = table.column("items").combine_chunks().flatten().to_numpy().reshape(-1, DEPTH)
            return cls(table.column("event_id").to_numpy(), table.column("task").to_numpy(), items, meta)
        except FileNotFoundError:
            raise RunError(f"no lists at {path}; {_MEND}") from None
        except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
            raise RunError(
                f"{path} does not hold lists of the best candidates ({first_line(error)}); {_MEND}"
            ) from None


class TopCollector:
    """Keeps the best candidates of the rows while they are ranked.

    Args:
        event_id: (n,) of the rows that will be ranked, in their order.
        task: (n,) their tasks.
    """

    def __init__(self, event_id: NDArray[np.int64], task: NDArray[np.int8]):
        self._event_id, self._task = event_id, task
        self._items = np.zeros((len(event_id), DEPTH), dtype=np.int32)

    def add(self, first_row: int, scores: "Tensor", items: NDArray[np.integer] | None = None) -> None:
        """Take the scores of some rows.

        Args:
            first_row: number of the first of them.
            scores: float32 (B, C); -inf is no candidate.
            items: (B, C) item ids; None where column c is item c + 1.
        """
        depth = min(DEPTH, scores.shape[1])
        import torch

        least = torch.topk(scores, depth, dim=1).values[:, -1:]  # (B, 1)
        row, column = (
            each.cpu().numpy() for each in torch.nonzero((scores >= least) & (scores > -torch.inf), as_tuple=True)
        )
        item = column + 1 if items is None else np.asarray(items)[row, column]
        score = scores[torch.from_numpy(row), torch.from_numpy(column)].float().cpu().numpy()
        code = self._event_id[first_row + row] * 2 + self._task[first_row + row]
        order = np.lexsort((draw(_TIES, code, item), -score, row))
        row, item = row[order], item[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        kept = place < DEPTH
        self._items[first_row + row[kept], place[kept]] = item[kept]

    def lists(self, meta: dict[str, str]) -> TopLists:
        """What was collected.

        Args:
            meta: what was ranked and on what.
        """
        return TopLists(self._event_id, self._task, self._items, meta)
