"""Settings of UnifiedSSR."""

from typing import Literal

from bench.ranker.contract import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TrainConfig,
)


class UnifiedSSRConfig(TrainConfig):
    """The authors' defaults, which they use on all of their data sets."""

    d: PositiveInt = 32
    """Width of products, words, users and states; even."""
    heads: PositiveInt = 4
    """Heads of a layer; they divide `d`."""
    layers: PositiveInt = 2
    """Layers, each with a network of width 2d."""
    dropout: Fraction = 0.5
    """Of what enters the encoder, and in its layers."""
    attention_dropout: Fraction = 0.1
    """Of attention weights."""
    sessions: PositiveInt = 2
    """Windows that a sequence is cut into."""
    session_weight: NonNegativeFloat = 0.1
    """Weight of what tells sessions apart and aligns those of products and queries."""
    edge: PositiveFloat = 1.0
    """Acts within which a window ends; a hard end would give its predictor no gradient."""
    released: bool = False
    """The three faults of the official code: see the model."""
    initial_std: PositiveFloat = 0.02
    """Standard deviation that products, words and users start with; Xavier's, which the authors use, depends on the table."""
    history_rec: PositiveInt = 50
    """Last recommendation clicks."""
    history_search: PositiveInt = 50
    """Last searches."""
    batch_size: PositiveInt = 128
    """Sequences of each task in a batch."""
    lr: PositiveFloat = 2.8e-3
    """The highest rate of the authors' schedule, 1 / sqrt(d * warmup)."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "inverse_sqrt"
    """The authors' schedule (Vaswani et al., 2017)."""
    warmup: NonNegativeInt = 4000
    """Steps of linear warm-up, at most a tenth of the training."""
    beta2: Fraction = 0.98
    """Decay of Adam's second moment."""
    steps_per_epoch: NonNegativeInt = 250
    """A pass over the sequences is short."""
    epochs: PositiveInt = 200
    """Most epochs, 50,000 steps."""
    patience: PositiveInt = 10
    """Checks without a better one before the training stops."""
