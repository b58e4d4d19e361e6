"""What a model is to the harness: a `Ranker` serves tasks, learns in `fit`, and gives every candidate a score."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.data.history import Window
from bench.data.training import TrainData
from bench.errors import UsageError
from bench.evaluation.long_lists import DotProduct
from bench.ranker.config import Config as BaseConfig
from bench.ranker.context import Context, Validation


class Representation(NamedTuple):
    """What the score of each candidate is computed from.

    Attributes:
        input: (B, K, d), everything that the score depends on.
        hidden: (B, K, h), the last state.
        views: (B, K, v), what the model makes of history and candidate, without the query; `input` where it is None.
    """

    input: Tensor
    hidden: Tensor
    views: Tensor | None = None


class Ranker(ABC):
    """Base of every model.

    A subclass is constructed as `cls(config, context)`. Class attributes declare what the harness may rely on.
    """

    # What `@register` declared; absent on classes that are not registered.
    entry: ClassVar[Any]
    Config: ClassVar[type[BaseConfig]] = BaseConfig
    # What `--budget quick` changes: the length of the training (see `is_training_length`) and the backbone, nothing else. The conformance
    # checks hold a model to it.
    quick: ClassVar[dict[str, Any]] = {}
    # Settings that the authors published for a data set, by its name (`kuaisar`, `amazon-kindle`); both budgets start
    # from them there. The defaults of the config serve every other data set.
    published: ClassVar[dict[str, dict[str, Any]]] = {}
    # For `bench tune`: field name -> list of values, or ("loguniform" | "uniform", low, high).
    search_space: ClassVar[dict[str, Any]] = {}
    # For `bench analyze ablation`: name of a variant -> the settings that take a part of the model away.
    ablations: ClassVar[dict[str, dict[str, Any]]] = {}
    # Which inputs change the score, in every task or in those of a tuple; the conformance checks look at both directions.
    uses_query: ClassVar[bool | tuple[str, ...]] = False
    uses_history: ClassVar[bool | tuple[str, ...]] = True
    uses_user: ClassVar[bool | tuple[str, ...]] = False
    # Conformance checks that do not apply: name of the check -> a sentence that says why.
    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, config: Any, context: Context):
        own = type(self)
        if own.score is Ranker.score and own.score_items is Ranker.score_items and not isinstance(self, DotProduct):
            raise TypeError(
                f"{own.__name__} has no score: it defines score, or encode and score_items, or row_vectors and item_vectors"
            )
        self.config = config
        self.context = context
        self.catalog = context.catalog

    @property
    def window(self) -> Window:
        """How much history the model wants in its batches."""
        return Window()

    @abstractmethod
    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """Learn. Returns facts about the fit for the record (epochs, best epoch, whether it converged)."""

    def score(self, batch: Batch) -> Tensor:
        """Scores of the candidates, float32 (B, K), higher is better; logits rather than probabilities.

        A model defines this, or the two steps `encode` and `score_items`, or, where its score is an inner product,
        `row_vectors(batch)`, float32 (B, d), and `item_vectors()`, float32 (n_items + 1, d) with padding first.
        """
        return self.score_items(self.encode(batch), batch.cand)

    def encode(self, batch: Batch) -> Any:
        """What depends on the rows alone and not on their candidates, computed once for any number of candidates.

        The candidates of the batch may be empty, (B, 0). Here: the row vectors of an inner product, else the batch.
        """
        return self.row_vectors(batch) if isinstance(self, DotProduct) else batch

    def score_items(self, encoded: Any, cand: Tensor) -> Tensor:
        """Scores of candidates (B, K) of rows that `encode` saw, float32 (B, K).

        Here: the inner product, else `score` as a whole.
        """
        if isinstance(self, DotProduct):
            return (encoded[:, None] * self.item_vectors()[cand]).sum(-1)  # (B, K, d) to (B, K)
        return self.score(replace(encoded, cand=cand))

    def represent(self, batch: Batch) -> Representation:
        """The vectors behind the scores of a batch, float32, for `bench analyze`.

        `input` is what describes user, query and candidate, `hidden` the state that the last layer turns into the score.
        Here, for a score that is an inner product: both vectors side by side, and their product by element.

        Raises:
            UsageError: the model has no such vectors.
        """
        if not isinstance(self, DotProduct):
            raise UsageError(f"{self.entry.name} has no representation to analyse; a model defines `represent`")
        items = self.item_vectors()[batch.cand]  # (B, K, d)
        rows = self.row_vectors(batch)[:, None].expand_as(items)
        return Representation(torch.cat([rows, items], -1).float(), (rows * items).float())

    def scoring(self) -> AbstractContextManager:
        """What the harness enters around scoring, such as the precision of the training."""
        return nullcontext()

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record that the config does not say, such as the backbone's name and size."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything learnt, as tensors; `load_state` on a fresh object must give the same scores."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over a state."""
