"""A prefix trie over token ids of a catalogue, and beam search that leaves it nowhere.

N items; A arcs; M nodes, node 0 is the root. Beams W.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.ragged import Ragged

# (parent beams (B, W), tokens (B, W)) of the last step, or None at first -> (B, W, V) log-probabilities of the next token.
Step = Callable[[Tensor | None, Tensor | None], Tensor]


class Trie(nn.Module):
    """The token lists of N items as a tree; no list may be the beginning of another one.

    Lists that end in one and the same token, which occurs nowhere else in them, are such lists.

    Args:
        lists: list n is that of item n + 1.

    Raises:
        ValueError: a list is empty, twice there, or the beginning of another one.
    """

    offsets: Tensor  # (M + 1,) where the arcs of each node begin
    token: Tensor  # (A,) token of each arc
    child: Tensor  # (A,) node that it leads to
    item: Tensor  # (M,) item that ends in a node, 0 = none

    def __init__(self, lists: Ragged):
        super().__init__()
        lengths = lists.lengths
        if not len(lists) or not lengths.all():
            raise ValueError("a trie needs at least one list, and no empty one")
        padded = lists.padded().astype(np.int64)
        node = np.zeros(len(lists), dtype=np.int64)  # where each list stands
        arcs, count = [], 1
        item: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
        for depth in range(padded.shape[1]):
            going = np.flatnonzero(depth < lengths)
            pairs, place = np.unique(np.stack([node[going], padded[going, depth]], 1), axis=0, return_inverse=True)
            arcs.append(np.column_stack([pairs, count + np.arange(len(pairs))]))
            node[going] = count + place.ravel()
            ended = going[lengths[going] == depth + 1]
            here = np.zeros(len(pairs), dtype=np.int64)
            here[node[ended] - count] = ended + 1
            item.append(here)
            count += len(pairs)
        parent, token, child = np.concatenate(arcs).T
        ends = np.concatenate(item)
        if len(np.unique(node)) < len(lists) or ends[parent].any():
            raise ValueError("a list of tokens is twice in the trie, or the beginning of another one")
        order = np.argsort(parent, kind="stable")
        offsets = np.searchsorted(parent[order], np.arange(count + 1))
        for name, values in {"offsets": offsets, "token": token[order], "child": child[order], "item": ends}.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def arcs(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The arcs that leave nodes (R,), all in one list: (n,) arcs, and (n,) the row in `nodes` of each."""
        first, count = self.offsets[nodes], self.offsets[nodes + 1] - self.offsets[nodes]
        owner = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
        before = count.cumsum(0) - count
        return first[owner] + torch.arange(len(owner), device=nodes.device) - before[owner], owner


@torch.no_grad()
def beam_search(trie: Trie, step: Step, rows: int, beams: int) -> tuple[Tensor, Tensor]:
    """The most probable items that a beam search finds.

    An item's score is the sum of the log-probabilities of its tokens, without a correction for its length. A beam that
    has come to an item keeps its place among the `beams` best.

    Args:
        trie: the lists of all items.
        step: the language model; called once per token, with the beams that went on.
        rows: B, searches at once.
        beams: kept after each token.

    Returns:
        (B, beams) items, best first, 0 where fewer were found, and (B, beams) their scores, -inf there.
    """
    device = trie.token.device
    node = torch.zeros(rows, 1, dtype=torch.long, device=device)  # (B, W)
    total = torch.zeros(rows, 1, device=device)
    parent: Tensor | None = None
    token: Tensor | None = None
    while True:
        log_probs = step(parent, token)  # (B, W, V)
        width = node.shape[1]
        done = (trie.item[node] > 0) & (total > -torch.inf)
        open_ = ~done & (total > -torch.inf)
        flat = node.flatten()
        arc, owner = trie.arcs(flat)
        kept = open_.flatten()[owner]
        arc, owner = arc[kept], owner[kept]
        row, beam = owner // width, owner % width
        score = total[row, beam] + log_probs[row, beam, trie.token[arc]]
        # Beams that are done stand beside those that go on.
        done_row, done_beam = torch.nonzero(done, as_tuple=True)
        every_row = torch.cat([row, done_row])
        every_beam = torch.cat([beam, done_beam])
        every_score = torch.cat([score, total[done_row, done_beam]])
        every_arc = torch.cat([arc, arc.new_full((len(done_row),), -1)])
        best, chosen = _best_of_rows(every_row, every_score, rows, beams)
        real = chosen >= 0
        index = chosen.clamp(min=0)
        parent = torch.where(real, every_beam[index], 0)
        moved = real & (every_arc[index] >= 0)
        of_arc = every_arc[index].clamp(min=0)
        token = torch.where(moved, trie.token[of_arc], 0)
        node = torch.where(moved, trie.child[of_arc], node.gather(1, parent))
        total = best
        if not (real & (trie.item[node] == 0)).any():
            return torch.where(real, trie.item[node], 0), total


def found_scores(items: Tensor, scores: Tensor, n_items: int, missed: float) -> Tensor:
    """(B, n_items + 1) scores of the whole catalogue: those of `beam_search` where it found an item, `missed` elsewhere."""
    table = torch.full((len(items), n_items + 1), missed, device=scores.device)
    return table.scatter(1, items, torch.where(items > 0, scores, missed))


def _best_of_rows(row: Tensor, score: Tensor, rows: int, beams: int) -> tuple[Tensor, Tensor]:
    """The best entries of each row, best first: (B, beams) scores and their indices, -inf and -1 where a row has fewer."""
    # Two stable sorts: by score, then by row. Equal scores stay in the order of the trie.
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    count = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row[order]]
    first = place < beams
    best = torch.full((rows, beams), -torch.inf, device=score.device)
    chosen = torch.full((rows, beams), -1, dtype=torch.long, device=score.device)
    best[row[order][first], place[first]] = score[order][first]
    chosen[row[order][first], place[first]] = order[first]
    return best, chosen
