"""Contrastive alignment losses with a tanh-bilinear similarity and a learnable temperature (InfoNCE)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BilinearSimilarity(nn.Module):
    """tanh(a W b^T) / t with a learnable matrix W and temperature t."""

    def __init__(self, d: int, temperature: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        nn.init.xavier_normal_(self.weight)

    def project(self, a: Tensor) -> Tensor:
        """a W, so that several similarities of the same vectors share the product: (..., d) -> (..., d)."""
        return a @ self.weight

    def matrix(self, projected: Tensor, b: Tensor) -> Tensor:
        """All pairs: `projected` (n, d), `b` (m, d) -> (n, m)."""
        return torch.tanh(projected @ b.T) / self.temperature

    def paired(self, projected: Tensor, b: Tensor) -> Tensor:
        """Row by row: (n, d), (n, d) -> (n,)."""
        return torch.tanh((projected * b).sum(-1)) / self.temperature


class TransAlign(BilinearSimilarity):
    """Alignment of two views of the same users (UniSAR): InfoNCE among the 2n vectors of a batch."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean loss of `a`, `b` (n, d): the partner against the other 2n - 2 vectors. Zero for n < 2: no negatives."""
        n = len(a)
        if n < 2:
            return a.new_zeros(())
        z = torch.cat([a, b])
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        similarity = self.matrix(self.project(z), z).masked_fill(itself, -torch.inf)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(similarity, partner)


class PairAlign(BilinearSimilarity):
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
        left, right = self.project(queries), self.project(items)
        items_instead = self.matrix(left, negative_items).logsumexp(1)[query_of]
        queries_instead = self.matrix(right, negative_queries).logsumexp(1)[item_of]
        by_query = self.paired(left[query_of], items[item_of])
        by_item = self.paired(right[item_of], queries[query_of])
        loss = torch.logaddexp(by_query, items_instead) - by_query + torch.logaddexp(by_item, queries_instead) - by_item
        return loss / 2
