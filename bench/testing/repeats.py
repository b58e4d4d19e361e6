"""Finds in the graph of a loss what makes two fits on several threads differ."""

import torch
from torch import Tensor


def repeated_rows(loss: Tensor) -> list[tuple[int, ...]]:
    """Shapes of the tensors that the loss reads by `tensor[ids]` with an entry twice, and that a gradient goes through.

    PyTorch adds up the gradients of such an entry in any order on several threads.
    """
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if node.name() == "IndexBackward0":
            # Masks choose every entry once at most.
            places = [part for part in node._saved_indices if part is not None and part.dtype != torch.bool]
            together = torch.stack(torch.broadcast_tensors(*places), -1).flatten(0, -2) if places else torch.empty(0, 1)
            if len(together.unique(dim=0)) < len(together):
                found.append(tuple(node._saved_self_sym_sizes))
    return found
