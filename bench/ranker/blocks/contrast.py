"""Contrastive losses: two views of users, two augmentations of sequences, queries with the items clicked in them.

Where a learnt similarity is used it is tanh-bilinear with a learnable temperature (SESRec, SIGIR 2023; UniSAR, SIGIR
2024), else the cosine over a fixed temperature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.batch import Batch
from bench.ranker.blocks.embeddings import Table
from bench.ranker.blocks.rows import rows_of


def user_contrast(left: Tensor, right: Tensor, user: Tensor, temperature: float) -> Tensor:
    """InfoNCE over users (GenSR, eq. 10): a user's two views against the views of the other users of the batch.

    Rows of the same user are no negatives of each other. Rows with a zero vector in either view (no history) are left
    out.

    Args:
        left: (B, d) one view of each row's user.
        right: (B, d) the other view.
        user: (B,) user ids.
        temperature: divisor of the cosine similarity.

    Returns:
        scalar, the mean of both directions; 0 where no row is left.
    """
    kept = (left.abs().sum(1) > 0) & (right.abs().sum(1) > 0)
    left, right, user = F.normalize(left[kept], dim=1), F.normalize(right[kept], dim=1), user[kept]  # (n, d), (n,)
    if not len(user):
        return left.sum() * 0
    same = (user[:, None] == user) & ~torch.eye(len(user), dtype=torch.bool, device=user.device)  # (n, n)
    similarity = (left @ right.T / temperature).masked_fill(same, -torch.inf)  # (n, n)
    target = torch.arange(len(user), device=user.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def view_contrast(first: Tensor, second: Tensor, user: Tensor, temperature: float) -> Tensor:
    """NT-Xent over two augmented views (SimCLR, Chen et al., ICML 2020, eq. 1): the partner against the 2B - 2 others.

    Other rows of the same user are masked: they are false negatives. Equal vectors everywhere give ln(2B - 1).

    Args:
        first: (B, d) projection of one view of each row.
        second: (B, d) projection of the other view.
        user: (B,) user ids.
        temperature: divisor of the cosine similarity.

    Returns:
        scalar, the mean over the 2B vectors; 0 for a batch without rows.
    """
    rows = len(user)
    if not rows:
        return first.sum() * 0
    z = F.normalize(torch.cat([first, second]), dim=1)  # (2B, d)
    owner = torch.cat([user, user])  # (2B,)
    partner = torch.arange(2 * rows, device=z.device).roll(rows)  # (2B,)
    allowed = (owner[:, None] != owner).scatter(1, partner[:, None], True)  # (2B, 2B)
    return F.cross_entropy((z @ z.T / temperature).masked_fill(~allowed, -torch.inf), partner)


class BilinearSimilarity(nn.Module):
    """tanh(a W b^T) / t with a learnable matrix W and temperature t."""

    def __init__(self, d: int, temperature: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        nn.init.xavier_normal_(self.weight)

    def project(self, a: Tensor) -> Tensor:
        """The product a W, so that several similarities of the same vectors share the product: (..., d) -> (..., d)."""
        return a @ self.weight

    def matrix(self, projected: Tensor, b: Tensor) -> Tensor:
        """All pairs: `projected` (n, d), `b` (m, d) -> (n, m)."""
        return torch.tanh(projected @ b.T) / self.temperature

    def paired(self, projected: Tensor, b: Tensor) -> Tensor:
        """Row by row: (n, d), (n, d) -> (n,)."""
        return torch.tanh((projected * b).sum(-1)) / self.temperature


class TransitionContrast(BilinearSimilarity):
    """Alignment of two views of the same users (UniSAR, sec. 4.3): InfoNCE among the 2n vectors of a batch."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean loss of `a`, `b` (n, d): the partner against the other 2n - 2 vectors. Zero for n < 2: no negatives."""
        n = len(a)
        if n < 2:
            return a.new_zeros(())
        z = torch.cat([a, b])  # (2n, d)
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        similarity = self.matrix(self.project(z), z).masked_fill(itself, -torch.inf)  # (2n, 2n)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(similarity, partner)


class PairContrast(BilinearSimilarity):
    """Alignment of queries with the items clicked in them, against sampled items and queries (SESRec, UniSAR).

    The negatives' part of the partition function belongs to a query (or an item), not to a pair, so it is computed once
    for each of them however many pairs share it.
    """

    def forward(
        self,
        queries: Tensor,
        items: Tensor,
        query_of: Tensor,
        item_of: Tensor,
        negative_queries: Tensor,
        negative_items: Tensor,
    ) -> Tensor:
        """Loss of each of P pairs, the mean of its two directions: (P,).

        `queries` (n, d) and `items` (m, d) are distinct ones; pair p is row `query_of[p]` of the first with row
        `item_of[p]` of the second. Negatives (M, d) each.
        """
        left, right = self.project(queries), self.project(items)  # (n, d), (m, d)
        items_instead = rows_of(self.matrix(left, negative_items).logsumexp(1), query_of)  # (P,)
        queries_instead = rows_of(self.matrix(right, negative_queries).logsumexp(1), item_of)  # (P,)
        by_query = self.paired(rows_of(left, query_of), rows_of(items, item_of))  # (P,)
        by_item = self.paired(rows_of(right, item_of), rows_of(queries, query_of))  # (P,)
        loss = torch.logaddexp(by_query, items_instead) - by_query + torch.logaddexp(by_item, queries_instead) - by_item
        return loss / 2

    def of_histories(
        self, batch: Batch, query_table: Table, item_table: Table, negatives: int, tasks: int
    ) -> list[Tensor]:
        """For each task code the mean loss over the (query, clicked item) pairs in the histories of its rows.

        Equal pairs have equal losses: each is computed once and counts as often as it occurs.

        Args:
            batch: rows with their past searches.
            query_table: embeds queries.
            item_table: embeds items.
            negatives: number of distinct queries and of distinct items that are drawn from the global generator.
            tasks: number of task codes.

        Returns:
            a scalar per task; 0 for a task without pairs.
        """
        real = batch.search_click_mask & (batch.search_query > 0)[..., None]  # (B, Ls, Cs)
        base = item_table.rows
        keys, inverse = (batch.search_query[..., None] * base + batch.search_items)[real].unique(return_inverse=True)
        task = batch.task[:, None, None].expand_as(real)[real]  # (occurrences,)
        if not len(keys):
            return [self.weight.new_zeros(()) for _ in range(tasks)]
        queries, query_of = (keys // base).unique(return_inverse=True)
        items, item_of = (keys % base).unique(return_inverse=True)
        other_queries, other_items = (
            torch.randperm(table.rows - 1, device=keys.device)[:negatives] + 1 for table in (query_table, item_table)
        )
        query_vectors = query_table(torch.cat([queries, other_queries])).split([len(queries), len(other_queries)])
        item_vectors = item_table(torch.cat([items, other_items])).split([len(items), len(other_items)])
        losses = self(query_vectors[0], item_vectors[0], query_of, item_of, query_vectors[1], item_vectors[1])  # (P,)
        means = []
        for code in range(tasks):
            count = torch.bincount(inverse[task == code], minlength=len(keys))  # (P,)
            means.append((losses * count).sum() / count.sum().clamp(min=1))
        return means
