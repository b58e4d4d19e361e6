"""LightGCN (He et al., SIGIR 2020): propagation over the user-item graph, and its table for other models.

Nodes are the users 0..n_users followed by the items 0..n_items; both rows 0 are padding without an edge. The layer-0
(ego) rows of padding are zero, so its propagated rows are zero as well.
"""

import warnings

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from bench.data.batch import Batch
from bench.data.history import Window
from bench.data.training import TrainData
from bench.errors import RunError
from bench.ranker.blocks.losses import bpr
from bench.ranker.config import Config, TrainConfig
from bench.ranker.context import Context
from bench.ranker.stage import Stage
from bench.ranker.trainer import Trainer


def adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> Tensor:
    """D^(-1/2) A D^(-1/2) of the bipartite graph, (n_users + n_items + 2,) squared, float32 sparse CSR.

    Args:
        users: (E,) users of the edges, from 1.
        items: (E,) their items, from 1; a repeated pair is one edge.
        n_users: the highest user id.
        n_items: the highest item id.
    """
    pairs = _pairs(users, items, n_items)
    left, right = pairs[:, 0], pairs[:, 1] + n_users + 1
    size = n_users + n_items + 2
    rows, columns = np.concatenate([left, right]), np.concatenate([right, left])
    degree = np.bincount(rows, minlength=size).astype(np.float64)
    values = 1 / np.sqrt(degree[rows] * degree[columns])
    matrix = sp.csr_matrix((values.astype(np.float32), (rows, columns)), shape=(size, size))
    matrix.sort_indices()
    # scipy picks 32 bits where the edges fit, with which a product takes two thirds of the time.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr),
            torch.as_tensor(matrix.indices),
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


class GraphTable(nn.Module):
    """The layer-0 rows of LightGCN as parameters, and the propagated rows that score.

    Args:
        n_users: the highest user id.
        n_items: the highest item id.
        dim: width of a row.
        layers: hops of the propagation.
        generator: source of the random start.
    """

    ego: nn.Parameter
    final: Tensor

    def __init__(self, n_users: int, n_items: int, dim: int, layers: int, generator: torch.Generator):
        super().__init__()
        self.n_users, self.n_items, self.layers = n_users, n_items, layers
        self.ego = nn.Parameter(initial(n_users, n_items, dim, generator))  # (nodes, dim)
        # Refreshed from `ego` and the graph whenever the training mode ends, saved with the weights.
        self.register_buffer("final", torch.zeros_like(self.ego))
        self._graph: Tensor | None = None

    def connect(self, train: TrainData, device: torch.device) -> None:
        """Build the graph of the recommendation clicks in training."""
        clicks = train.arrays("rec")
        self._graph = adjacency(clicks["user"], clicks["item"], self.n_users, self.n_items).to(device)

    def train(self, mode: bool = True) -> "GraphTable":
        """As of any module; leaving training mode propagates the rows once for all scores."""
        if not mode and self.training and self._graph is not None:
            with torch.no_grad():
                self.final.copy_(propagate(self._graph, self.ego, self.layers))
        return super().train(mode)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """BPR on propagated rows (`bpr`), and half the squared layer-0 rows of the batch over its size (`squares`)."""
        assert self._graph is not None and batch.item is not None and batch.negatives is not None
        final = propagate(self._graph, self.ego, self.layers)
        positive, negative = batch.item + self.n_users + 1, batch.negatives + self.n_users + 1  # (B,), (B, N)
        nodes = torch.cat([batch.user, positive, negative.flatten()])
        # Indexing with [] would add up gradients in any order on several threads.
        sizes = [len(batch), len(batch), negative.numel()]
        user, clicked, other = final.index_select(0, nodes).split(sizes)
        ranking = bpr((user * clicked).sum(-1), (user[:, None] * other.view(*negative.shape, -1)).sum(-1))
        # Every layer-0 row as often as the batch has it.
        counts = torch.bincount(nodes, minlength=len(self.ego))
        squares = 0.5 * (counts * self.ego.square().sum(1)).sum() / len(batch)
        return ranking, {"bpr": ranking, "squares": squares}

    def score(self, batch: Batch) -> Tensor:
        """Inner products of the propagated rows of user and candidates, (B, K)."""
        return (self.final[batch.user][:, None] * self.final[batch.cand + self.n_users + 1]).sum(-1)

    def tables(self) -> dict[str, Tensor]:
        """`user` (n_users + 1, dim) and `item` (n_items + 1, dim) propagated, `user_ego` and `item_ego` of layer 0."""
        cut, final, ego = self.n_users + 1, self.final, self.ego.detach()
        return {"user": final[:cut], "item": final[cut:], "user_ego": ego[:cut], "item_ego": ego[cut:]}


class TableConfig(Config):
    """Settings of a LightGCN table that another model reads."""

    dim: PositiveInt = 64
    """Width of a row."""
    layers: PositiveInt = 2
    """Hops of the propagation."""
    epochs: PositiveInt = 200
    """Passes over the recommendation clicks."""
    lr: PositiveFloat = 5e-3
    """Learning rate of Adam."""
    decay: NonNegativeFloat = 1e-4
    """Weight of half the squared layer-0 rows of a batch, divided by its size."""
    batch_size: PositiveInt = 2048
    """Clicks of a batch, each with one uniform negative."""


def click_table(context: Context, train: TrainData, config: TableConfig) -> dict[str, Tensor]:
    """The LightGCN table of the recommendation clicks in training, built once for equal settings and seed.

    Args:
        context: of the model that reads the table.
        train: training side of the split; searches are left out.
        config: settings of the table.

    Returns:
        `user` (n_users + 1, dim) and `item` (n_items + 1, dim): the propagated tables, whose inner product is the
        score;
        `user_ego`, `item_ego`: the layer-0 tables. Rows 0 are zero. An item without a click keeps a share of its
        random start in both; its propagated row is that start divided by `layers` + 1.

    Raises:
        RunError: there are no recommendation clicks in training.
    """
    clicks = train.only("rec")
    if not len(clicks):
        raise RunError("a LightGCN table needs recommendation clicks, and the training part has none")

    key = ",".join(f"{name}={value}" for name, value in config.model_dump().items()) + f",seed={context.seed}"

    def build() -> dict[str, Tensor]:
        part, catalog = context.part(f"lightgcn,{key}"), context.catalog
        generator = context.generator("lightgcn")
        table = GraphTable(catalog.n_users, catalog.n_items, config.dim, config.layers, generator)
        table.connect(clicks, part.device)

        def loss(batch: Batch) -> Tensor:
            ranking, parts = table.loss(batch)
            return ranking + config.decay * parts["squares"]

        settings = TrainConfig(epochs=config.epochs, batch_size=config.batch_size, lr=config.lr, negatives=1)
        stage = Stage(
            name="lightgcn",
            config=settings,
            loss=loss,
            stream=lambda data: data.events(settings.batch_size, negatives=1, window=Window(rec=0, search=0, clicks=1)),
            parameters=lambda: [{"params": [table.ego]}],
            select="last",
        )
        Trainer(table, part).fit([stage], clicks, None)
        return {name: value.cpu().clone() for name, value in table.tables().items()}

    return context.cached("lightgcn", key, build)


def _pairs(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """(E, 2) int64 distinct edges in ascending order."""
    keys = np.unique(np.asarray(users).astype(np.int64) * (n_items + 1) + items)
    return np.stack([keys // (n_items + 1), keys % (n_items + 1)], axis=1)
