"""What RecBole's model classes read besides a batch: settings, and a data set; without its Config and Dataset.

RecBole's own Config fails on numpy 2, evaluates strings and reads the process's command line; its Dataset copies the
data. The constructors only index a mapping and ask a handful of questions about the data, which these classes answer.
"""

import importlib
import pkgutil
import re
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.ragged import Ragged
from bench.errors import RunError, unknown

_INSTALL = "pip install --no-deps recbole==1.2.1 && pip install 'bench[recbole]'"
_PACKAGES = ("recbole.model.sequential_recommender", "recbole.model.general_recommender")
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
# Read by models although the yaml file of the model does not name them.
_UNNAMED = {"require_pow": False}


class Settings(dict):
    """A mapping that gives None for absent keys, as RecBole's Config does."""

    def __missing__(self, key: str) -> None:
        return None

    @property
    def device(self) -> torch.device:
        return self["device"]


@cache
def model_class(name: str) -> type:
    """RecBole's class of a sequential or general model.

    Raises:
        RunError: RecBole or a package that it imports is missing, or the model needs what the bridge cannot give.
        UsageError: there is no such class.
    """
    known: dict[str, type] = {}
    try:
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
        raise RunError(f"RecBole's {name} needs the package {missing}, which is not installed: {_INSTALL}") from error
    if name not in known:
        raise unknown("RecBole model", name, set(known) - set(_REFUSED))
    if name in _REFUSED:
        raise RunError(f"recbole:{name} cannot be bridged: {_REFUSED[name]}")
    return known[name]


def settings(name: str, options: dict[str, Any]) -> Settings:
    """The class's shipped defaults with `options` over them.

    Raises:
        UsageError: an option that the class does not have (RecBole itself would ignore it).
    """
    import recbole
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 reads 1e-12 as a string; RecBole means a number."""

    digits = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", digits, list("-+.0123456789"))
    path = Path(recbole.__file__).parent / "properties" / "model" / f"{name}.yaml"
    shipped = (yaml.load(path.read_text(encoding="utf-8"), Loader) if path.exists() else {}) or {}
    known = {**_UNNAMED, **shipped}
    for key in options:
        if key not in known:
            raise unknown(f"option of recbole:{name}", key, known)
    return Settings(known | options)


def mended(cls: type) -> type:
    """The class with what current libraries broke put right: LightGCN and NGCF used internals of scipy."""
    if cls.__name__ not in ("LightGCN", "NGCF"):
        return cls

    class Mended(cls):
        def get_norm_adj_mat(self) -> Tensor:
            """D^(-1/2) A D^(-1/2) of the graph of users and items, 1e-7 added to the degrees as in RecBole."""
            user = torch.as_tensor(self.interaction_matrix.row, dtype=torch.long)
            item = torch.as_tensor(self.interaction_matrix.col, dtype=torch.long) + self.n_users
            places = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
            size = self.n_users + self.n_items
            scale = (torch.bincount(places[0], minlength=size).double() + 1e-7).rsqrt()
            values = (scale[places[0]] * scale[places[1]]).float()
            return torch.sparse_coo_tensor(places, values, (size, size)).coalesce()

    Mended.__name__ = cls.__name__
    return Mended


class Data:
    """Answers the questions that model constructors ask about the data.

    Args:
        events: (3, n) int64 user, item, time (ms) of the training clicks, in order; None where the model may not ask
        for them.
    """

    uid_field, iid_field, time_field, label_field = "user_id", "item_id", "timestamp", "label"

    def __init__(self, n_users: int, n_items: int, settings: Settings, events: Tensor | None):
        from recbole.utils import FeatureType

        # Both count the padding id 0.
        self.user_num, self.item_num = n_users + 1, n_items + 1
        self.config = settings
        self.field2type = {self.uid_field: FeatureType.TOKEN, self.iid_field: FeatureType.TOKEN}
        self.field2seqlen = {f"{self.iid_field}_list": settings["MAX_ITEM_LIST_LENGTH"]}
        self._events = events

    def __getattr__(self, name: str) -> Any:
        raise RunError(f"this RecBole model asks its data set for '{name}', which the bridge does not offer")

    def num(self, field: str) -> int:
        return {self.uid_field: self.user_num, self.iid_field: self.item_num}[field]

    def get_user_feature(self) -> Any:
        return self._ids(self.uid_field)

    def get_item_feature(self) -> Any:
        return self._ids(self.iid_field)

    def _ids(self, field: str) -> Any:
        from recbole.data.interaction import Interaction

        return Interaction({field: torch.arange(self.num(field))})

    @cached_property
    def events(self) -> np.ndarray:
        if self._events is None:
            raise RunError("this RecBole model asks for clicks in its constructor, which the bridge does not offer")
        return self._events.cpu().numpy()

    @cached_property
    def _pairs(self) -> np.ndarray:
        """(2, m) distinct user-item pairs, ascending."""
        return np.unique(self.events[:2], axis=1)

    @property
    def inter_num(self) -> int:
        return self.events.shape[1]

    @cached_property
    def inter_feat(self) -> Any:
        from recbole.data.interaction import Interaction

        user, item, time = torch.from_numpy(self.events)
        return Interaction({self.uid_field: user, self.iid_field: item, self.time_field: time / 1000})

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """scipy matrix (users, items) of ones."""
        from scipy import sparse

        user, item = self._pairs
        matrix = sparse.coo_matrix((np.ones(len(user)), (user, item)), shape=(self.user_num, self.item_num))
        return matrix.asformat(form)

    def history_item_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Items of each user, at most `max_history_len`: ids (users, longest), ones at real places, and lengths."""
        user, item = self._pairs
        return _lists(user, item, self.user_num, max_history_len)

    def history_user_matrix(
        self, value_field: str | None = None, max_history_len: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Users of each item, in the same form."""
        user, item = self._pairs
        return _lists(item, user, self.item_num, max_history_len)


def _lists(rows: np.ndarray, values: np.ndarray, n_rows: int, limit: int | None) -> tuple[Tensor, Tensor, Tensor]:
    lists = Ragged.from_pairs(rows, values, n_rows)
    width = int(lists.lengths.max(initial=1))
    ids = torch.from_numpy(lists.padded(min(width, limit) if limit else width))
    lengths = torch.from_numpy(lists.lengths).clamp(max=ids.shape[1])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).float(), lengths
