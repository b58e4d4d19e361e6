"""Ranking rows among very many candidates: each row is encoded once, then blocks of candidates are scored.

A model whose score is an inner product (`DotProduct`) is ranked among the full catalogue by one blocked matrix
product. Rounding makes such a product differ in its last digits from the model's own score, so items whose score
is too near to the positive's to tell are scored again by the model itself: the ranks are those of `score`, ties
included.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.data.log import Events
from bench.data.sampling import SeenItems
from bench.errors import RunError
from bench.evaluation.ranks import count
from bench.evaluation.top_lists import TopCollector

if TYPE_CHECKING:
    from bench.evaluation.scoring import Scorer

LONG = 1000
"""Lists from this length on are scored in two steps."""
_BLOCK = 1000  # candidates that a model scores at a time
_SAFE = 1e30  # below it no score can have overflowed
_CELLS = 50_000_000  # scores that are held at a time, 4 bytes each
_CACHED_CELLS = 2_000_000  # scores that a processor's cache holds while they are compared


@runtime_checkable
class DotProduct(Protocol):
    """A model whose score is the inner product of a vector per row and a vector per item. It encodes rows so."""

    def row_vectors(self, batch: Batch) -> Tensor:
        """float32 (B, d) for the rows of a batch."""

    def item_vectors(self) -> Tensor:
        """float32 (n_items + 1, d); row 0 is padding."""


class FullRanking:
    """Counts for rows among all items of the catalogue that their users have not seen.

    Args:
        scorer: the model.
        seen: pairs of user and item that are left out, except for the positive of a row.
        events: of the log.
        device: where the model is.
        model: its name, for messages.
        top: keeps the best items of each row, where they are asked for.
    """

    def __init__(
        self,
        scorer: "Scorer",
        seen: SeenItems,
        events: Events,
        device: torch.device | str,
        model: str,
        top: TopCollector | None = None,
    ):
        self._scorer, self._seen, self._events, self._device, self._model = scorer, seen, events, device, model
        self._top = top
        self._items: Tensor | None = None
        if isinstance(scorer, DotProduct):
            self._items = scorer.item_vectors()[1:].to(device)  # (N, d)
            self._longest = float(torch.linalg.vector_norm(self._items, dim=1).max())
            if len(self._items) != seen.n_items or self._items.dtype != torch.float32:
                raise RunError(
                    f"{model} returned item vectors of shape {tuple(scorer.item_vectors().shape)} and type "
                    f"{self._items.dtype}; float32 and one row per item of {seen.n_items}, with padding first, are expected"
                )

    def rows_per_batch(self, wanted: int) -> int:
        """Rows to score at a time: `wanted`, or fewer where their scores would not fit into the memory."""
        return max(1, min(wanted, _CELLS // self._seen.n_items))

    def count(self, batch: Batch, rows: np.ndarray, position: np.ndarray, first_row: int) -> tuple[np.ndarray, ...]:
        """Negatives above and tied with the positive, and the length of the list, each (B,).

        Args:
            batch: of the rows, without candidates.
            rows: of the events, (B,).
            position: item id - 1 of the positive, (B,).
            first_row: number of the first row in the candidate set, for messages.
        """
        owner, item = self._seen.of(self._events.user[rows])
        other = item - 1 != position[owner]
        owner, item = owner[other], item[other]
        listed = self._seen.n_items - np.bincount(owner, minlength=len(rows))
        encoded = self._scorer.encode(batch)
        if self._items is not None:
            device = self._items.device.type
            vectors = encoded.float() if torch.is_autocast_enabled(device) else encoded
            with torch.autocast(device, enabled=False):
                better, tied = self._count_by_product(vectors, owner, item, position, first_row)
            return better, tied, listed
        everything = torch.arange(1, self._seen.n_items + 1).expand(len(rows), -1)  # (B, N)
        scores = score_blocks(self._scorer, encoded, everything, self._device, self._model)
        valid = np.ones(scores.shape, dtype=bool)
        valid[owner, item - 1] = False
        better, tied = count(scores.cpu().numpy(), position, valid, self._model, first_row)
        if self._top is not None:
            self._top.add(first_row, scores.masked_fill(torch.from_numpy(~valid).to(scores.device), -torch.inf))
        return better, tied, listed

    def _count_by_product(
        self, vectors: Tensor, owner: np.ndarray, item: np.ndarray, position: np.ndarray, first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts from `vectors` (B, d); `owner` and `item` are the pairs that are left out, ascending in `owner`."""
        assert self._items is not None
        width = self._items.shape[1]
        if vectors.dim() != 2 or vectors.shape[1] != width or vectors.dtype != torch.float32:
            raise RunError(
                f"{self._model} returned {vectors.dtype} row vectors of shape {tuple(vectors.shape)}; float32 (B, {width}) "
                "is expected, as for its items"
            )
        better, tied = np.zeros(len(vectors), dtype=np.int32), np.zeros(len(vectors), dtype=np.int32)
        near: list[tuple[np.ndarray, np.ndarray]] = []
        step = max(1, _CACHED_CELLS // len(self._items))
        for low in range(0, len(vectors), step):
            chunk = slice(low, low + step)
            rows = vectors[chunk]  # (S, d)
            scores = rows @ self._items.T  # (S, N)
            margin = self._margin(rows)  # (S, 1)
            if not (margin < _SAFE).all():
                count(scores.cpu().numpy(), position[chunk], None, self._model, first_row + low)
            positive = torch.from_numpy(position[chunk]).to(scores.device)[:, None]
            own = scores.gather(1, positive)  # (S, 1)
            first, last = np.searchsorted(owner, [low, low + len(rows)])
            left_out = torch.from_numpy(np.stack([owner[first:last] - low, item[first:last] - 1])).to(scores.device)
            scores[left_out[0], left_out[1]] = -torch.inf
            if self._top is not None:
                # By the product alone: items whose scores differ in their last digits only may change places.
                self._top.add(first_row + low, scores)
            # 0 and 1 as float32: their sums are exact, and several times as fast as those of bool.
            flags = torch.empty_like(scores)
            most, least = own + margin, own - margin
            above = torch.gt(scores, most, out=flags).sum(1).cpu().numpy()
            level = torch.ge(scores, least, out=flags).sum(1).cpu().numpy()
            better[chunk], tied[chunk] = above, level - above - 1
            # A zero vector scores exactly 0; for other rows the model decides what is that near to the positive.
            close = np.flatnonzero((level - above > 1) & (margin[:, 0].cpu().numpy() > 0))
            if len(close):
                chosen = torch.from_numpy(close).to(scores.device)
                these = scores[chosen]
                at = torch.nonzero((these >= least[chosen]) & ~(these > most[chosen])).cpu().numpy()
                near.append((close[at[:, 0]] + low, at[:, 1]))
        if near:
            row, column = (np.concatenate(parts) for parts in zip(*near, strict=True))
            chosen, more, level_with = self._count_near(vectors, row, column, position, first_row)
            better[chosen] += more
            tied[chosen] = level_with
        return better, tied

    def _margin(self, rows: Tensor) -> Tensor:
        """(S, 1) bound of what rounding can change in the difference of two scores of a row.

        A score is off by at most d u |row| |item| with the unit round-off u (Higham, Accuracy and Stability of Numerical
        Algorithms, 2002, section 3.1). Two scores, each computed in two ways, add up to four times as much.
        """
        width, rounding = rows.shape[1] + 4, torch.finfo(torch.float32).eps / 2
        return 4 * width * rounding * torch.linalg.vector_norm(rows, dim=1, keepdim=True) * self._longest

    def _count_near(
        self, vectors: Tensor, row: np.ndarray, column: np.ndarray, position: np.ndarray, first_row: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the model's own score says of items near the positive.

        Args:
            vectors: (B, d).
            row: (n,) rows of `vectors`, ascending.
            column: (n,) an item id - 1 for each, ascending per row; those of a row hold its positive.
            position: item id - 1 of the positive, (B,).
            first_row: number of the first row in the candidate set, for messages.

        Returns:
            the rows that occur, and for each of them the items above and tied with the positive.
        """
        lengths = np.bincount(row)
        rows = np.flatnonzero(lengths)
        lengths = lengths[rows]
        valid = np.arange(lengths.max()) < lengths[:, None]  # (R, W)
        cand = np.zeros(valid.shape, dtype=np.int64)
        cand[valid] = column + 1
        own = np.argmax(cand == position[rows, None] + 1, axis=1)
        encoded = vectors[torch.from_numpy(rows).to(vectors.device)]
        scores = score_blocks(self._scorer, encoded, torch.from_numpy(cand), self._device, self._model)
        return rows, *count(scores.cpu().numpy(), own, valid, self._model, first_row)


def score_blocks(scorer: "Scorer", encoded: Any, cand: Tensor, device: torch.device | str, model: str) -> Tensor:
    """Scores of long lists of encoded rows, block by block.

    Args:
        scorer: the model.
        encoded: what its `encode` made of B rows.
        cand: (B, K) item ids, on the CPU.
        device: where the model is.
        model: its name, for messages.

    Returns:
        float32 (B, K).

    Raises:
        RunError: shape or type of the scores are wrong.
    """
    blocks = torch.tensor_split(cand, max(1, -(-cand.shape[1] // _BLOCK)), dim=1)
    scored = []
    for block in blocks:
        block = block.long().contiguous().to(device)
        scored.append(checked(scorer.score_items(encoded, block), block.shape, model))
    return torch.cat(scored, dim=1)


def checked(scores: Tensor, shape: tuple[int, ...], model: str) -> Tensor:
    """The scores, if they have the shape of the candidates and are float32.

    Raises:
        RunError: they are not.
    """
    if tuple(scores.shape) != tuple(shape):
        raise RunError(f"{model} returned scores of shape {tuple(scores.shape)} for candidates of shape {tuple(shape)}")
    if scores.dtype != torch.float32 and torch.is_autocast_enabled(scores.device.type):
        return scores.float()  # a model that is scored in the precision of its training
    if scores.dtype != torch.float32:
        raise RunError(f"{model} returned {scores.dtype} scores; float32 is expected, because fewer bits make ties")
    return scores
