"""Settings of IDGenRec."""

from typing import Literal

from bench.ranker.contract import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, TrainConfig


class IDGenRecConfig(TrainConfig):
    """The authors' settings: 3 rounds of 1 generator epoch (1e-8, batches of 12) and 10 recommender epochs (1e-3, 64)."""

    backbone: str = "auto"
    """The language model of the recommender: `auto`, `small-t5`, a name of the hub, or a folder."""
    generator: str = ""
    """The language model that writes names, with the same words; empty = the backbone's weights once more."""
    rounds: PositiveInt = 3
    """Rounds of a generator and a recommender stage."""
    names: Literal["generated", "random"] = "generated"
    """Where names come from: the generator, or words that are drawn at random (for comparison; trains no generator)."""
    user_names: bool = True
    """Whether users have names, written from the names of their training clicks."""
    id_tokens: PositiveInt = 10
    """Tokens of a name at most, the end token among them; longer where no shorter one is distinct."""
    beams: PositiveInt = 10
    """Groups of the diverse beam search that writes names, of one beam each."""
    text_tokens: PositiveInt = 256
    """First tokens of an item's text, or of a user's clicks, that the generator reads."""
    history_rec: PositiveInt = 20
    """Last clicks in a prompt."""
    decode: Literal["exact", "beam"] = "exact"
    """Score every candidate, or only what a beam search over all names finds; all others tie below."""
    search_beams: PositiveInt = 50
    """Beams of decode = "beam"."""
    copy_epochs: PositiveInt = 10
    """Most epochs of the stage in which small-t5 learns to write words of a text; a pretrained model has none."""
    copy_max_steps: NonNegativeInt = 1500
    """Most steps of that stage, 0 = no bound."""
    copy_lr: PositiveFloat = 3e-3
    """Its learning rate."""
    generator_epochs: PositiveInt = 1
    """Epochs of a generator stage."""
    generator_max_steps: NonNegativeInt = 0
    """Most steps of a generator stage, 0 = no bound."""
    generator_lr: PositiveFloat = 1e-8
    """Learning rate of a generator stage."""
    generator_batch_size: PositiveInt = 12
    """Clicks of a batch of a generator stage."""
    round_epochs: PositiveInt = 10
    """Epochs of a recommender stage before the last round."""
    round_max_steps: NonNegativeInt = 0
    """Most steps of a recommender stage before the last round, 0 = no bound."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Optimiser of all stages."""
    lr: PositiveFloat = 1e-3
    """Learning rate of a recommender stage."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    warmup: NonNegativeInt = 200
    """Steps of linear warm-up of a stage, at most a tenth of it (theirs: a twentieth of all)."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "linear"
    """How the rate falls after the warm-up."""
    clip: NonNegativeFloat = 1.0
    """Bound of the gradient's norm."""
    batch_size: PositiveInt = 64
    """Clicks of a batch of a recommender stage."""
    epochs: PositiveInt = 10
    """Most epochs of the last recommender stage, which the validation rows may end."""
    negatives: NonNegativeInt = 0
    """None is drawn: the names of all items compete."""
