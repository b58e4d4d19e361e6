"""What RecBole's model classes read besides a batch: settings, and a data set; without its Config and Dataset.

RecBole's own Config fails on numpy 2, evaluates strings and reads the process's command line; its Dataset copies the
data. The constructors only index a mapping and ask a handful of questions about the data, which these classes answer.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.ragged import Ragged
from bench.errors import RunError, unknown
from bench.ranker.contract import Context

# Read by models although the yaml file of the model does not name them.
_UNNAMED = {"require_pow": False}


class Settings(dict):
    """A mapping that gives None for absent keys, as RecBole's Config does."""

    def __missing__(self, key: str) -> None:
        return None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self["device"]


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


def with_harness_settings(own: Settings, config: Any, context: Context) -> Settings:
    """The settings of a class with the names of fields and what the harness decides."""
    fixed = {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LABEL_FIELD": "label",
        "TIME_FIELD": "timestamp",
        "NEG_PREFIX": "neg_",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "MAX_ITEM_LIST_LENGTH": config.history_rec,
        "MASK_ITEM_SEQ": "masked_items",
        "POS_ITEMS": "masked_positives",
        "NEG_ITEMS": "masked_negatives",
        "MASK_INDEX": "masked_places",
        "numerical_features": [],
        "train_batch_size": config.batch_size,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": max(config.negatives, 1)},
        "device": context.device,
    }
    return Settings(own | fixed)


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
        """Ids of a field, padding included."""
        return {self.uid_field: self.user_num, self.iid_field: self.item_num}[field]

    def get_user_feature(self) -> Any:
        """The ids of all users."""
        return self._ids(self.uid_field)

    def get_item_feature(self) -> Any:
        """The ids of all items."""
        return self._ids(self.iid_field)

    def _ids(self, field: str) -> Any:
        from recbole.data.interaction import Interaction

        return Interaction({field: torch.arange(self.num(field))})

    @cached_property
    def events(self) -> np.ndarray:
        """(3, n) user, item, time (ms) of the training clicks.

        Raises:
            RunError: a model asks that may not.
        """
        if self._events is None:
            raise RunError("this RecBole model asks for clicks in its constructor, which the bridge does not offer")
        return self._events.cpu().numpy()

    @cached_property
    def _pairs(self) -> np.ndarray:
        """(2, m) distinct user-item pairs, ascending."""
        return np.unique(self.events[:2], axis=1)

    @property
    def inter_num(self) -> int:
        """Number of training clicks."""
        return self.events.shape[1]

    @cached_property
    def inter_feat(self) -> Any:
        """The training clicks as RecBole's interaction; times in seconds."""
        from recbole.data.interaction import Interaction

        user, item, time = torch.from_numpy(self.events)
        return Interaction({self.uid_field: user, self.iid_field: item, self.time_field: time / 1000})

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Matrix of scipy (users, items) with ones at the training clicks."""
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
