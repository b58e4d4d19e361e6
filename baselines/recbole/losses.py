"""Losses of RecBole's sequential networks, with any number of negatives: the loss often decides more than the network."""

from typing import Any

from torch import Tensor

from bench.baselines.recbole.bridge import DotProductRanker
from bench.ranker.blocks.losses import of_products
from bench.ranker.contract import Batch, Stream, TrainData


class DotProductLosses(DotProductRanker):
    """Base of bridged models with a `loss_type`: "CE", "sampled-CE", "BCE" and "BPR" of `bench.ranker.blocks.losses`.

    All are taken at the last click of each training row; all but "CE" read `negatives` sampled items a row. RecBole's own
    cross-entropy also has a class for padding, which no click ever is, and its BPR reads one negative a row, so that the
    network would read a history anew for each of them; `recbole:*` has both as they are.
    """

    def options(self) -> dict[str, Any]:
        """RecBole's own settings; whatever the loss from here, the class is built as for cross-entropy."""
        return super().options() | {"loss_type": "CE"}

    def evidence(self) -> dict[str, Any]:
        """As the bridge's, with the loss that was taken."""
        facts = super().evidence()
        settings = facts["recbole settings"] | {"loss_type": self.config.loss_type}
        return facts | {"recbole settings": settings}

    def stream(self, train: TrainData) -> Stream:
        """Training clicks; negatives are drawn for the losses that read them."""
        config = self.config
        return train.events(
            config.batch_size,
            negatives=0 if config.loss_type == "CE" else max(config.negatives, 1),
            window=self.window,
            sampling=config.negative_sampling,
        )

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of the rows with a history."""
        batch = batch.take(batch.rec_len > 0)
        if not len(batch):
            return self._nothing()
        assert batch.item is not None
        return of_products(
            self.config.loss_type, self.row_vectors(batch), self.item_vectors(), batch.item, batch.negatives
        )
