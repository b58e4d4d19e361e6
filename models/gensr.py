"""GenSR (Zhao et al., SIGIR 2025): search and recommendation by one language model that answers Yes or No.

A user's last clicks of both tasks are read in two views, as rows of a LightGCN table (CF) and as means of title
embeddings (semantic). Each candidate filters both views by cross-attention; the two pooled vectors and the candidate's
own two take four places in a prompt of its task, and the score is logit(Yes) - logit(No) of one decoder step.
"""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import RunError, UsageError
from bench.models.gensr_prompt import NO, TEXTS, YES, Prompt, Prompts, single_token
from bench.ranker.backbone import item_texts, query_texts
from bench.ranker.backbone_names import SMALL
from bench.ranker.blocks.attention import MultiHeadAttention
from bench.ranker.blocks.contrast import user_contrast
from bench.ranker.blocks.encoder import Encoder
from bench.ranker.blocks.graph import TableConfig, click_table
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.contract import (
    Batch,
    Context,
    Field,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TorchRanker,
    TrainConfig,
    TrainData,
)
from bench.ranker.registry import register

# Prompts that go through the language model at once when scoring; bounds its memory.
_CHUNK = 1024


class GenSRConfig(TrainConfig):
    """Settings of GenSR. Where the paper is silent the released run decides; deviations from both are marked as such."""

    backbone: str = "auto"
    optimizer: Literal["adam", "adamw"] = "adamw"
    # For pretrained weights. What starts at random (the views, the projection, all of small-t5) learns with `lr_new`.
    lr: PositiveFloat = 1e-4
    # Deviation: the release has 1e-4 throughout; its loss stays at the entropy of the labels for 145,000 steps.
    lr_new: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 200
    clip: NonNegativeFloat = 1.0
    batch_size: PositiveInt = 40
    epochs: PositiveInt = 200
    history_rec: PositiveInt = 20
    history_search: PositiveInt = 20
    history: Annotated[int, Field(ge=1, description="last clicks of both tasks that are read")] = 20
    title_tokens: Annotated[int, Field(ge=1, description="first tokens of an item's text, its title embedding")] = 32
    query_tokens: Annotated[int, Field(ge=1, description="first tokens of a query in the prompt")] = 32
    layers: PositiveInt = 1
    heads: PositiveInt = 2
    dropout: Fraction = 0.1
    # The paper speaks of sequential dependencies; the release has no positions and reads a set.
    positions: bool = True
    contrast: Annotated[float, Field(ge=0, description="lambda, weight of the contrastive loss")] = 0.01
    temperature: Annotated[float, Field(gt=0, description="tau of the contrastive loss")] = 0.07
    # Deviation: inserted vectors get the size of word embeddings, to which the projected CF rows have no relation.
    match_norm: bool = True
    cf_table: Literal["propagated", "ego"] = "propagated"
    cf_dim: PositiveInt = 64
    cf_layers: PositiveInt = 2
    cf_epochs: PositiveInt = 200
    cf_lr: PositiveFloat = 5e-3
    cf_decay: NonNegativeFloat = 1e-4
    cf_batch_size: PositiveInt = 2048


class InterestView(nn.Module):
    """One view of the history: positions and Transformer encoder (eq. 3, 4), soft filter by a candidate (eq. 5, 6)."""

    def __init__(self, width: int, hidden: int, config: GenSRConfig):
        super().__init__()
        # Counted back from the newest click, so that a short history and the end of a long one read alike.
        self.encoder = Encoder(
            width,
            config.heads,
            config.layers,
            config.dropout,
            hidden,
            positions="learned" if config.positions else "none",
            length=config.history,
            from_end=True,
        )
        self.filter = MultiHeadAttention(width, config.heads, config.dropout)
        if config.positions:
            nn.init.normal_(self.encoder.position.weight, std=0.02)


