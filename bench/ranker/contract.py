"""Everything that a model's file imports, in one place.

A model is a `Ranker`: it serves tasks, learns in `fit`, and gives every candidate of a batch a score. Most models are
`TorchRanker`s: they define `loss(batch)` and `score(batch)`, or the stages of their training, and the Trainer fits
them. A model sees tensors and the `Context`; it never sees files, MLflow, Ray or the command line.
"""

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bench.data.batch import Batch, SequenceBatch
from bench.data.history import Window
from bench.data.streams import Stream
from bench.data.training import TrainData
from bench.ranker.config import Config, Fraction, TrainConfig
from bench.ranker.context import Backbone, Context, Validation
from bench.ranker.ranker import Ranker, Representation
from bench.ranker.stage import Check, Stage
from bench.ranker.torch_ranker import TorchRanker

__all__ = [
    "Backbone",
    "Batch",
    "Check",
    "Config",
    "Context",
    "Field",
    "Fraction",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Ranker",
    "Representation",
    "SequenceBatch",
    "Stage",
    "Stream",
    "TorchRanker",
    "TrainConfig",
    "TrainData",
    "Validation",
    "Window",
]
