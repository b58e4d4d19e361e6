"""Sound little models and twins of them, each broken in one way that has spoilt published numbers.

They prove the conformance checks: the sound ones pass, and each twin fails at the check made for its fault.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.batch import Batch
from bench.ranker.contract import Context, PositiveInt, Stage, TorchRanker, TrainConfig, TrainData
from bench.ranker.registry import register


class TwinConfig(TrainConfig):
    d: PositiveInt = 16
    lr: float = 1e-2


def _registered(name: str):
    return register(name, title=name, tasks=("rec", "search"), group="unified")


@_registered("sound")
class Sound(TorchRanker):
    """Dot product of a candidate with the mean of the past, the user and, in searches, the query."""

    Config = TwinConfig
    uses_query = True
    uses_history = True
    uses_user = True
    search_space: ClassVar[dict[str, Any]] = {"d": [8, 16, 32], "lr": ("loguniform", 1e-3, 1e-1)}

    def __init__(self, config: TwinConfig, context: Context):
        super().__init__(config, context)
        self.items = nn.Embedding(self.catalog.n_items + 1, config.d)
        self.queries = nn.Embedding(self.catalog.n_queries + 1, config.d)
        self.users = nn.Embedding(self.catalog.n_users + 1, config.d)
        self.out = nn.Linear(config.d, config.d)

    def past(self, batch: Batch) -> Tensor:
        """(B, d) mean of the clicked items of the past, 0 where there is none."""
        mask = batch.rec_mask[..., None]
        return (self.items(batch.rec_items) * mask).sum(1) / mask.sum(1).clamp(min=1)

    def wish(self, batch: Batch) -> Tensor:
        searched = (batch.task == 1)[:, None] * self.queries(batch.query)
        return self.out(self.past(batch) + self.users(batch.user) + searched)

    def score(self, batch: Batch) -> Tensor:
        return (self.wish(batch)[:, None] * self.items(batch.cand)).sum(-1)

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self.score(batch), batch.label)


@_registered("reads-positive")
class ReadsPositive(Sound):
    """Lifts the clicked item where the batch happens to carry it."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training or batch.item is None else scores + 1.0 * (batch.cand == batch.item[:, None])


@_registered("peeks-at-rows")
class PeeksAtRows(Sound):
    """Centres on the mean of the batch: batch normalisation with the statistics of the moment."""

    def wish(self, batch: Batch) -> Tensor:
        wish = super().wish(batch)
        return wish - wish.mean(0)


@_registered("dropout-on")
class DropoutOn(Sound):
    """Functional dropout that forgets to ask whether the model is training."""

    def past(self, batch: Batch) -> Tensor:
        return F.dropout(super().past(batch), 0.3, training=True)


@_registered("not-finite")
class NotFinite(Sound):
    """Divides by the length of the past, which may be 0."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else scores * (batch.rec_len / batch.rec_len)[:, None]


@_registered("wrong-shape")
class WrongShape(Sound):
    """Answers with the best candidate's score only."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else scores.amax(1, keepdim=True)


@_registered("half-precision")
class HalfPrecision(Sound):
    """Float16 probabilities instead of float32 logits: ties at both ends."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else torch.sigmoid(scores).half()


@_registered("ignores-query")
class IgnoresQuery(Sound):
    """Declares uses_query; the query's place in the input always holds the same entry."""

    def wish(self, batch: Batch) -> Tensor:
        return super().wish(replace(batch, query=torch.ones_like(batch.query)))


@_registered("reads-padding")
class ReadsPadding(Sound):
    """Averages over all slots of the past, and trusts that padding is the zero vector."""

    def past(self, batch: Batch) -> Tensor:
        return (self.items(batch.rec_items) * (batch.rec_items > 0)[..., None]).mean(1)


