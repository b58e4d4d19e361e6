"""RecBole's sequential and general models as Rankers: RecBole gives the network, everything else is the harness's.

Data, histories, negatives, training loop, early stopping and evaluation are those of every other model; of RecBole only the model
class runs (Zhao et al., CIKM 2021; version 1.2.1, installed apart with --no-deps). Recommenders only: they read
the user's recommendation clicks and no query.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.baselines import recbole_data
from bench.baselines.recbole_data import Data, Settings
from bench.data import hashing
from bench.ranker.contract import Batch, Config, Context, TorchRanker, TrainConfig, TrainData, Validation, Window, dataclass, field, strict
from bench.ranker.registry import Entry

# Score = forward(history) . item_embedding: the candidates' rows are enough, no ranking of all items is computed.
_DOT = frozenset({"SASRec", "GRU4Rec"})
# Classes whose predict ends in `self.sigmoid`, which is left out: rankings need logits.
_SIGMOID = frozenset({"DIN", "DIEN", "NeuMF", "DMF"})
# Autoencoders and the like: the loss reads users, each once.
_BY_USER = frozenset({"CDAE", "DiffRec", "ENMF", "MacridVAE", "MultiDAE", "MultiVAE"})
# Sequential classes whose score depends on the user's id.
_PERSONAL = frozenset({"Caser", "FPMC", "HGN", "HRM", "NPE", "TransRec", "FOSSIL"})
_IMPERSONAL = frozenset({"Pop"})
# Numbers in a score matrix that are held at a time.
_CELLS = 50_000_000


@dataclass(config=strict)
class RecBoleConfig(TrainConfig):
    """`options` go over the defaults that RecBole ships for the class; an option that it does not have is refused."""

    options: dict[str, Any] = field(default_factory=dict)


class RecBoleRanker(TorchRanker):
    """Base of bridged models; a subclass names RecBole's class in `recbole`.

    A sequential model sees the last `history_rec` recommendation clicks, right padded; its `calculate_loss` gets every training
    click with its history (the expansion into prefixes that RecBole's data loader makes), one row a negative where the
    loss is pairwise, and all K candidates as rows of their own where it wants labels. A row without a history is left out of the
    loss, and all its candidates score 0, since several of the classes index position -1 there. So is a batch that leaves a
    single row to a network with batch normalisation; the step then has a loss of 0.

    A general model is built from the training clicks when `fit` begins, and its state carries them.
    """

    Config: ClassVar[type[Config]] = RecBoleConfig
    quick: ClassVar[dict[str, Any]] = {"epochs": 10, "patience": 3}
    recbole: ClassVar[str]

    def __init__(self, config: Config, context: Context):
        super().__init__(config, context)
        self._class = recbole_data.model_class(self.recbole)
        self._settings = self._make_settings()
        self._sequential = is_sequential(self._class)
        self.net: Any = None
        if self._sequential:
            self._build(None)

    @property
    def window(self) -> Window:
        return Window(rec=self.config.history_rec, search=1, clicks=1)

    def options(self) -> dict[str, Any]:
        """Settings over RecBole's defaults: `options`, or the fields that a subclass's config adds."""
        if hasattr(self.config, "options"):
            return self.config.options
        return {name: value for name, value in vars(self.config).items() if name not in TrainConfig.__dataclass_fields__}

    def evidence(self) -> dict[str, Any]:
        import recbole

        shipped = {name: value for name, value in self._settings.items() if name == name.lower()}
        return {"recbole": recbole.__version__, "recbole settings": shipped}

    def prepare(self, train: TrainData) -> None:
        if not self._sequential:
            events = train.arrays("rec")
            self._build(torch.stack([torch.as_tensor(events[name], dtype=torch.long) for name in ("user", "item", "time")]))

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        from recbole.utils import ModelType

        if self._class.type != ModelType.TRADITIONAL:
            return super().fit(train, valid)
        # Counting models do their work while they are constructed, or in one pass.
        started = time.perf_counter()
        self.prepare(train)
        self.to(self.context.device)
        with torch.no_grad():
            for batch in train.batches(self.config.batch_size, 0, self.window, 0, train.steps(self.config.batch_size)):
                self.loss(batch.to(self.context.device))
        self.eval()
        return {"epochs": 1, "converged": True, "parameters": 0, "seconds": time.perf_counter() - started}

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """RecBole's own training loss, see the class."""
        if self._sequential:
            batch = batch.take(batch.rec_len > 0)
        rows = self._training_rows(batch)
        if len(rows["user_id"]) < (2 if self._normalises_batches else 1):
            return sum(p.sum() for p in self.parameters()) * 0.0
        result = self.net.calculate_loss(rows)
        if isinstance(result, tuple):
            return sum(part.sum() for part in result), {f"part {n + 1}": part.sum() for n, part in enumerate(result)}
        return result.sum()

    def score(self, batch: Batch) -> Tensor:
        """(B, K) logits where the class has them, float32; 0 for a sequential model's row without history."""
        if not self._sequential:
            return self._scores(batch)
        known = batch.rec_len > 0
        scores = torch.zeros(batch.cand.shape, device=batch.cand.device)
        if known.any():
            scores[known] = self._scores(batch.take(known))
        return scores

    def train(self, mode: bool = True) -> "RecBoleRanker":
        self._forget()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"other.{name}": value.detach().cpu() for name, value in self._others().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if not self._sequential:
            self._build(state["events"])
        others = {name: value for name, value in state.items() if name.startswith("other.")}
        for name, value in others.items():
            setattr(self.net, name.removeprefix("other."), value.to(self.context.device))
        self.load_state_dict({name: value for name, value in state.items() if name not in others})

    # Construction

    def _make_settings(self) -> Settings:
        own = recbole_data.settings(self.recbole, self.options())
        return Settings(
            own
            | {
                "USER_ID_FIELD": "user_id",
                "ITEM_ID_FIELD": "item_id",
                "LABEL_FIELD": "label",
                "TIME_FIELD": "timestamp",
                "NEG_PREFIX": "neg_",
                "LIST_SUFFIX": "_list",
                "ITEM_LIST_LENGTH_FIELD": "item_length",
                "MAX_ITEM_LIST_LENGTH": self.config.history_rec,
                "MASK_ITEM_SEQ": "masked_items",
                "POS_ITEMS": "masked_positives",
                "NEG_ITEMS": "masked_negatives",
                "MASK_INDEX": "masked_places",
                "numerical_features": [],
                "train_batch_size": self.config.batch_size,
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": max(self.config.negatives, 1)},
                "device": self.context.device,
                "seed": self.context.seed,
            }
        )

    def _build(self, events: Tensor | None) -> None:
        data = Data(self.catalog.n_users, self.catalog.n_items, self._settings, events)
        # The network has a seed of its own, because a general model is built after an unknown number of other draws.
        with _seeded(hashing.seed("recbole", self.context.seed, self.recbole)):
            self.net = recbole_data.mended(self._class)(self._settings, data)
        self.net.to(self.context.device)
        if events is not None:
            self.register_buffer("events", events.to(self.context.device))
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        self._normalises_batches = any(isinstance(module, kinds) for module in self.net.modules())

    def _forget(self) -> None:
        """Drop the propagated embeddings that graph models keep between calls: they belong to weights that may be gone."""
        for name in ("restore_user_e", "restore_item_e"):
            if getattr(self.net, name, None) is not None:
                setattr(self.net, name, None)

    def _others(self) -> dict[str, Tensor]:
        """What a class has learnt outside its parameters."""
        found = {} if self.net is None else self.net.other_parameter()
        return {name: value for name, value in found.items() if isinstance(value, Tensor) and not name.startswith("restore_")}

    # RecBole's interactions

    def _past(self, batch: Batch) -> dict[str, Tensor]:
        """user_id (B,), item_id_list (B, history_rec) with 0 after item_length (B,)."""
        width, limit = batch.rec_items.shape[1], self.config.history_rec
        length = batch.rec_len.clamp(max=limit)
        column = torch.arange(limit, device=batch.user.device)
        place = (batch.rec_len - length)[:, None] + column
        items = batch.rec_items.gather(1, place.clamp(max=width - 1)).masked_fill(column >= length[:, None], 0)
        return {"user_id": batch.user, "item_id_list": items, "item_length": length}

    def _training_rows(self, batch: Batch) -> dict[str, Tensor]:
        past = self._past(batch) if self._sequential else {"user_id": batch.user}
        if self.recbole in _BY_USER:
            return {"user_id": batch.user.unique()}
        if hasattr(self.net, "LABEL") or hasattr(self.net, "LABEL_FIELD"):
            rows = {name: value.repeat_interleave(batch.cand.shape[1], 0) for name, value in past.items()}
            return rows | {"item_id": batch.cand.flatten(), "label": batch.label.flatten()}
        if self._settings["transform"] == "mask_itemseq":
            return past | self._masked(past, batch.item)
        rows = past | {"item_id": batch.item}
        if batch.cand.shape[1] == 1 or self._settings["loss_type"] == "CE":
            return rows
        negative = batch.cand[batch.label == 0].view(len(batch), -1)
        # RecBole's order of several negatives: the whole batch with the first one, then with the second.
        repeated = {name: value.repeat(negative.shape[1], *[1] * (value.dim() - 1)) for name, value in rows.items()}
        return repeated | {"neg_item_id": negative.T.flatten()}

    def _masked(self, past: dict[str, Tensor], item: Tensor) -> dict[str, Tensor]:
        """Cloze rows over history and clicked item (Sun et al., CIKM 2019, section 3.6).

        Each place is masked with `mask_ratio`; in a share `ft_ratio` of the rows the last place alone, as in scoring. RecBole
        masks the history only, so that no user's last click is ever a label.
        """
        items, length, limit = past["item_id_list"], past["item_length"], self.config.history_rec
        longer = torch.cat([items, torch.zeros_like(items[:, :1])], 1).scatter(1, length[:, None], item[:, None])
        full = length == limit
        sequence = torch.where(full[:, None], longer[:, 1:], longer[:, :-1])
        last = torch.where(full, length - 1, length)[:, None]
        column = torch.arange(limit, device=items.device)
        draws = torch.rand(sequence.shape, device=items.device)
        # The network leaves place 0 out of its loss, so it is never masked; a row without a masked place gets the last one.
        chosen = (draws < self._settings["mask_ratio"]) & (column > 0) & (column <= last)
        alone = torch.rand((len(items), 1), device=items.device) < (self._settings["ft_ratio"] or 0)
        alone |= ~chosen.any(1, keepdim=True)
        chosen = torch.where(alone, column == last, chosen)
        count = max(1, int(self._settings["mask_ratio"] * limit))
        places = draws.masked_fill(~chosen, 2.0).argsort(1)[:, :count]
        kept = chosen.gather(1, places)
        places = places.masked_fill(~kept, 0)
        hidden = torch.zeros_like(chosen).scatter(1, places, True) & (column > 0)
        return {
            "masked_items": sequence.masked_fill(hidden, self.catalog.n_items + 1),
            "masked_positives": sequence.gather(1, places).masked_fill(~kept, 0),
            "masked_negatives": torch.randint(1, self.catalog.n_items + 1, places.shape, device=items.device),
            "masked_places": places,
        }

    # Scores

    def _scores(self, batch: Batch) -> Tensor:
        from recbole.model.abstract_recommender import AbstractRecommender

        past = self._past(batch) if self._sequential else {"user_id": batch.user}
        if self.recbole in _DOT:
            user = self.net.forward(past["item_id_list"], past["item_length"])
            return torch.einsum("bd,bkd->bk", user, self.net.item_embedding(batch.cand)).float()
        n_items = self.catalog.n_items + 1
        ranks_all = self._class.full_sort_predict is not AbstractRecommender.full_sort_predict
        step = max(1, _CELLS // n_items) if ranks_all else max(1, 32_768 // batch.cand.shape[1])
        pieces = []
        for low in range(0, len(batch), step):
            rows = {name: value[low : low + step] for name, value in past.items()}
            cand = batch.cand[low : low + step]
            if ranks_all:
                everything = self.net.full_sort_predict(rows).view(len(cand), -1)
                pieces.append(everything.gather(1, cand).float())
            else:
                pairs = {name: value.repeat_interleave(cand.shape[1], 0) for name, value in rows.items()}
                with _logits(self.net, self.recbole in _SIGMOID):
                    pieces.append(self.net.predict(pairs | {"item_id": cand.flatten()}).view(cand.shape).float())
        return torch.cat(pieces)


@cache
def bridge(class_name: str) -> type[RecBoleRanker]:
    """The Ranker of a RecBole class, as `recbole:<Class>`.

    Raises:
        RunError: RecBole is not installed or the class cannot be bridged. UsageError: there is no such class.
    """
    found = recbole_data.model_class(class_name)
    sequential = is_sequential(found)
    ranker = type(class_name, (RecBoleRanker,), {
        "__module__": __name__,
        "__doc__": f"RecBole's {class_name} with its shipped defaults.",
        "recbole": class_name,
        "uses_history": sequential,
        "uses_user": class_name in _PERSONAL if sequential else class_name not in _IMPERSONAL,
    })
    target = f"{__name__}:{class_name}"
    ranker.entry = Entry(f"recbole:{class_name}", f"{class_name} (RecBole)", ("rec",), "rec", "Zhao et al., CIKM 2021", target, "recbole")
    return ranker


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which RecBole's constructors draw from, and put them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _logits(net: nn.Module, applies: bool) -> Iterator[None]:
    """Within it the network's last sigmoid does nothing: probabilities near 1 would tie in float32."""
    if applies:
        squash, net.sigmoid = net.sigmoid, nn.Identity()
    try:
        yield
    finally:
        if applies:
            net.sigmoid = squash


def is_sequential(cls: type) -> bool:
    from recbole.model.abstract_recommender import SequentialRecommender

    return issubclass(cls, SequentialRecommender)
