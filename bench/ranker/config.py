"""Settings of models: pydantic models with bounds, so that a wrong value is refused before anything is loaded."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, lt=1)]

_LENGTHS = ("epochs", "steps_per_epoch", "max_steps", "patience", "first_check", "check_every", "rounds")


def is_training_length(setting: str) -> bool:
    """Whether a setting is about the length of a training: epochs, steps, patience or rounds, of any stage (`cf_epochs`)."""
    return any(setting == length or setting.endswith(f"_{length}") for length in _LENGTHS)


class Config(BaseModel):
    """Settings of a model; a subclass adds its own fields. Unknown keys and values out of bounds are refused."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class TrainConfig(Config):
    """Settings of a stage of training, part of the config of every model that the Trainer fits.

    A model overrides the defaults. A step is an optimiser step; an epoch is `steps_per_epoch` of them.
    """

    epochs: PositiveInt = 50
    """Most epochs of the stage."""
    steps_per_epoch: NonNegativeInt = 0
    """Steps of an epoch; 0 = one pass over the training stream."""
    max_steps: NonNegativeInt = 0
    """Most steps of all epochs together, 0 = no bound; whole epochs fit into it."""
    batch_size: PositiveInt = 1024
    """Rows of a training batch."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged before a step."""
    negatives: NonNegativeInt = 4
    """Items sampled for each clicked item."""
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    """Distribution of the sampled items: uniform, or proportional to the training clicks."""
    optimizer: Literal["adam", "adamw", "adagrad", "sgd", "row_adagrad"] = "adam"
    """Optimiser of every parameter group that names no other; tables with sparse gradients take the last three."""
    lr: PositiveFloat = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 weight (adam, adagrad, sgd) or decoupled decay (adamw); parameters with sparse gradients bear none."""
    beta1: Fraction = 0.9
    """Decay of the first moment (adam, adamw)."""
    beta2: Fraction = 0.999
    """Decay of the second moment (adam, adamw)."""
    momentum: Fraction = 0.0
    """Momentum (sgd)."""
    clip: NonNegativeFloat = 0.0
    """Bound of the gradient's norm over all parameters of the stage, 0 = none."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up, at most a tenth of the stage."""
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    """How the rate falls from the warm-up to the last step: not at all, to `min_lr`, or as 1 / sqrt(step)."""
    plateau: NonNegativeInt = 0
    """Checks without a better one before the rate falls to a tenth, 0 = never; needs the constant schedule."""
    min_lr: NonNegativeFloat = 1e-6
    """The rate does not fall below this."""
    check_every: NonNegativeInt = 0
    """Steps between two checks of the validation rows, also within an epoch; 0 = a check after each epoch."""
    first_check: PositiveInt = 1
    """First epoch in which a check is made; the end of the stage is always checked."""
    patience: PositiveInt = 5
    """Checks without a better one before the stage stops."""
    amp: Literal["off", "bf16"] = "off"
    """Precision of the matrix products, in training and in scoring: float32, or bfloat16 by autocast."""
    history_rec: PositiveInt = 30
    """Last recommendation clicks in a history."""
    history_search: PositiveInt = 30
    """Last searches in a history."""

    @model_validator(mode="after")
    def _one_way_down(self) -> "TrainConfig":
        if self.plateau and self.schedule != "constant":
            raise ValueError(
                f"plateau = {self.plateau} and schedule = '{self.schedule}' both lower the rate; choose one"
            )
        return self

    def for_stage(self, prefix: str, **fixed: Any) -> "TrainConfig":
        """Training settings of a stage: these, except for the fields named `<prefix>_<setting>`.

        Args:
            prefix: of the config's own fields about the stage, such as "pretrain" for `pretrain_epochs`.
            fixed: settings of the stage that no field is about.

        Returns:
            a plain TrainConfig.
        """
        own = {name: getattr(self, name) for name in TrainConfig.model_fields}
        staged = {name: getattr(self, f"{prefix}_{name}", value) for name, value in own.items()}
        return TrainConfig(**(staged | fixed))