@_registered("loss-reads-padding")
class LossReadsPadding(Sound):
    """Keeps the vectors of the past small, those in padding slots among them."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + 0.1 * self.items(batch.rec_items).square().mean()


@_registered("position-bonus")
class PositionBonus(Sound):
    """Prefers early columns, as generated answers do."""

    def score(self, batch: Batch) -> Tensor:
        scores = super().score(batch)
        return scores if self.training else scores - 0.1 * torch.arange(scores.shape[1])


@_registered("dead-parameter")
class DeadParameter(Sound):
    """Has a layer that the loss never reaches."""

    def __init__(self, config: TwinConfig, context: Context):
        super().__init__(config, context)
        self.gate = nn.Linear(config.d, config.d)

    def past(self, batch: Batch) -> Tensor:
        past = super().past(batch)
        return past + self.gate(past).detach()


@_registered("forgets-on-resume")
class ForgetsOnResume(Sound):
    """Sharpens its scores with every step, by a number that no checkpoint holds."""

    steps = 0

    def loss(self, batch: Batch) -> Tensor:
        self.steps += 1
        return F.cross_entropy(self.score(batch) * (1 + 0.1 * self.steps), batch.label)


@_registered("one-task-missing")
class OneTaskMissing(Sound):
    """Weighs the tasks by their share of all tasks, and divides by the share of searches."""

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) / ("search" in self.context.tasks)


@_registered("user-in-search")
class UserInSearch(Sound):
    """Says that the user counts in recommendation alone, and reads him in searches as well."""

    uses_user = ("rec",)


@_registered("sound-in-two-stages")
class TwoStages(Sound):
    """Item vectors first, by the user alone; then the rest."""

    def __init__(self, config: TwinConfig, context: Context):
        super().__init__(config, context)
        self.register_buffer("popular", torch.zeros(self.catalog.n_items + 1))

    def item_loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy((self.users(batch.user)[:, None] * self.items(batch.cand)).sum(-1), batch.label)

    def stages(self, train: TrainData) -> list[Stage]:
        items = [{"params": [*self.items.parameters(), *self.users.parameters()]}]
        rest = [{"params": [*self.queries.parameters(), *self.out.parameters(), *self.items.parameters()]}]
        first = Stage("items", self.config, self.item_loss, self.stream, lambda: items, finish=self.remember)
        return [first, Stage("fit", self.config, self.loss, self.stream, lambda: rest)]

    def remember(self) -> None:
        """Between the stages: the lengths of the item vectors as they are now."""
        self.popular.copy_(self.items.weight.detach().norm(dim=1))

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + 0.1 * self.popular[batch.cand]


@_registered("forgets-between-stages")
class ForgetsBetweenStages(TwoStages):
    """What the first stage leaves to the second is no buffer, so a fit that resumes in the second has lost it."""

    def __init__(self, config: TwinConfig, context: Context):
        super().__init__(config, context)
        del self.popular
        self.popular = torch.zeros(self.catalog.n_items + 1)


@_registered("stage-without-a-parameter")
class StageWithoutAParameter(TwoStages):
    """No stage trains the queries."""

    def stages(self, train: TrainData) -> list[Stage]:
        first, last = super().stages(train)
        parameters = [*self.out.parameters(), *self.items.parameters()]
        return [first, replace(last, parameters=lambda: [{"params": parameters}])]


# Twin -> the check made for its fault, and the others that see a consequence of it.
TWINS: dict[type[TorchRanker], tuple[str, set[str]]] = {
    ReadsPositive: ("hidden_positive", set()),
    PeeksAtRows: ("other_rows", {"single_row", "query"}),
    DropoutOn: ("deterministic", {"candidate_subset", "single_row", "other_rows"}),
    NotFinite: ("finite", set()),
    WrongShape: ("shape", {"overfit", "column_order", "candidate_subset", "padding"}),
    HalfPrecision: ("dtype", set()),
    IgnoresQuery: ("query", set()),
    ReadsPadding: ("padding", set()),
    LossReadsPadding: ("padding", set()),
    PositionBonus: ("column_order", {"candidate_subset"}),
    DeadParameter: ("gradients", set()),
    ForgetsOnResume: ("resume", {"padding"}),
    OneTaskMissing: ("rec_alone", set()),
    UserInSearch: ("user", set()),
    ForgetsBetweenStages: ("resume", {"state"}),
    StageWithoutAParameter: ("gradients", set()),
}
