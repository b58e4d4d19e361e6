"""CoLLM: a language model that reads titles, and a collaborative table through soft tokens (Zhang et al., TKDE 2025)."""

import re
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.errors import NothingToReadError, RunError
from bench.ranker.backbone import SMALL, item_texts
from bench.ranker.blocks.graph import TableConfig, click_table
from bench.ranker.blocks.language import decode, encode, label_token, word_scale
from bench.ranker.blocks.lora import add_lora, lora_parameters
from bench.ranker.blocks.losses import bce
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.blocks.prompts import Template, Tokens, embed
from bench.ranker.contract import (
    Batch,
    Context,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Representation,
    Stage,
    TorchRanker,
    TrainConfig,
    TrainData,
    Window,
)
from bench.ranker.registry import register

# What stands in brackets is the collaborative table's and is left out while a stage learns from text alone. The encoder
# reads what stands before the bar, the decoder what follows.
PROMPT = "The user [<user>] liked {titles}. | Will {item} [<item>] please the user? Yes or No:"
YES = "Yes"
CHUNK = 1024  # prompts that go through the language model at once when scoring; bounds its memory


class CoLLMConfig(TrainConfig):
    """Sizes are the authors': LoRA of rank 8 on queries and values, a mapping ten times as wide as the table."""

    backbone: str = "auto"
    """The language model: `auto`, `small-t5`, a name of the hub, or a folder."""
    history_rec: PositiveInt = 10
    """Last clicks whose titles are in the prompt."""
    title_tokens: PositiveInt = 16
    """First tokens of an item's text."""
    lora_rank: PositiveInt = 8
    """Rank of the adapters."""
    lora_alpha: PositiveInt = 16
    """Their products are scaled by this over the rank."""
    lora_dropout: Fraction = 0.05
    """Dropout of what the adapters read."""
    collaborative: bool = True
    """Whether there is a second stage, in which the table is read."""
    expansion: PositiveInt = 10
    """Inner width of the mapping, as a multiple of the table's."""
    tune_table: bool = False
    """Whether the second stage trains the table, too."""
    tune_lora: bool = False
    """Whether the second stage trains the adapters, too."""
    language_epochs: PositiveInt = 5
    """Most epochs of the stage that teaches small-t5 to read; a pretrained model has none."""
    language_max_steps: NonNegativeInt = 0
    """Most steps of that stage, 0 = no bound."""
    language_lr: PositiveFloat = 3e-3
    """Its learning rate."""
    text_epochs: PositiveInt = 20
    """Most epochs of the first stage, the adapters on text alone."""
    text_max_steps: NonNegativeInt = 0
    """Most steps of the first stage, 0 = no bound."""
    text_lr: PositiveFloat = 1e-3
    """Learning rate of the first stage."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Optimiser of all stages."""
    lr: PositiveFloat = 1e-3
    """Learning rate of the second stage."""
    weight_decay: NonNegativeFloat = 1e-3
    """Decoupled weight decay."""
    warmup: NonNegativeInt = 200
    """Steps of linear warm-up."""
    clip: NonNegativeFloat = 1.0
    """Bound of the gradient's norm."""
    batch_size: PositiveInt = 32
    """Clicks of a batch; each is a prompt per candidate."""
    epochs: PositiveInt = 50
    """Most epochs of the second stage."""
    cf_dim: PositiveInt = 64
    """Width of the collaborative table."""
    cf_layers: PositiveInt = 2
    """Hops of LightGCN."""
    cf_epochs: PositiveInt = 200
    """Passes of LightGCN over the clicks."""
    cf_lr: PositiveFloat = 5e-3
    """Learning rate of LightGCN."""
    cf_decay: NonNegativeFloat = 1e-4
    """Weight of half the squared layer-0 rows of a batch, divided by its size."""
    cf_batch_size: PositiveInt = 2048
    """Clicks of a batch of LightGCN."""