@register("gensr", title="GenSR", tasks=("rec", "search"), group="unified", cite="Zhao et al., SIGIR 2025")
class GenSR(TorchRanker):
    """GenSR as the paper has it; see `GenSRConfig` for what the paper leaves open."""

    Config = GenSRConfig
    uses_query = True
    quick: ClassVar[dict[str, Any]] = {"backbone": SMALL, "max_steps": 1700, "cf_epochs": 20}
    search_space: ClassVar[dict[str, Any]] = {
        "lr_new": [3e-4, 1e-3, 3e-3],
        "contrast": [0.0, 0.001, 0.005, 0.01, 0.05, 0.1],
        "temperature": [0.01, 0.03, 0.05, 0.07, 0.1, 0.3, 0.5],
    }
    exempt: ClassVar[dict[str, str]] = {
        f"gradients:lm.decoder.block.*.layer.0.SelfAttention.{part}.weight": (
            "One decoded position attends to itself alone, whatever this is."
        )
        for part in ("q", "k", "relative_attention_bias")
    }
    config: GenSRConfig
    titles: Tensor  # (n_items + 1, W) int32 token ids of each item's text
    cf: Tensor  # (n_items + 1, cf_dim) the frozen CF table
    scale: Tensor  # () root mean square of a word embedding's entries

    def __init__(self, config: GenSRConfig, context: Context):
        super().__init__(config, context)
        if config.backbone == "auto":
            raise UsageError(
                "gensr.backbone is 'auto', which bench.ranker.backbone_names.resolve turns into a name; give that name"
            )
        backbone = context.backbone(config.backbone, TEXTS)
        self.backbone_name = backbone.name
        self.lm = backbone.model
        tokenizer, width = backbone.tokenizer, self.lm.config.d_model
        try:
            self.yes, self.no = single_token(tokenizer, YES), single_token(tokenizer, NO)
        except ValueError as error:
            raise RunError(f"backbone '{backbone.name}' does not fit GenSR: {error}") from None
        self.start = self.lm.config.decoder_start_token_id
        self.prompts = Prompts(tokenizer, query_texts(self.catalog), config.query_tokens)
        self.register_buffer(
            "titles", _titles(tokenizer, item_texts(self.catalog), config.title_tokens), persistent=False
        )
        self.register_buffer("cf", torch.zeros(self.catalog.n_items + 1, config.cf_dim))
        # Root mean square of a word embedding's entries: the scale of what is inserted among words.
        scale = self.words.weight.detach().square().mean().sqrt() if config.match_norm else torch.ones(())
        self.register_buffer("scale", scale)
        self.cf_view = InterestView(config.cf_dim, config.cf_dim, config)
        self.semantic_view = InterestView(width, width, config)
        self.project = nn.Linear(config.cf_dim, width)

    @property
    def words(self) -> nn.Embedding:
        """The word embeddings of the language model."""
        return self.lm.get_input_embeddings()

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record: the language model that answered."""
        return {"backbone": self.backbone_name}

    def precompute(self, train: TrainData) -> None:
        """Fill the frozen CF table: LightGCN on the recommendation clicks of the training part."""
        config = self.config
        settings = {name: getattr(config, f"cf_{name}") for name in TableConfig.model_fields}
        tables = click_table(self.context, train, TableConfig(**settings))
        table = tables["item" if config.cf_table == "propagated" else "item_ego"]
        # One number for the whole table: the view works at unit scale, and popular items keep their longer rows.
        self.cf.copy_(table / table[1:].square().mean().sqrt() if config.match_norm else table)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Pretrained and new weights by learning rate, matrices and vectors by weight decay."""
        pretrained = set() if self.backbone_name == SMALL else {id(p) for p in self.lm.parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            groups.setdefault((id(parameter) in pretrained, parameter.dim() > 1), []).append(parameter)
        config = self.config
        return [
            {"params": members, "lr": config.lr if old else config.lr_new, "weight_decay": config.weight_decay * matrix}
            for (old, matrix), members in groups.items()
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Instruction tuning and contrast: task + lambda * contrast (eq. 8)."""
        views, inserts = self._inserts(batch)
        assert batch.label is not None, "a training batch has labels"
        answers = torch.where(batch.label > 0, self.yes, self.no)
        total = inserts.new_zeros(())
        for task in (0, 1):
            rows = torch.nonzero(batch.task == task).flatten()
            if len(rows):
                logits = self._answer(self.prompts.plan(task, batch.query[rows]), inserts[rows])
                total = total + F.cross_entropy(logits, answers[rows].flatten(), reduction="sum")
        task_loss = total / answers.numel()
        if not self.config.contrast:
            return task_loss, {"task": task_loss}
        contrast = user_contrast(*views, batch.user, self.config.temperature)
        return task_loss + self.config.contrast * contrast, {"task": task_loss, "contrast": contrast}

    def score(self, batch: Batch) -> Tensor:
        """logit(Yes) - logit(No) of every candidate, (B, K)."""
        scores = torch.empty(batch.cand.shape, device=batch.cand.device)
        step = max(1, _CHUNK // batch.cand.shape[1])
        for task in (0, 1):
            of_task = torch.nonzero(batch.task == task).flatten()
            for low in range(0, len(of_task), step):
                rows = of_task[low : low + step]
                part = batch.take(rows)
                _, inserts = self._inserts(part)
                logits = self._answer(self.prompts.plan(task, part.query), inserts).float()
                scores[rows] = (logits[:, self.yes] - logits[:, self.no]).view(part.cand.shape)
        return scores

    def _inserts(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The user's two views (B, width) each, zero without a history, and c_hat, s_hat, e_i, t_i: (B, K, 4, width)."""
        history = batch.merged(self.config.history)
        items, mask = history.items, history.mask
        candidates = self.cf[batch.cand]
        collaborative = self.cf_view.encoder(self.cf[items], mask)
        filtered = self.cf_view.filter(candidates, collaborative, mask)
        titles = self._title(torch.cat([items, batch.cand], 1))
        past, wanted = titles.split([items.shape[1], batch.cand.shape[1]], 1)
        semantic = self.semantic_view.encoder(past / self.scale, mask)
        interests = self.semantic_view.filter(wanted / self.scale, semantic, mask)
        inserts = torch.stack(
            [
                self.project(filtered) * self.scale,
                interests * self.scale,
                self.project(candidates) * self.scale,
                wanted,
            ],
            2,
        )
        empty = ~mask.any(1, keepdim=True)
        views = self.project(masked_mean(collaborative, mask)), masked_mean(semantic, mask)
        return (views[0].masked_fill(empty, 0), views[1]), inserts

    def _title(self, items: Tensor) -> Tensor:
        """Mean word embedding of the first tokens of each item's text: (B, n) ids to (B, n, width)."""
        distinct, inverse = items.unique(return_inverse=True)
        table = F.embedding_bag(self.titles[distinct], self.words.weight, mode="mean", padding_idx=self.prompts.pad)
        return table[inverse]

    def _answer(self, prompt: Prompt, inserts: Tensor) -> Tensor:
        """Logits over the vocabulary of the first decoded token, (R * K, V), for R prompts with K candidates each."""
        rows, count, _, _width = inserts.shape
        text = self.words(prompt.ids)[:, None].expand(-1, count, -1, -1)
        place = prompt.inserts[:, None, :, None].expand_as(inserts)
        embedded = text.scatter(2, place, inserts.to(text.dtype)).flatten(0, 1)
        mask = None if bool(prompt.mask.all()) else prompt.mask.repeat_interleave(count, 0).long()
        start = torch.full((rows * count, 1), self.start, device=inserts.device)
        out = self.lm(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=start, use_cache=False)
        return out.logits[:, 0]


def _titles(tokenizer: Any, texts: list[str], limit: int) -> Tensor:
    """(n_items + 1, W) int32 token ids of the items' texts, right padded."""
    ids = [tokenizer(text, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"] for text in texts]
    width = max(1, max(map(len, ids)))
    return torch.as_tensor(
        np.array([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids], dtype=np.int32)
    )
