"""RecBole's sequential and general models as Rankers: RecBole gives the network, everything else is the harness's.

Data, histories, negatives, training loop, early stopping and evaluation are those of every other model; of RecBole
only the model class runs, with our dropout (Zhao et al., CIKM 2021; version 1.2.1, installed apart with --no-deps). Recommenders only:
they read the user's recommendation clicks and no query.
"""

import time
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.baselines.recbole import classes, rows
from bench.baselines.recbole import data as recbole_data
from bench.baselines.recbole.data import Data
from bench.data import hashing
from bench.errors import UsageError
from bench.ranker.contract import (
    Batch,
    Context,
    Field,
    Stream,
    TorchRanker,
    TrainConfig,
    TrainData,
    Validation,
    Window,
)
from bench.ranker.registry import ModelEntry, register_family

# Numbers in a score matrix that are held at a time.
_CELLS = 50_000_000


class RecBoleConfig(TrainConfig):
    """Settings of a bridged class: the Trainer's, and RecBole's own."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Put over the defaults that RecBole ships for the class; an option that it does not have is refused."""
    recbole_exact: bool = False
    """Train a masking model as RecBole does, defects included (`rows.masked_as_recbole`); others are as RecBole's anyway."""


class RecBoleRanker(TorchRanker):
    """Base of bridged models; a subclass names RecBole's class in `recbole`.

    A sequential model sees the last `history_rec` recommendation clicks, right padded; its `calculate_loss` gets
    every training click with its history (the expansion into prefixes that RecBole's data loader makes), one row a
    negative where the loss is pairwise, and all K candidates as rows of their own where it wants labels. A row
    without a history is left out of the loss, and all its candidates score 0, since several of the classes index
    position -1 there (a masking model needs two clicks to learn from, see `recbole_rows.masked`). So is a batch that
    leaves a single row to a network with batch normalisation; the step then has a loss of 0.

    A general model is built from the training clicks when `fit` begins, and its state carries them.
    """

    Config: ClassVar[type[TrainConfig]] = RecBoleConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 300}
    recbole: ClassVar[str]
    config: Any

    def __init__(self, config: TrainConfig, context: Context):
        super().__init__(config, context)
        self._class: Any = classes.model_class(self.recbole)
        self._settings = recbole_data.with_harness_settings(
            recbole_data.settings(self.recbole, self.options()), self.config, context
        )
        self._sequential = classes.is_sequential(self._class)
        self._masks = self._settings["transform"] == "mask_itemseq"
        if self._masks and self.config.history_rec < 2:
            raise UsageError(f"recbole:{self.recbole} masks places of a sequence, so history_rec must be at least 2")
        self.net: Any = None
        if self._sequential:
            self._build(None, self._seed)

    @property
    def window(self) -> Window:
        """The recommendation clicks of a sequential model; a general one reads no history at all."""
        return Window(rec=self.config.history_rec if self._sequential else 0, search=0, clicks=1)

    def stream(self, train: TrainData) -> Stream:
        """Training clicks; negatives are drawn for the losses that read them."""
        config = self.config
        negatives = config.negatives if self._pairwise or self._labelled else 0
        return train.events(
            config.batch_size, negatives=negatives, window=self.window, sampling=config.negative_sampling
        )

    def options(self) -> dict[str, Any]:
        """Settings over RecBole's defaults: `options`, or the fields that a subclass's config adds."""
        if hasattr(self.config, "options"):
            return self.config.options
        added = set(type(self.config).model_fields) - set(TrainConfig.model_fields)
        return self.config.model_dump(include=added)

    def evidence(self) -> dict[str, Any]:
        """Version of RecBole and every setting that its class was built with."""
        import recbole

        resolved = dict(recbole_data.settings(self.recbole, self.options()))
        return {"recbole": recbole.__version__, "recbole settings": resolved}

    def precompute(self, train: TrainData) -> None:
        """Build a general model, which reads the training clicks."""
        if not self._sequential:
            events = train.arrays("rec")
            columns = [torch.as_tensor(events[name], dtype=torch.long) for name in ("user", "item", "time")]
            self._build(torch.stack(columns), self._seed)

    def fit(self, train: TrainData, valid: Validation) -> dict[str, Any]:
        """By the Trainer; a counting model in one pass without gradients."""
        from recbole.utils import ModelType

        if self._class.type != ModelType.TRADITIONAL and self.recbole not in classes.COUNTING:
            return super().fit(train, valid)
        # Counting models do their work while they are constructed, or in one pass.
        started = time.perf_counter()
        self.precompute(train)
        self.to(self.context.device)
        with torch.no_grad():
            stream = train.events(self.config.batch_size, negatives=1, window=self.window)
            for batch in stream.batches(0, stream.steps_per_pass):
                self.loss(batch.to(self.context.device))
        self.eval()
        return {"epochs": 1, "converged": True, "parameters": 0, "seconds": time.perf_counter() - started}

    def loss(self, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """RecBole's own training loss, see the class."""
        if self._sequential:
            long = batch.rec_len >= (2 if self._masks and not self._exact else 1)
            batch = batch if bool(long.all()) else batch.take(long)
        if not len(batch):
            return self._nothing()
        interaction = self._training_rows(batch)
        if self._normalises_batches and len(interaction["user_id"]) < 2:
            return self._nothing()
        result = self.net.calculate_loss(interaction)
        if not isinstance(result, tuple):
            return result.sum()
        parts = {f"part {number}": part.sum() for number, part in enumerate(result, 1)}
        return torch.stack(list(parts.values())).sum(), parts

    def _nothing(self) -> Tensor:
        """A loss of 0 that every parameter has a gradient of."""
        return torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0

    def score(self, batch: Batch) -> Tensor:
        """(B, K) logits where the class has them, float32; 0 for a sequential model's row without history."""
        # A class that ranks all items at once gives (B, n_items + 1) numbers for any candidates.
        step = max(1, _CELLS // (self.catalog.n_items + 1)) if self._ranks_all else len(batch)
        if len(batch) <= step:
            return super().score(batch)
        pieces = torch.arange(len(batch), device=batch.user.device).split(step)
        return torch.cat([super(RecBoleRanker, self).score(batch.take(rows)) for rows in pieces])

    def encode(self, batch: Batch) -> tuple[Tensor, rows.Interaction, Tensor | None]:
        """Which rows can be scored, (B,) bool; those in RecBole's form; where the class ranks all items, their scores."""
        known = batch.rec_len > 0 if self._sequential else torch.ones_like(batch.user, dtype=torch.bool)
        past = self._past(batch.take(known))
        everything = None
        if self._ranks_all and known.any():
            with classes.logits(self.net, self.recbole in classes.SIGMOID):
                everything = self.net.full_sort_predict(past).view(int(known.sum()), -1)
        return known, past, everything

    def score_items(self, encoded: tuple[Tensor, rows.Interaction, Tensor | None], cand: Tensor) -> Tensor:
        """(B, K) scores of candidates of encoded rows."""
        known, past, everything = encoded
        scores = torch.zeros(cand.shape, device=cand.device)
        if known.any():
            cand = cand[known]
            scores[known] = self._pair_scores(past, cand) if everything is None else everything.gather(1, cand).float()
        return scores

    def train(self, mode: bool = True) -> "RecBoleRanker":
        """As torch's; embeddings that a graph model kept are propagated anew."""
        self._forget()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; embeddings that a graph model kept are propagated anew."""
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, and what a class learns outside of them."""
        return super().state() | {f"other.{name}": value.detach().cpu() for name, value in self._others().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave; a general model is built from the clicks in it."""
        if not self._sequential:
            self._build(state["events"], int(state["drawn"]))
        others = {name: value for name, value in state.items() if name.startswith("other.")}
        for name, value in others.items():
            setattr(self.net, name.removeprefix("other."), value.to(self.context.device))
        self.load_state_dict({name: value for name, value in state.items() if name not in others})

    # Construction

    @property
    def _seed(self) -> int:
        # The network has a seed of its own, because a general model is built after an unknown number of other draws.
        return hashing.seed("recbole", self.context.seed, self.recbole)

    def _build(self, events: Tensor | None, seed: int) -> None:
        data = Data(self.catalog.n_users, self.catalog.n_items, self._settings, events)
        self._settings["seed"] = seed % 2**32
        with classes.seeded(seed):
            self.net = classes.repaired(self._class)(self._settings, data)
        classes.lighten(self.net)
        self.net.to(self.context.device)
        if events is not None:
            # Some classes derive more than their parameters from clicks and seed, so both are part of the state.
            self.register_buffer("events", events.to(self.context.device))
            self.register_buffer("drawn", torch.tensor(seed))
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        self._normalises_batches = any(isinstance(module, kinds) for module in self.net.modules())

    def _forget(self) -> None:
        """Drop the propagated embeddings that graph models keep between calls; their weights may be gone."""
        for name in ("restore_user_e", "restore_item_e"):
            if getattr(self.net, name, None) is not None:
                setattr(self.net, name, None)

    def _others(self) -> dict[str, Tensor]:
        """What a class has learnt outside its parameters."""
        parameters = {} if self.net is None else self.net.other_parameter()
        kept = {name: value for name, value in parameters.items() if not name.startswith("restore_")}
        return {name: value for name, value in kept.items() if isinstance(value, Tensor)}

    # RecBole's interactions

    @property
    def _exact(self) -> bool:
        """Whether RecBole's defects are wanted."""
        return getattr(self.config, "recbole_exact", False)

    @property
    def _pairwise(self) -> bool:
        """Whether the loss reads a negative beside the clicked item."""
        from recbole.utils import InputType

        kind = getattr(self._class, "input_type", None)
        return self._settings["loss_type"] == "BPR" if kind is None else kind == InputType.PAIRWISE

    @property
    def _labelled(self) -> bool:
        """Whether the loss reads every candidate with its label."""
        by_user = self.recbole in classes.BY_USER
        return not by_user and (hasattr(self.net, "LABEL") or hasattr(self.net, "LABEL_FIELD"))

    def _past(self, batch: Batch) -> rows.Interaction:
        if not self._sequential:
            return {"user_id": batch.user}
        past = rows.past(batch, self.config.history_rec)
        # Read by the auxiliary loss only, but asked for in scoring as well.
        return past | ({"neg_item_id_list": torch.zeros_like(past["item_id_list"])} if self.recbole == "DIEN" else {})

    def _training_rows(self, batch: Batch) -> rows.Interaction:
        if self.recbole in classes.BY_USER:
            return {"user_id": batch.user.unique()}
        past = self._past(batch)
        if self._pairwise:
            return rows.paired(past, batch)
        if self._labelled:
            if self.recbole == "DIEN":
                past["neg_item_id_list"] = rows.random_items(past["item_id_list"], self.catalog.n_items)
            return rows.labelled(past, batch)
        if self._masks:
            ratio, last_only = self._settings["mask_ratio"], self._settings["ft_ratio"] or 0
            if self._exact:
                return past | rows.masked_as_recbole(past, self.catalog.n_items, ratio, last_only)
            return past | rows.masked(past, batch.item, self.catalog.n_items, ratio, last_only)
        return past | {"item_id": batch.item}

    # Scores

    @property
    def _ranks_all(self) -> bool:
        """Whether the class ranks all items in one pass."""
        from recbole.model.abstract_recommender import AbstractRecommender

        return self._class.full_sort_predict is not AbstractRecommender.full_sort_predict

    def _pair_scores(self, past: rows.Interaction, cand: Tensor) -> Tensor:
        """(B, K) scores of a class that scores one pair of a row and an item at a time."""
        pieces = []
        with classes.logits(self.net, self.recbole in classes.SIGMOID):
            for chosen in torch.arange(len(cand), device=cand.device).split(max(1, 32_768 // cand.shape[1])):
                items = cand[chosen]
                pairs = {name: value[chosen].repeat_interleave(cand.shape[1], 0) for name, value in past.items()}
                pieces.append(self.net.predict(pairs | {"item_id": items.flatten()}).view(items.shape).float())
        return torch.cat(pieces)


class DotProductRanker(RecBoleRanker):
    """Base of bridged sequential models whose score is `forward(history)` . `item_embedding`."""

    def score(self, batch: Batch) -> Tensor:
        """(B, K) logits, float32; 0 for a row without history."""
        return self.score_items(self.encode(batch), batch.cand)

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, d) states at the last click; zero for a row without history."""
        known = batch.rec_len > 0
        vectors = torch.zeros((len(batch), self.item_vectors().shape[1]), device=batch.user.device)
        if known.any():
            past = self._past(batch.take(known))
            vectors[known] = self.net.forward(past["item_id_list"], past["item_length"]).float()
        return vectors

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d) item embeddings."""
        return self.net.item_embedding.weight[: self.catalog.n_items + 1].float()

    def encode(self, batch: Batch) -> Any:
        """The row vectors."""
        return self.row_vectors(batch)

    def score_items(self, encoded: Any, cand: Tensor) -> Tensor:
        """(B, K) inner products of row vectors (B, d) with candidates."""
        return torch.einsum("bd,bkd->bk", encoded, self.item_vectors()[cand])


@register_family("recbole:", title="any sequential or general model of RecBole, by its class name")
@cache
def bridge(class_name: str) -> type[RecBoleRanker]:
    """The Ranker of a RecBole class, as `recbole:<Class>`.

    Raises:
        RunError: RecBole is not installed or the class cannot be bridged. UsageError: there is no such class.
    """
    network = classes.model_class(class_name)
    sequential = classes.is_sequential(network)
    ranker = type(
        class_name,
        (DotProductRanker if class_name in classes.DOT else RecBoleRanker,),
        {
            "__module__": __name__,
            "__doc__": f"RecBole's {class_name} with its shipped defaults.",
            "recbole": class_name,
            "exempt": classes.EXEMPT.get(class_name, {}),
            "uses_history": sequential,
            "uses_user": class_name in classes.PERSONAL if sequential else class_name not in classes.IMPERSONAL,
        },
    )
    ranker.entry = ModelEntry(  # type: ignore[attr-defined]
        name=f"recbole:{class_name}",
        title=f"{class_name} (RecBole)",
        tasks=("rec",),
        group="rec",
        cite="Zhao et al., CIKM 2021",
        target=f"{__name__}:{class_name}",
        package="recbole",
    )
    return ranker


# What `bench models --recbole` lists.
bridge.members = classes.listing  # type: ignore[attr-defined]  # a function that carries another one
