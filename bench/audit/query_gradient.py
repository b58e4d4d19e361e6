"""How much of what a model's scores react to is the query: a gradient by the vectors that the model looks up.

A query is a number or a text, and no gradient reaches those. It enters a network through rows of tables: its own, its
words', its tokens'. Which of the looked-up rows are the query's is seen by scoring the same rows with other queries:
only its look-ups change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.data.batch import Batch


@dataclass
class _Lookup:
    """Numbers of rows, and the rows of a trained table that they name."""

    rows: Tensor
    vectors: Tensor


class _Watched(TorchFunctionMode):
    """Notes every look-up in a table that has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[_Lookup] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        rows = None
        if func is F.embedding:
            rows = args[0] if args else (kwargs or {}).get("input")
        elif func is Tensor.__getitem__ or func is torch.index_select or func is Tensor.index_select:
            rows = args[-1]
        if (
            isinstance(rows, Tensor)
            and rows.dtype == torch.long
            and isinstance(found, Tensor)
            and found.is_floating_point()
            and found.requires_grad
        ):
            self.lookups.append(_Lookup(rows.detach().clone(), found))
        return found


def query_gradient(score: Callable[[Batch], Tensor], batch: Batch, other: Batch) -> float | None:
    """Share of the query's vectors in the gradient of the scores' spread within their rows, by all looked-up vectors.

    Args:
        score: of a model in evaluation mode.
        batch: rows of searches.
        other: the same rows with other queries.

    Returns:
        0 (no looked-up vector of the query reaches the scores) to 1; None where the scores have no gradient, or where other
        queries lead to other numbers of look-ups, so that nobody can say which are the query's.
    """
    with torch.enable_grad():
        scores, lookups = _watched(score, batch)
        _, changed = _watched(score, other)
        if not (scores.requires_grad and lookups and len(lookups) == len(changed)):
            return None
        spread = (scores - scores.mean(1, keepdim=True)).square().sum()
        gradients = torch.autograd.grad(spread, [each.vectors for each in lookups], allow_unused=True)
    squares = [0.0 if each is None else float(each.double().square().sum()) for each in gradients]
    own = [
        square
        for square, lookup, other_lookup in zip(squares, lookups, changed, strict=True)
        if not torch.equal(lookup.rows, other_lookup.rows)
    ]
    return (sum(own) / sum(squares)) ** 0.5 if sum(squares) else 0.0


def _watched(score: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, list[_Lookup]]:
    with _Watched() as watched:
        scores = score(batch)
    return scores, watched.lookups
