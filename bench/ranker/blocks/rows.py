"""Rows of a trained tensor by their numbers."""

from torch import Tensor


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a tensor that a gradient goes through: (n, ...) and ids (any shape) -> (*ids.shape, ...).

    `table[ids]` adds up the gradients of a row that occurs twice in any order on several threads, so that two fits differ.
    """
    return table.index_select(0, ids.reshape(-1)).view(*ids.shape, *table.shape[1:])
