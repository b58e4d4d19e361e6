"""HEM: users, items, queries and words in one space; users and items generate words (Ai et al., SIGIR 2017)."""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from bench.ranker.blocks.product_search import ProductSearch, ProductSearchConfig
from bench.ranker.blocks.word_bags import WordDraws, user_words
from bench.ranker.contract import Batch, Context, Field, TrainData
from bench.ranker.registry import register


class HEMConfig(ProductSearchConfig):
    """The family's settings and the weight of the query; published: dim 100 to 400, SGD .5 with linear decay, L2 .005."""

    query_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """lambda, which multiplies the QUERY: 1 ignores the user, 0 ignores the query."""


@register("hem", title="HEM", tasks=("search",), group="search", cite="Ai et al., SIGIR 2017")
class HEM(ProductSearch):
    """M = lambda phi(q) + (1 - lambda) G[u], s = <M, E[i]> + b_i (eq. 8); the user vector knows no time and no history.

    Loss: the search term on M, and two language models of equal weight: E[i] predicts words of the item's text and G[u]
    words that the user wrote in training reviews (eq. 5). Where a data set has no reviews, a user's words are those of
    the text of the items that the user clicked in training, and the record says so.

    Deviations: a step draws `text_words` words of its items and users, and of as many drawn ones, instead of one example
    per word of a review; frequent words are not sub-sampled; user vectors start at zero as published, item vectors do
    not, so that no two scores tie before training.
    """

    Config = HEMConfig
    uses_user: ClassVar[bool] = True
    search_space: ClassVar[dict[str, Any]] = ProductSearch.search_space | {
        "query_weight": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    }

    def __init__(self, config: HEMConfig, context: Context):
        super().__init__(config, context)
        self.users = nn.Embedding(self.catalog.n_users + 1, config.dim)
        nn.init.zeros_(self.users.weight)
        self._written = ""

    def precompute(self, train: TrainData) -> None:
        """Gather the words of items and users from the training side."""
        super().precompute(train)
        lists, self._written = user_words(self.catalog, train, self.config.words)
        self.user_draws = WordDraws(lists).to(self.context.device)

    def evidence(self) -> dict[str, Any]:
        """Where the words of items and users come from."""
        return super().evidence() | {"words of users": self._written}

    def intent(self, batch: Batch) -> Tensor:
        """(B, d) query and user, weighted."""
        weight = self.config.query_weight
        return weight * self.query_encoder(batch.query) + (1 - weight) * self.users(batch.user)

    def text_loss(self, batch: Batch) -> Tensor:
        """Items predict words of their text, users words of their own: those of the rows and as many drawn ones."""
        users = torch.cat([batch.user, self.user_draws.owners(len(batch))])  # (2B,)
        words, real = self.user_draws(users, self.config.text_words)
        return super().text_loss(batch) + self.contrast_words(self.users(users), words, real)

    def squares(self, batch: Batch) -> Tensor:
        """As the family's, with the rows of the users."""
        return super().squares(batch) + self.users(batch.user).square().sum()
