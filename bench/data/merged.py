"""Both behaviours of a user as one list, and what models read off it: interleaved tokens, sessions by a time gap."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.log import SEARCH


@dataclass
class Interleaved:
    """Histories as lists of queries and items, oldest first, right padded: query, click, click, item, query, ...

    All tensors int64 unless noted; 0 in padding slots.
    """

    ids: Tensor  # (B, T) query id where `is_query`, else item id
    is_query: Tensor  # (B, T) bool
    tasks: Tensor  # (B, T) 0 = rec, 1 = search (a query and its clicks)
    times: Tensor  # (B, T) ms
    unit: Tensor  # (B, T) position of the act in the merged history
    length: Tensor  # (B,)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True on real positions."""
        return length_mask(self.length, self.ids.shape[1])


@dataclass
class Clicks:
    """Histories as lists of clicked items, oldest first, right padded.

    All tensors int64; 0 in padding slots.
    """

    items: Tensor  # (B, T)
    queries: Tensor  # (B, T) query of the search that the click was made in, 0 for rec
    length: Tensor  # (B,)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True on real positions."""
        return length_mask(self.length, self.items.shape[1])


@dataclass
class MergedHistory:
    """The last L acts of both behaviours, oldest first, right padded.

    All tensors int64; 0 in padding slots.
    """

    clicks: Tensor  # (B, L, C) the item of a recommendation click, all items of a search, 0 = none
    queries: Tensor  # (B, L) query of a search, 0 for rec
    tasks: Tensor  # (B, L) 0 = rec, 1 = search
    times: Tensor  # (B, L) ms
    length: Tensor  # (B,)

    @property
    def items(self) -> Tensor:
        """(B, L) the clicked item, of a search its first."""
        return self.clicks[..., 0]

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True on real positions."""
        return length_mask(self.length, self.tasks.shape[1])

    def sessions(self, gap: int) -> Tensor:
        """(B, L) number of the session that each act belongs to; see `session_numbers`."""
        return session_numbers(self.times, self.mask, gap)

    def interleaved(self, length: int) -> Interleaved:
        """The last `length` queries and items: of a search its query and then its clicks, of a rec click its item."""
        rows, acts, clicks = self.clicks.shape
        search = self.tasks == SEARCH  # (B, L)
        ids = torch.cat([self.queries[..., None], self.clicks], dim=2).flatten(1)  # (B, L * (1 + C))
        real = torch.cat([(search & self.mask)[..., None], (self.clicks > 0) & self.mask[..., None]], 2).flatten(1)
        slot = torch.arange(1 + clicks, device=ids.device)
        is_query = (slot == 0).expand(rows, acts, -1).flatten(1)
        unit = torch.arange(acts, device=ids.device)[:, None].expand(acts, 1 + clicks).flatten().expand(rows, -1)
        compact, total = _last(real, length)
        return Interleaved(
            ids=compact(ids),
            is_query=compact(is_query),
            tasks=compact(self.tasks.gather(1, unit)),
            times=compact(self.times.gather(1, unit)),
            unit=compact(unit),
            length=total,
        )

    def last_clicks(self, length: int) -> Clicks:
        """The last `length` clicked items, each with the query of its search."""
        compact, total = _last(((self.clicks > 0) & self.mask[..., None]).flatten(1), length)
        queries = self.queries[..., None].expand_as(self.clicks)  # (B, L, C)
        return Clicks(items=compact(self.clicks.flatten(1)), queries=compact(queries.flatten(1)), length=total)


def _last(real: Tensor, length: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """How the last `length` real entries of each row come to stand at its beginning.

    Args:
        real: (B, W) bool.
        length: T, most entries that stay.

    Returns:
        a function from values (B, W) to (B, T), 0 in padding slots, and the number of entries of each row, (B,).
    """
    total = real.sum(1)
    target = real.cumsum(1) - 1 - (total - length).clamp(min=0)[:, None]
    # What does not stay goes to one column more, which is cut off.
    target = torch.where(real & (target >= 0), target, length)

    def compact(values: Tensor) -> Tensor:
        out = torch.zeros((len(values), length + 1), dtype=values.dtype, device=values.device)
        return out.scatter(1, target, values)[:, :length]  # (B, T)

    return compact, total.clamp(max=length)


def session_numbers(times: Tensor, mask: Tensor, gap: int) -> Tensor:
    """(B, L) number of the session of each position, ascending from 0; 0 in padding slots.

    Args:
        times: (B, L) ms, ascending on real positions.
        mask: (B, L) bool, True on real positions.
        gap: ms; a longer pause than this begins a session.
    """
    pause = torch.zeros_like(times)
    pause[:, 1:] = times[:, 1:] - times[:, :-1]
    return torch.where(mask, (pause > gap).long().cumsum(1), 0)


def length_mask(length: Tensor, width: int) -> Tensor:
    """(B, width) bool, True on the first `length` (B,) positions."""
    return torch.arange(width, device=length.device) < length[:, None]
