"""Settings of models: pydantic models with bounds, so that a wrong value is refused before anything is loaded."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, lt=1)]


def is_training_length(setting: str) -> bool:
    """Whether a setting is about the length of a training: epochs of any stage (`cf_epochs`), steps, patience."""
    lengths = ("epochs", "steps_per_epoch", "max_steps", "patience", "first_check")
    return setting in lengths or setting.endswith("_epochs")


class Config(BaseModel):
    """Settings of a model; a subclass adds its own fields. Unknown keys and values out of bounds are refused."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, use_attribute_docstrings=True, protected_namespaces=()
    )


class TrainConfig(Config):
    """Settings of the Trainer, part of the config of every model that it fits; a model overrides the defaults."""

    epochs: PositiveInt = 50
    steps_per_epoch: Annotated[int, Field(ge=0, description="0 = one pass over the training rows")] = 0
    max_steps: Annotated[int, Field(ge=0, description="of all epochs together, 0 = no bound; in whole epochs")] = 0
    batch_size: PositiveInt = 1024
    negatives: Annotated[int, Field(ge=0, description="sampled for each clicked item")] = 4
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    clip: Annotated[float, Field(ge=0, description="bound of the gradient norm, 0 = none")] = 0.0
    warmup: Annotated[int, Field(ge=0, description="steps of linear warm-up, at most a tenth of the training")] = 0
    plateau: Annotated[
        int, Field(ge=0, description="epochs without a better one before lr falls to a tenth, 0 = never")
    ] = 0
    min_lr: NonNegativeFloat = 1e-6
    patience: Annotated[int, Field(ge=1, description="epochs without a better validation before stopping")] = 5
    first_check: Annotated[int, Field(ge=1, description="first epoch that is validated")] = 1
    amp: Literal["off", "bf16"] = "off"
    history_rec: PositiveInt = 30
    history_search: PositiveInt = 30
