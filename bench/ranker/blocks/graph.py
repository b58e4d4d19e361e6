"""LightGCN (He et al., SIGIR 2020): propagation over the user-item graph, and the training of its table.

Nodes are the users 0..n_users followed by the items 0..n_items; both rows 0 are padding without an edge. The layer-0
(ego) rows of padding are zero, so its propagated rows are zero as well.
"""

import warnings

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import softplus


def adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> Tensor:
    """D^(-1/2) A D^(-1/2) of the bipartite graph, (n_users + n_items + 2,) squared, float32 sparse CSR.

    Args:
        users, items: (E,) ends of the edges, from 1; a repeated pair is one edge.
    """
    pairs = _pairs(users, items, n_items)
    left, right = pairs[:, 0], pairs[:, 1] + n_users + 1
    size = n_users + n_items + 2
    rows, columns = np.concatenate([left, right]), np.concatenate([right, left])
    degree = np.bincount(rows, minlength=size).astype(np.float64)
    values = 1 / np.sqrt(degree[rows] * degree[columns])
    matrix = sp.csr_matrix((values.astype(np.float32), (rows, columns)), shape=(size, size))
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr, dtype=torch.int64),
            torch.as_tensor(matrix.indices, dtype=torch.int64),
            torch.as_tensor(matrix.data),
            (size, size),
            check_invariants=True,
        )


class _Multiply(torch.autograd.Function):
    """A @ x for a symmetric sparse A: the gradient is A @ g, without building the transpose."""

    @staticmethod
    def forward(context, matrix: Tensor, x: Tensor) -> Tensor:
        context.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[None, Tensor]:
        return None, context.matrix @ gradient


def propagate(matrix: Tensor, ego: Tensor, layers: int) -> Tensor:
    """Mean of ego, A ego, ..., A^layers ego: (nodes, dim) to (nodes, dim), differentiable in `ego`. A must be symmetric."""
    total = hop = ego
    for _ in range(layers):
        hop = _Multiply.apply(matrix, hop)
        total = total + hop
    return total / (layers + 1)


def initial(n_users: int, n_items: int, dim: int, generator: torch.Generator, std: float = 0.1) -> Tensor:
    """Ego table (nodes, dim) from N(0, std), padding rows zero."""
    table = torch.empty(n_users + n_items + 2, dim).normal_(0, std, generator=generator)
    table[0] = table[n_users + 1] = 0
    return table


def bpr(user: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log sigmoid(s+ - s-): rows (B, dim) of users and clicked items, (B, dim) or (B, N, dim) of sampled ones."""
    wanted = (user * positive).sum(-1)
    if negative.dim() == 3:
        return softplus((user[:, None] * negative).sum(-1) - wanted[:, None]).mean()
    return softplus((user * negative).sum(-1) - wanted).mean()


def train_table(
    users: np.ndarray,
    items: np.ndarray,
    n_users: int,
    n_items: int,
    dim: int,
    layers: int,
    epochs: int,
    lr: float,
    decay: float,
    generator: torch.Generator,
    batch_size: int = 2048,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Train LightGCN by BPR with one uniform negative an edge and Adam.

    Args:
        users, items: (E,) training clicks, ids from 1.
        decay: weight of half the squared layer-0 rows of a batch, divided by its size.
        generator: source of every random number (start, order, negatives).

    Returns:
        `user` (n_users + 1, dim) and `item` (n_items + 1, dim): the propagated tables, whose inner product is the
        score;
        `user_ego`, `item_ego`: the layer-0 tables. Rows 0 are zero. An item without a click keeps a share of its
        random start in both; its propagated row is that start divided by `layers` + 1.
    """
    matrix = adjacency(users, items, n_users, n_items).to(device)
    table = initial(n_users, n_items, dim, generator).to(device).requires_grad_()
    pairs = _pairs(users, items, n_items)
    keys = torch.as_tensor(pairs[:, 0] * (n_items + 1) + pairs[:, 1])  # sorted, since the pairs are
    edges = torch.as_tensor(pairs)
    optimizer = torch.optim.Adam([table], lr=lr)
    for _ in range(epochs):
        negatives = _untouched(edges[:, 0], keys, n_items, generator)
        for chosen in torch.randperm(len(edges), generator=generator).split(batch_size):
            user = edges[chosen, 0].to(device)
            positive = (edges[chosen, 1] + n_users + 1).to(device)
            negative = (negatives[chosen] + n_users + 1).to(device)
            final = propagate(matrix, table, layers)
            loss = bpr(final[user], final[positive], final[negative])
            ego = table[torch.cat([user, positive, negative])]
            loss = loss + decay * 0.5 * ego.square().sum() / len(user)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        final = propagate(matrix, table, layers).cpu()
        ego = table.detach().cpu()
    cut = n_users + 1
    tables = {"user": final[:cut], "item": final[cut:], "user_ego": ego[:cut], "item_ego": ego[cut:]}
    return {name: value.clone() for name, value in tables.items()}


def _pairs(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """(E, 2) int64 distinct edges in ascending order."""
    keys = np.unique(np.asarray(users).astype(np.int64) * (n_items + 1) + items)
    return np.stack([keys // (n_items + 1), keys % (n_items + 1)], axis=1)


def _untouched(user: Tensor, keys: Tensor, n_items: int, generator: torch.Generator, tries: int = 10) -> Tensor:
    """(E,) one uniform item a row that its user has no edge with; a user with nearly all items may keep a touched one."""
    drawn = torch.randint(1, n_items + 1, user.shape, generator=generator)
    for _ in range(tries):
        wanted = user * (n_items + 1) + drawn
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        bad = torch.nonzero(keys[place] == wanted).flatten()
        if not len(bad):
            break
        drawn[bad] = torch.randint(1, n_items + 1, bad.shape, generator=generator)
    return drawn
