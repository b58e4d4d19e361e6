"""Windows of a sequence whose place and width are learnt, and what tells them apart."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sessions(nn.Module):
    """Windows of sequences. Window i of n is centred at (i + 1/2 + tanh(dx)) / n, its half-width is relu(tanh(dw)) / n.

    Both are shares of the length; dx and dw come from the mean of the i-th of n equal parts. At first every window is
    the middle half of its part.
    """

    def __init__(self, d: int, n: int, edge: float, hard: bool):
        super().__init__()
        self.n, self.edge, self.hard = n, edge, hard
        self.offset = nn.Linear(d, 2, bias=False)
        self.width = nn.Parameter(torch.tensor(5 / 3).sqrt().log())
        nn.init.zeros_(self.offset.weight)

    def forward(self, states: Tensor, length: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """For each of Q questions the state at a place with what its windows add, in the sequence cut to a length.

        Args:
            states: (B, T, d).
            length: (B or 1, Q or 1) places that the windows lie in.
            place: (B or 1, Q).

        Returns:
            (B, Q, d), and the means of the windows (B, Q or 1, n, d).
        """
        members = self.windows(states, length)  # (B, Q', n, T)
        means = torch.einsum("bqnt,btd->bqnd", members, states) / (members.sum(-1, keepdim=True) + 1e-10)
        rows, questions = len(states), place.shape[1]
        at = place.expand(rows, -1)[:, :, None, None].expand(-1, -1, self.n, 1)  # (B, Q, n, 1)
        own = members.expand(-1, questions, -1, -1).gather(3, at)  # (B, Q, n, 1)
        state = pick(states, place.expand(rows, -1))  # (B, Q, d)
        if self.hard:
            return state * (1 + own.amax(2)), means
        return state + (own * means).sum(2), means

    def windows(self, states: Tensor, length: Tensor) -> Tensor:
        """(B, Q, n, T) how much each place belongs to each window, from 0 to 1."""
        length = length[:, :, None, None]  # (B or 1, Q, 1, 1)
        number = torch.arange(self.n, device=states.device)[:, None]  # (n, 1)
        place = torch.arange(states.shape[1], device=states.device)  # (T,)
        begin, end = number * length // self.n, -(-(number + 1) * length // self.n)
        part = ((place >= begin) & (place < end)).to(states.dtype)  # (B or 1, Q, n, T)
        part = (part / part.sum(-1, keepdim=True).clamp(min=1)).expand(len(states), -1, -1, -1)
        dx, dw = self.offset(torch.relu(torch.einsum("bqnt,btd->bqnd", part, states))).unbind(-1)  # (B, Q, n)
        centre = (number[:, 0] + 0.5 + torch.tanh(dx)) / self.n
        half = torch.relu(torch.tanh(dw + self.width)) / self.n
        left, right = (side.clamp(0, 1)[..., None] * length for side in (centre - half, centre + half))
        if self.hard:
            inside = ((left <= place) & (place <= right)).to(states.dtype)
        else:
            middle = place + 0.5
            inside = torch.sigmoid((middle - left) / self.edge) * torch.sigmoid((right - middle) / self.edge)
        return inside * (place < length)


def session_regulariser(means: list[Tensor]) -> Tensor:
    """Mean |cosine| of neighbouring windows, for each branch, minus the mean cosine of windows of the two branches.

    Args:
        means: (B, n, d) of each branch; none gives 0.
    """
    if not means:
        return torch.zeros(())
    total = means[0].sum() * 0
    for each in means:
        if each.shape[1] > 1:
            total = total + F.cosine_similarity(each[:, 1:], each[:, :-1], dim=-1).abs().mean()
    if len(means) > 1:
        total = total - F.cosine_similarity(means[0], means[1], dim=-1).mean()
    return total


def pick(states: Tensor, place: Tensor) -> Tensor:
    """(B, T, d) at (B, Q) -> (B, Q, d)."""
    return states.gather(1, place[..., None].expand(-1, -1, states.shape[2]))
