"""Losses with any number of negatives for RecBole's sequential networks: the loss often decides more than the network."""

from typing import Any

from torch import Tensor

from bench.baselines.recbole.bridge import DotProductRanker
from bench.ranker.blocks.losses import of_products
from bench.ranker.contract import Batch, Stream, TrainData

_OWN = ("sampled-CE", "BCE", "BPR")


class DotProductLosses(DotProductRanker):
    """Base of bridged models with a `loss_type`: RecBole's "CE" as it is, "sampled-CE", "BCE" and "BPR" from here.

    All are taken at the last click of each training row; all but "CE" read `negatives` sampled items a row. RecBole's own BPR
    reads one negative a row, so that the network would read a history anew for each of them; from here it reads it once.
    """

    def options(self) -> dict[str, Any]:
        """RecBole's own settings; a class that is trained by a loss from here is built as for cross-entropy."""
        options = super().options()
        return options | {"loss_type": "CE"} if self._own else options

    def stream(self, train: TrainData) -> Stream:
        """Training clicks; negatives are drawn for the losses that read them."""
        if not self._own:
            return super().stream(train)
        config = self.config
        return train.events(
            config.batch_size,
            negatives=max(config.negatives, 1),
            window=self.window,
            sampling=config.negative_sampling,
        )

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The loss of the rows with a history."""
        if not self._own:
            return super().loss(batch)
        batch = batch.take(batch.rec_len > 0)
        if not len(batch):
            return self._nothing()
        assert batch.item is not None
        return of_products(
            self.config.loss_type, self.row_vectors(batch), self.item_vectors(), batch.item, batch.negatives
        )

    @property
    def _own(self) -> bool:
        return self.config.loss_type in _OWN
