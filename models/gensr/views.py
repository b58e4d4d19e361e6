"""The two views of a history (eq. 3, 4), their soft filter by a candidate (eq. 5, 6), and the contrast between them."""

import copy
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.gensr.config import GenSRConfig
from bench.ranker.blocks.attention import MultiHeadAttention
from bench.ranker.blocks.contrast import user_contrast
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.pooling import TargetAttention, masked_mean


@dataclass
class Histories:
    """What GenSR keeps of B rows, whatever their candidates; a view that is switched off is None."""

    user: Tensor  # (B,)
    task: Tensor  # (B,)
    query: Tensor  # (B,)
    mask: Tensor  # (B, L) bool, of the CF view
    cf: Tensor | None  # (B, L, cf_dim) encoded
    semantic_mask: Tensor  # (B, M) bool; M items or tokens
    semantic: Tensor | None  # (B, M, width) encoded

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: Tensor) -> "Histories":
        """The rows by their indices."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return Histories(**{name: None if part is None else part[rows] for name, part in parts.items()})


class InterestView(nn.Module):
    """One view: positions and Transformer encoder over a history, then the soft filter by a candidate.

    Args:
        width: of the vectors it reads.
        length: longest history, in what it reads: items or tokens.
        config: the filter, heads, layers, positions and dropout.
    """

    def __init__(self, width: int, length: int, config: GenSRConfig):
        super().__init__()
        # Counted back from the newest click, so that a short history and the end of a long one read alike.
        self.encoder = Encoder(
            width,
            config.heads,
            config.layers,
            config.dropout,
            width,
            positions="learned" if config.positions else "none",
            length=length,
            from_end=True,
        )
        self.filter: MultiHeadAttention | TargetAttention | None = None
        if config.filter == "attention":
            self.filter = MultiHeadAttention(width, config.heads, config.dropout)
        elif config.filter == "bilinear":
            self.filter = TargetAttention(width)
        if config.positions:
            nn.init.normal_(self.encoder.position.weight, std=0.02)

    def pool(self, history: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """The history (B, L, width) as each candidate (B, K, width) sees it: (B, K, width).

        Where it is empty: zero, or under `filter=attention` the bias of the filter's last product.
        """
        if isinstance(self.filter, MultiHeadAttention):
            return self.filter(candidates, history, mask)
        if isinstance(self.filter, TargetAttention):
            return self.filter(history, mask, candidates)
        return masked_mean(history, mask)[:, None].expand(-1, candidates.shape[1], -1)


class Alignment(nn.Module):
    """The contrastive loss between the two views, under either reading.

    Args:
        width: of the vectors.
        config: similarity and temperature.
    """

    def __init__(self, width: int, config: GenSRConfig):
        super().__init__()
        self.temperature, self.of = config.temperature, config.contrast_of
        self.norms: nn.ModuleList | None = None
        if config.similarity == "normed":
            self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, left: Tensor, right: Tensor, user: Tensor) -> Tensor:
        """Scalar loss of (N, width) vectors of the two views with the users (N,) they belong to.

        Under `pooled` every row is a negative of every other, those of the same user too. Rows of users without a
        history have zero vectors and are left out of the cosine.
        """
        if self.of == "pooled":
            user = torch.arange(len(left), device=left.device)
        if self.norms is None:
            return user_contrast(left, right, user, self.temperature)
        # LayerNorm undoes the normalisation before it: every vector gets a norm of about sqrt(width), so that the
        # temperature is in effect divided by `width`.
        left, right = (norm(F.normalize(side, dim=1)) for norm, side in zip(self.norms, (left, right), strict=True))
        same = (user[:, None] == user) & ~torch.eye(len(user), dtype=torch.bool, device=user.device)
        similarity = (left @ right.T / self.temperature).masked_fill(same, -torch.inf)
        target = torch.arange(len(user), device=user.device)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


class IdleWeights(nn.Module):
    """What the release trains in name only: a template of each view's encoder layer, and a table of positions.

    They are part of its parameter count; nothing reads them, so no gradient reaches them.
    """

    def __init__(self, views: list[InterestView], config: GenSRConfig):
        super().__init__()
        self.layers = nn.ModuleList(copy.deepcopy(view.encoder.layers[0]) for view in views)
        self.position = nn.Embedding(config.history, config.cf_dim)