@register("collm", title="CoLLM", tasks=("rec",), group="rec", cite="Zhang et al., TKDE 2025")
class CoLLM(TorchRanker):
    """A frozen T5 with adapters answers whether an item pleases; user and item of a LightGCN table are words of its prompt.

    The prompt names the titles of the last clicks and the title of the candidate, each side with a slot for a soft token,
    z = W2 relu(W1 x) of the row x of the user or the item. Stage "text" trains LoRA on the prompt without the
    slots; stage "fit" trains the mapping on the whole prompt while LoRA rests (or not, `tune_lora`), and the table with it
    where `tune_table`. Loss: binary cross-entropy of the logit of Yes, of the clicked item and sampled ones; the score is
    that logit. The language model's own weights never move.

    The authors' decoder-only model reads from left to right, so that the past never sees the candidate. Here the encoder
    reads the past once for all candidates, and the decoder the question about each, with the answer at its end.

    Where this differs from the authors' code: a T5 of GenSR's size instead of a decoder of 7 billion weights; one wording
    of our own, where theirs draws among four in training and scores with the first (a mapping before the small T5 learns
    little where the words around its slots change); sampled items instead of ratings below the mean; the soft tokens
    have the scale of word vectors, and the table that of one; a constant rate of 1e-3 after the warm-up, where theirs falls
    from 1e-2 to 8e-5. The T5 built here (`small-t5`) has read nothing before, so that adapters would have nothing to
    adapt: a stage "language" before the other two trains all of it on the prompt without slots, and it rests from then.
    """

    Config = CoLLMConfig
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {
        "backbone": SMALL,
        "language_max_steps": 400,
        "text_max_steps": 200,
        "max_steps": 600,
        "cf_epochs": 20,
    }
    search_space: ClassVar[dict[str, Any]] = {
        "lr": [1e-4, 1e-3, 1e-2],
        "lora_rank": [8, 16],
        "negatives": [1, 4],
        "tune_table": [False, True],
        "tune_lora": [False, True],
    }
    config: CoLLMConfig
    user_table: Tensor  # (n_users + 1, cf_dim)
    item_table: Tensor  # (n_items + 1, cf_dim)
    reads_table: Tensor  # () bool, whether scoring reads the table: not before the second stage
    scale: Tensor  # () root mean square of a word embedding's entries

    def __init__(self, config: CoLLMConfig, context: Context):
        super().__init__(config, context)
        catalog, titles = self.catalog, item_texts(self.catalog)
        if not any(titles):
            raise NothingToReadError(f"the items of {catalog.name} have no text that a language model could read")
        plain, whole = re.sub(r" ?\[.*?\]", "", PROMPT), re.sub(r"[\[\]]", "", PROMPT)
        backbone = context.backbone(config.backbone, [re.sub(r"<.*?>|\{.*?\}|\|", " ", whole)])
        self.backbone_name, self.lm, tokenizer = backbone.name, backbone.model, backbone.tokenizer
        try:
            self.yes = label_token(tokenizer, YES)
        except ValueError as error:
            raise RunError(f"backbone '{backbone.name}' does not fit CoLLM: {error}") from None
        self.register_buffer("scale", word_scale(self.words))
        rank, alpha, dropout = config.lora_rank, config.lora_alpha, config.lora_dropout
        add_lora(self.lm, context, rank=rank, alpha=alpha, dropout=dropout, targets=["q", "v"])
        self.adapters = lora_parameters(self.lm)
        own = {id(parameter) for parameter in self.adapters}
        self._language = [parameter for parameter in self.lm.parameters() if id(parameter) not in own]
        if backbone.name == SMALL:
            for parameter in self._language:
                parameter.requires_grad_(True)
        self.past = Tokens(tokenizer, titles, config.title_tokens, end=",")
        self.titles = Tokens(tokenizer, titles, config.title_tokens)
        self.plain, self.whole = (
            nn.ModuleList([Template(tokenizer, before), Template(tokenizer, after, closed=False)])
            for before, _, after in (plain.partition("|"), whole.partition("|"))
        )
        self.register_buffer("reads_table", torch.tensor(config.collaborative))
        if config.collaborative:
            for name, rows in (("user_table", catalog.n_users + 1), ("item_table", catalog.n_items + 1)):
                table = torch.zeros(rows, config.cf_dim)
                if config.tune_table:
                    self.register_parameter(name, nn.Parameter(table))
                else:
                    self.register_buffer(name, table)
            inner, width = config.expansion * config.cf_dim, self.lm.config.d_model
            self.mapping = nn.Sequential(nn.Linear(config.cf_dim, inner), nn.ReLU(), nn.Linear(inner, width))

    @property
    def window(self) -> Window:
        """Recommendation clicks alone."""
        return Window(rec=self.config.history_rec, search=0)

    @property
    def words(self) -> nn.Embedding:
        """The word embeddings of the language model."""
        return self.lm.get_input_embeddings()

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record: the language model that answered."""
        return {"backbone": self.backbone_name}

    def precompute(self, train: TrainData) -> None:
        """Fill the collaborative table: LightGCN on the recommendation clicks of the training part."""
        if not self.config.collaborative:
            return
        settings = {name: getattr(self.config, f"cf_{name}") for name in TableConfig.model_fields}
        tables = click_table(self.context, train, TableConfig(**settings))
        # One number for both tables, so that their inner products still rank.
        scale = torch.cat([tables["user"][1:], tables["item"][1:]]).square().mean().sqrt()
        with torch.no_grad():
            self.user_table.copy_(tables["user"] / scale)
            self.item_table.copy_(tables["item"] / scale)

    def stages(self, train: TrainData) -> list[Stage]:
        """The adapters on text alone, then the mapping; first of all the words, where the model knows none."""
        text, config = self.config.for_stage("text"), self.config
        stages = [
            Stage(
                "text", text, self.text_loss, self._stream(text), lambda: [{"params": self.adapters}], start=self._plain
            )
        ]
        if self.backbone_name == SMALL:
            language = config.for_stage("language")
            everything = [{"params": self._language}]
            stages.insert(
                0,
                Stage(
                    "language",
                    language,
                    self.text_loss,
                    self._stream(language),
                    lambda: everything,
                    "last",
                    self._plain,
                ),
            )
        if config.collaborative:
            stages.append(Stage("fit", config, self.loss, self.stream, self.parameter_groups, start=self._whole))
        return stages

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the second stage trains."""
        trained = [*self.mapping.parameters()]
        if self.config.tune_table:
            trained += [self.user_table, self.item_table]
        return [{"params": [*trained, *(self.adapters if self.config.tune_lora else [])]}]

    def text_loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of Yes on the prompt without slots."""
        return self._loss(batch, collaborative=False)

    def loss(self, batch: Batch) -> Tensor:
        """Binary cross-entropy of Yes on the whole prompt."""
        return self._loss(batch, collaborative=True)

    def score(self, batch: Batch) -> Tensor:
        """The logit of Yes for every candidate, (B, K)."""
        scores = torch.empty(batch.cand.shape, device=batch.cand.device)
        # Rows of like length together, so that little of a chunk is padding.
        order = self.past.lengths[batch.rec_items.where(batch.rec_mask, 0)].sum(1).argsort()
        for rows in order.split(max(1, CHUNK // batch.cand.shape[1])):
            part = batch.take(rows)
            scores[rows] = self._logits(part, part.cand, bool(self.reads_table)).float()
        return scores

    def _loss(self, batch: Batch, collaborative: bool) -> Tensor:
        assert batch.item is not None and batch.negatives is not None, "a training batch has clicked and drawn items"
        logits = self._logits(batch, torch.cat([batch.item[:, None], batch.negatives], 1), collaborative)
        return bce(logits[:, 0], logits[:, 1:])

    def represent(self, batch: Batch) -> Representation:
        """Mean of what the past was read as beside the mean of the question, (B, K, 2 width); the state that answers."""
        return Representation(*self._read(batch, batch.cand, bool(self.reads_table)))

    def _logits(self, batch: Batch, items: Tensor, collaborative: bool) -> Tensor:
        """Logits of Yes for items (B, K)."""
        return self._read(batch, items, collaborative)[1] @ self.lm.get_output_embeddings().weight[self.yes]

    def _read(self, batch: Batch, items: Tensor, collaborative: bool) -> tuple[Tensor, Tensor]:
        """Summary of the prompt (B, K, 2 width) and the state that answers it (B, K, width) for items (B, K)."""
        before, after = self.whole if collaborative else self.plain
        past = before(len(items), titles=self.past(batch.rec_items.where(batch.rec_mask, 0), batch.rec_mask))
        offer = after(items.numel(), item=self.titles(items.flatten()))
        user, item = self._soft_tokens(batch.user, items) if collaborative else (None, None)
        states = encode(self.lm, embed(past, self.words, user), past.mask)
        start = torch.full((items.numel(), 1), self.lm.config.decoder_start_token_id, device=items.device)
        asked = torch.cat([self.words(start), embed(offer, self.words, item)], 1).unflatten(0, items.shape)
        said = decode(self.lm, asked, states, past.mask)  # (B, K, 1 + S, width)
        last = offer.mask.sum(1).view(*items.shape, 1, 1).expand(-1, -1, 1, said.shape[-1])
        question = masked_mean(asked[:, :, 1:], offer.mask.unflatten(0, items.shape))  # (B, K, width)
        summary = torch.cat([masked_mean(states, past.mask)[:, None].expand_as(question), question], -1)
        return summary, said.gather(2, last)[:, :, 0]

    def _soft_tokens(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """What stands in the slots of the users (B, 1, width) and of the items (B * K, 1, width)."""
        rows = self.user_table[user], self.item_table[items.flatten()]
        return self.mapping(rows[0])[:, None] * self.scale, self.mapping(rows[1])[:, None] * self.scale

    def _stream(self, config: TrainConfig) -> Any:
        return lambda data: data.events(
            config.batch_size, negatives=config.negatives, window=self.window, sampling=config.negative_sampling
        )

    def _plain(self) -> None:
        self.reads_table.fill_(False)

    def _whole(self) -> None:
        self.reads_table.fill_(True)
