"""RecBole's classes: which can be bridged, what is peculiar to each, and how they are built and asked."""

import importlib
import pkgutil
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import RunError, unknown
from bench.foreign import unchanged_process
from bench.ranker.blocks.dropout import Dropout

_INSTALL = "pip install --no-deps recbole==1.2.1 && pip install 'bench[recbole]'"
_PACKAGES = ("recbole.model.sequential_recommender", "recbole.model.general_recommender")
# They read internals of scipy.
_GRAPHS = ("LightGCN", "NGCF")
# They project the states of all clicks and keep the last one.
_LAST_ONLY = ("GRU4Rec",)
# Classes that only work with more than clicks or with a procedure of their own.
_REFUSED = {
    "ADMMSLIM": "two calls for the same rows differ in their last digits",
    "FDSA": "it needs attributes of items as RecBole features",
    "FEARec": "its augmentation searches the whole table of interactions for every row",
    "GCMC": "it is built with internals of scipy that are gone",
    "GRU4RecCPR": "its ranking asks for the clicked item",
    "GRU4RecF": "it needs attributes of items as RecBole features",
    "GRU4RecKG": "it needs pretrained embeddings of a knowledge graph",
    "KSR": "it needs pretrained embeddings of a knowledge graph",
    "LDiffRec": "it needs pretrained embeddings of items",
    "LINE": "its loss draws from generators that no seed of a run reaches",
    "NCL": "RecBole trains it with a procedure of its own",
    "RaCT": "RecBole trains it with a procedure of its own",
    "RecVAE": "RecBole trains it with a procedure of its own",
    "Random": "it gives other scores at every call; chance level is known in closed form",
    "S3Rec": "it needs attributes of items, and RecBole trains it with a procedure of its own",
    "SASRecCPR": "its ranking asks for the clicked item",
    "SASRecF": "it needs attributes of items as RecBole features",
    "SHAN": "its training and its full ranking read different sequences",
    "SGL": "it draws its graphs from generators that no seed of a run reaches",
    "SpectralCF": "it is built with internals of scipy that are gone",
}
# Score = forward(history) . item_embedding: the candidates' rows are enough, no ranking of all items is computed.
DOT = frozenset({"SASRec", "GRU4Rec"})
# Classes whose predict ends in `self.sigmoid`, which is left out: rankings need logits.
SIGMOID = frozenset({"DIN", "DIEN", "NeuMF", "DMF"})
# Autoencoders and the like: the loss reads users, each once.
BY_USER = frozenset({"CDAE", "DiffRec", "ENMF", "MacridVAE", "MultiDAE", "MultiVAE"})
# Sequential classes whose score depends on the user's id.
PERSONAL = frozenset({"Caser", "DIEN", "FOSSIL", "FPMC", "HGN", "HRM", "NPE", "TransRec"})
IMPERSONAL = frozenset({"Pop"})
# Solved in closed form, although RecBole does not class it with those models.
COUNTING = frozenset({"NCEPLRec"})
# What the conformance battery finds in the networks themselves.
EXEMPT = {
    "BERT4Rec": {
        "overfit": "RecBole drops the oldest click of every history in scoring, so histories of one click look alike"
    },
    "DIN": {
        "gradients:net.embedding_layer.token_embedding_table.user.embedding.weight": (
            "RecBole's DIN makes a table of user embeddings and never reads it"
        )
    },
}


def model_class(name: str) -> type:
    """RecBole's class of a sequential or general model.

    Importing them all turns on torch's anomaly detection (SINE's module does), which makes training twice as slow:
    what the import does to the process is put back.

    Raises:
        RunError: RecBole or a package that it imports is missing, or the model needs what the bridge cannot give.
        UsageError: there is no such class.
    """
    known = known_classes()
    if name not in known:
        raise unknown("RecBole model", name, set(known) - set(_REFUSED))
    if name in _REFUSED:
        raise RunError(f"recbole:{name} cannot be bridged: {_REFUSED[name]}")
    return known[name]


@cache
def known_classes() -> dict[str, type]:
    """RecBole's sequential and general models by name, refused ones included.

    Raises:
        RunError: RecBole or a package that it imports is missing.
    """
    known: dict[str, type] = {}
    try:
        with unchanged_process():
            from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender

            for package in map(importlib.import_module, _PACKAGES):
                for module in pkgutil.iter_modules(package.__path__):
                    path = f"{package.__name__}.{module.name}"
                    for found in vars(importlib.import_module(path)).values():
                        own = isinstance(found, type) and found.__module__ == path
                        if own and issubclass(found, (GeneralRecommender, SequentialRecommender)):
                            known[found.__name__] = found
    except ImportError as error:
        missing = getattr(error, "name", None) or "recbole"
        raise RunError(f"RecBole's models need the package {missing}, which is not installed: {_INSTALL}") from error
    return known


def listing() -> list[dict[str, str]]:
    """What there is of RecBole's sequential and general classes, by name: kind, and why it is refused ("" if it is not).

    Raises:
        RunError: RecBole or a package that it imports is missing.
    """
    return [
        {
            "name": f"recbole:{name}",
            "kind": "sequential" if is_sequential(cls) else "general",
            "refused": _REFUSED.get(name, ""),
        }
        for name, cls in sorted(known_classes().items())
    ]


def is_sequential(cls: type) -> bool:
    """Whether a class reads sequences of clicks."""
    from recbole.model.abstract_recommender import SequentialRecommender

    return issubclass(cls, SequentialRecommender)


def repaired(cls: type) -> type:
    """The class, repaired where current libraries broke it (`_GRAPHS`), without work that no result needs (`_LAST_ONLY`)."""
    if cls.__name__ in _GRAPHS:
        made = _with_graph(cls)
    elif cls.__name__ in _LAST_ONLY:
        made = _with_one_projection(cls)
    else:
        return cls
    made.__name__ = cls.__name__
    return made


def _with_graph(cls: Any) -> Any:
    class WithGraph(cls):
        def get_norm_adj_mat(self) -> Tensor:
            """D^(-1/2) A D^(-1/2) of the graph of users and items, 1e-7 added to the degrees as in RecBole."""
            user = torch.as_tensor(self.interaction_matrix.row, dtype=torch.long)
            item = torch.as_tensor(self.interaction_matrix.col, dtype=torch.long) + self.n_users
            places = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
            size = self.n_users + self.n_items
            scale = (torch.bincount(places[0], minlength=size).double() + 1e-7).rsqrt()
            values = (scale[places[0]] * scale[places[1]]).float()
            return torch.sparse_coo_tensor(places, values, (size, size)).coalesce()

    return WithGraph


def _with_one_projection(cls: Any) -> Any:
    class WithOneProjection(cls):
        def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
            """(B, L) item ids and (B,) lengths -> (B, d): the projected state at the last click."""
            states, _ = self.gru_layers(self.emb_dropout(self.item_embedding(item_seq)))  # (B, L, hidden)
            return self.dense(self.gather_indexes(states, item_seq_len - 1))

    return WithOneProjection


def lighten(net: nn.Module) -> None:
    """Dropout of the same distribution at a fraction of the time on a CPU, in place."""
    for module in net.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which RecBole's constructors draw from; they are put back, with all else they touch."""
    with unchanged_process():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield


@contextmanager
def logits(net: nn.Module, applies: bool) -> Iterator[None]:
    """Within it the network's last sigmoid does nothing: probabilities near 1 would tie in float32."""
    if applies:
        squash, net.sigmoid = net.sigmoid, nn.Identity()
    try:
        yield
    finally:
        if applies:
            net.sigmoid = squash
