"""Settings of UniSAR."""

from bench.ranker.contract import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TrainConfig,
)


class UniSARConfig(TrainConfig):
    """Settings for data sets that the authors did not tune: those of KuaiSAR, with smaller batches and a bounded gradient.

    What they published for KuaiSAR and Amazon is in `UniSAR.published`.
    """

    batch_size: PositiveInt = 256
    # Deviation: the first gradient of the transitions is a hundred times that of later steps. Unbounded, it stays in
    # Adam's second moment for a thousand steps.
    clip: NonNegativeFloat = 1.0
    plateau: NonNegativeInt = 3
    weight_decay: NonNegativeFloat = 3e-5
    embedding: PositiveInt = 32
    """Width of the id, feature and word tables."""
    d: PositiveInt = 64
    heads: PositiveInt = 2
    layers: PositiveInt = 1
    dropout: Fraction = 0.1
    experts: PositiveInt = 4
    """Shared experts, and as many of each task."""
    item_text: bool = False
    """The words of an item are one of its features."""
    pooling_std: NonNegativeFloat = 0.0
    """Standard deviation that the matrices of the target attention start with; 0 = Xavier's for d x d, .125 at d = 64."""
    pair_weight: NonNegativeFloat = 0.001
    """Weight of the alignment of queries with clicked items."""
    pair_temperature: PositiveFloat = 0.5
    """Start of that alignment's learnable temperature."""
    pair_negatives: PositiveInt = 1024
    """Sampled queries, and sampled items, of that alignment."""
    transition_weight: NonNegativeFloat = 0.1
    """Weight of the alignment of transitions."""
    transition_temperature: PositiveFloat = 0.1
    """Start of that alignment's learnable temperature."""
    search_weight: PositiveFloat = 0.1
    """Weight of the search loss beside the rec loss."""
    released: bool = False
    """Carry the layers that the official code registers and never uses: they count as parameters and change no score."""


# What the official code sets for both of its data sets, and for KuaiSAR.
OFFICIAL = {"epochs": 100, "batch_size": 1024, "clip": 0.0, "pooling_std": 0.022}


KUAISAR = OFFICIAL | {
    "item_text": True,
    "weight_decay": 3e-5,
    "pair_weight": 0.001,
    "pair_temperature": 0.5,
    "transition_weight": 0.1,
    "search_weight": 0.1,
}
