"""Multi-task mixtures of experts."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.dropout import Dropout


class CustomizedGateControl(nn.Module):
    """CGC: shared experts and experts of each task, mixed by a gate of the task (Tang et al., RecSys 2020).

    It is PLE with one level; there the gate of the shared experts has no use, so it does not exist here.
    """

    def __init__(self, inputs: int, d: int, tasks: int, shared: int, specific: int, dropout: float):
        super().__init__()
        self.d, self.mixed, self.dropout = d, shared + specific, Dropout(dropout)
        # The experts of a group lie side by side in one matrix: one product serves them all.
        self.shared = nn.Linear(inputs, shared * d)
        self.specific = nn.ModuleList(nn.Linear(inputs, specific * d) for _ in range(tasks))
        self.gates = nn.ModuleList(nn.Linear(inputs, shared + specific) for _ in range(tasks))

    def initialise(self) -> None:
        """Xavier-normal weights for each expert and gate by itself, biases zero."""
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                for block in [value] if name.startswith("gates") else value.split(self.d):
                    nn.init.xavier_normal_(block)

    def forward(self, x: Tensor, context: Tensor, task: int) -> Tensor:
        """Output of one task for K candidates a row: `x` (n, K, a) and `context` (n, c), a + c = inputs -> (n, K, d).

        Equal to giving each candidate the concatenation of both; what candidates share is multiplied once.
        """
        parts = (self.specific[task], self.shared, self.gates[task])
        weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
        own = x.shape[-1]
        hidden = F.linear(x, weight[:, :own]) + F.linear(context, weight[:, own:], bias)[:, None]
        experts, gate = hidden.split([self.mixed * self.d, self.mixed], -1)
        experts = self.dropout(F.relu(experts)).unflatten(-1, (-1, self.d))
        return (gate.softmax(-1)[..., None, :] @ experts).squeeze(-2)


def mlp(widths: list[int], dropout: float, last: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU and dropout between them, and after the last one where `last` is True."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if last or place < len(widths) - 2:
            layers += [nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers)
