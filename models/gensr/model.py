"""GenSR (Zhao et al., SIGIR 2025): search and recommendation by one language model that answers Yes or No.

A user's last clicks of both tasks are read in two views, as rows of a LightGCN table (CF) and as means of title
embeddings (semantic). Each candidate filters both views by cross-attention; the two pooled vectors and the candidate's
own two take four places in a prompt of its task, and the score is logit(Yes) - logit(No) of one decoder step.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import RunError, UsageError
from bench.models.gensr.config import GenSRConfig
from bench.models.gensr.first_pass import FirstPass
from bench.models.gensr.parts import scoring_parts
from bench.models.gensr.plateau import Plateau
from bench.models.gensr.prompt import NO, YES, Prompts, single_token, wording
from bench.models.gensr.reader import Reader
from bench.models.gensr.texts import add_words, padded, token_ids
from bench.models.gensr.titles import title_means, title_tokens
from bench.models.gensr.views import Alignment, Histories, IdleWeights, InterestView
from bench.ranker.backbone_names import SMALL
from bench.ranker.blocks.graph import TableConfig, click_table
from bench.ranker.blocks.lora import add_lora, lora_parameters
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.contract import Batch, Context, Representation, Stream, TorchRanker, TrainData
from bench.ranker.registry import register


@register("gensr", title="GenSR", tasks=("rec", "search"), group="unified", cite="Zhao et al., SIGIR 2025")
class GenSR(TorchRanker):
    """GenSR as the paper has it, or as its released code has it; see `GenSRConfig`."""

    Config = GenSRConfig
    uses_query = True
    quick: ClassVar[dict[str, Any]] = {"backbone": SMALL, "max_steps": 1700, "cf_epochs": 20}
    search_space: ClassVar[dict[str, Any]] = {
        "lr_new": [3e-4, 1e-3, 3e-3],
        "contrast": [0.0, 0.001, 0.005, 0.01, 0.05, 0.1],
        "temperature": [0.01, 0.03, 0.05, 0.07, 0.1, 0.3, 0.5],
    }
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "CF view only": {"views": "cf"},
        "semantic view only": {"views": "semantic"},
        "no soft filter": {"filter": "mean"},
        "no contrast": {"contrast": 0.0},
    }
    exempt: ClassVar[dict[str, str]] = {
        f"gradients:lm.decoder.block.*.layer.0.SelfAttention.{part}.weight": (
            "One decoded position attends to itself alone, whatever this is."
        )
        for part in ("q", "k", "relative_attention_bias")
    }
    config: GenSRConfig
    titles: Tensor  # (n_items + 1, W) int32 token ids of each item's text
    cf: Tensor  # (n_items + 1, cf_dim) the CF table
    scale: Tensor  # () root mean square of a word embedding's entries

    def __init__(self, config: GenSRConfig, context: Context):
        super().__init__(config, context)
        if config.backbone == "auto":
            raise UsageError(
                "gensr.backbone is 'auto', which bench.ranker.backbone_names.resolve turns into a name; give that name"
            )
        self.wording = wording(config, self.catalog.item_kind if config.kind == "auto" else config.kind)
        backbone = context.backbone(config.backbone, self.wording.texts())
        self.backbone_name, self.lm, tokenizer = backbone.name, backbone.model, backbone.tokenizer
        width = self.lm.config.d_model
        try:
            self.yes, self.no = single_token(tokenizer, YES), single_token(tokenizer, NO)
            if self.yes == self.no:
                raise ValueError(f"'{YES}' and '{NO}' are one token of this tokenizer, {self.yes}")
        except ValueError as error:
            raise RunError(f"backbone '{backbone.name}' does not fit GenSR: {error}") from None
        # The small backbone's vocabulary is the log's own: its frequent words are tokens of it already.
        known = tokenizer.get_vocab() if self.backbone_name == SMALL else {}
        tokens = token_ids(config, tokenizer, self.catalog, len(self.words.weight), known)
        self.added_words = tokens.added
        add_words(self.lm, tokens.added, context.generator("gensr words"))
        if config.lora:
            add_lora(self.lm, context, rank=config.lora, alpha=config.lora_alpha, dropout=0.0, targets=["q", "v"])
            self.words.weight.requires_grad_(tokens.added > 0)  # new words have nothing to stay as
        self.prompts = Prompts(tokenizer, self.wording, tokens.queries)
        longest = max(config.title_tokens, config.history_title_tokens)
        titles = torch.from_numpy(padded(tokens.items, tokenizer.pad_token_id, longest))
        self.register_buffer("titles", titles, persistent=False)
        table = torch.zeros(self.catalog.n_items + 1, config.cf_dim)
        if config.cf_trained:
            self.cf = nn.Parameter(table)
        else:
            self.register_buffer("cf", table)
        # Root mean square of a word embedding's entries: the scale of what is inserted among words.
        scale = self.words.weight.detach().square().mean().sqrt() if config.match_norm else torch.ones(())
        self.register_buffer("scale", scale)
        self._build(width)
        self._read = Reader(self.lm, config.checkpointing)
        self.plateau = Plateau(config)

    def _build(self, width: int) -> None:
        """The views, the projection and the contrast, as far as the config has them."""
        config = self.config
        tokens = min(config.history_title_tokens, self.titles.shape[1])
        length = config.history * (tokens if config.semantic_history == "tokens" else 1)
        cf, semantic = config.views != "semantic", config.views != "cf"
        self.cf_view = InterestView(config.cf_dim, config.history, config) if cf else None
        self.semantic_view = InterestView(width, length, config) if semantic else None
        self.project = nn.Linear(config.cf_dim, width) if cf else None
        self.dot = nn.Parameter(torch.zeros(width)) if cf and config.dot_feature else None
        self.alignment = Alignment(width, config) if cf and semantic and config.contrast else None
        if config.idle_weights:
            self.idle = IdleWeights([view for view in (self.cf_view, self.semantic_view) if view], config)

    @property
    def words(self) -> nn.Embedding:
        """The word embeddings of the language model."""
        return self.lm.get_input_embeddings()

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record: the language model that answered, and whether it stayed on the plateau."""
        added = {"added words": self.added_words} if self.added_words else {}
        return {"backbone": self.backbone_name} | added | self.plateau.evidence()

    def precompute(self, train: TrainData) -> None:
        """Fill the CF table: LightGCN on the recommendation clicks of the training part."""
        config = self.config
        if config.views == "semantic":
            return
        settings = {name: getattr(config, f"cf_{name}") for name in TableConfig.model_fields}
        tables = click_table(self.context, train, TableConfig(**settings))
        table = tables["item" if config.cf_table == "propagated" else "item_ego"]
        # One number for the whole table: the view works at unit scale, and popular items keep their longer rows.
        self.cf.data.copy_(table / table[1:].square().mean().sqrt() if config.match_norm else table)

    def stream(self, train: TrainData) -> Stream:
        """The training batches; the first pass over and over where the release's order is asked for."""
        stream = super().stream(train)
        return stream if self.config.reshuffle else FirstPass(stream)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Pretrained and new weights by learning rate, matrices and vectors by weight decay."""
        fresh = {id(p) for p in lora_parameters(self.lm)}
        pretrained = set() if self.backbone_name == SMALL else {id(p) for p in self.lm.parameters()} - fresh
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in pretrained, parameter.dim() > 1), []).append(parameter)
        config = self.config
        return [
            {"params": members, "lr": config.lr if old else config.lr_new, "weight_decay": config.weight_decay * matrix}
            for (old, matrix), members in groups.items()
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Instruction tuning and contrast: task + lambda * contrast (eq. 8)."""
        assert batch.item is not None and batch.negatives is not None and batch.label is not None
        cand, label, weight = batch.cand, batch.label, self.config.contrast
        if self.training:
            if self.plateau.balanced():
                cand = torch.stack([batch.item, batch.negatives[:, 0]], 1)
                label = torch.tensor([1.0, 0.0], device=cand.device).expand(len(cand), -1)
            weight *= self.plateau.contrast_share()
        histories = self.encode(batch)
        inserts, pooled = self._inserts(histories, cand)
        total = inserts.new_zeros(())
        for task in (0, 1):
            rows = torch.nonzero(batch.task == task).flatten()
            if len(rows):
                states = self._answer(task, batch.query[rows], inserts[rows])
                total = total + self._likelihood(states, label[rows].flatten() > 0)
        task_loss = total / label.numel()
        if self.training:
            self.plateau.saw(task_loss)
        if self.alignment is None:
            return task_loss, {"task": task_loss}
        # In half precision a step of the sharpest contrast would be larger than what it tells apart.
        with torch.autocast(task_loss.device.type, enabled=False):
            left, right, user = self._contrasted(histories, pooled)
            contrast = self.alignment(left.float(), right.float(), user)
        return task_loss + weight * contrast, {"task": task_loss, "contrast": contrast}

    def _likelihood(self, states: Tensor, clicked: Tensor) -> Tensor:
        """Summed negative log-likelihood of the answers (eq. 9), among all words or among the two (`loss_over`)."""
        if self.config.loss_over == "answers":
            return F.cross_entropy(self._answers(states), (~clicked).long(), reduction="sum")
        logits = self._words_of(states)
        return F.cross_entropy(logits, torch.where(clicked, self.yes, self.no), reduction="sum")

    def encode(self, batch: Batch) -> Histories:
        """The two views of the rows' histories, once for any number of candidates."""
        config = self.config
        # Of all acts at hand, for a search may have no click.
        history = batch.merged(max(1, batch.merged_task.shape[1])).last_clicks(config.history)
        items, mask = history.items, history.mask
        cf = semantic = None
        semantic_mask = mask
        if self.cf_view is not None:
            cf = self.cf_view.encoder(F.embedding(items, self.cf), mask)
        if self.semantic_view is not None:
            if config.semantic_history == "items":
                read = self._title(items, config.history_title_tokens)
            else:
                titles = self.titles[:, : config.history_title_tokens]
                read, semantic_mask = title_tokens(titles, items, mask, self.words, self.prompts.pad)
            semantic = self.semantic_view.encoder(read / self.scale, semantic_mask)
        return Histories(batch.user, batch.task, batch.query, mask, cf, semantic_mask, semantic)

    def score_items(self, encoded: Histories, cand: Tensor) -> Tensor:
        """logit(Yes) - logit(No) of every candidate, (B, K), or P(Yes) under `score_as`."""
        scores = torch.empty(cand.shape, device=cand.device)
        limit = self.config.scoring_mb
        for task, rows, columns in scoring_parts(self.prompts, self.lm.config, encoded, cand.shape[1], limit):
            part = encoded.take(rows)
            inserts, _ = self._inserts(part, cand[rows, columns])
            states = self._answer(task, part.query, inserts)
            if self.config.score_as == "probability":
                found = self._words_of(states).softmax(-1)[:, self.yes]
            else:
                yes, no = self._answers(states).unbind(1)
                found = yes - no
            scores[rows, columns] = found.view(len(rows), -1)
        return scores

    def represent(self, batch: Batch) -> Representation:
        """What the prompt holds, (B, K, (I + 1) * width), and the answer's state, (B, K, width).

        The vectors in the prompt's places side by side, which are its `views`, and the mean embedding of its words, the
        query's among them.
        """
        encoded, width, limit = self.encode(batch), self.lm.config.d_model, self.config.scoring_mb
        inputs = torch.zeros((*batch.cand.shape, (len(self.wording.inserts) + 1) * width), device=batch.cand.device)
        hidden = inputs.new_zeros((*batch.cand.shape, width))
        for task, rows, columns in scoring_parts(self.prompts, self.lm.config, encoded, batch.cand.shape[1], limit):
            part = encoded.take(rows)
            inserts, _ = self._inserts(part, batch.cand[rows, columns])  # (b, k, I, width)
            prompt = self.prompts.plan(task, part.query)
            words = masked_mean(self.words(prompt.ids), prompt.mask.scatter(1, prompt.inserts, False))  # (b, width)
            read = torch.cat([inserts, words[:, None, None].expand(-1, inserts.shape[1], 1, -1)], 2)
            inputs[rows, columns] = read.float().flatten(2)
            states = self._answer(task, part.query, inserts).float()
            hidden[rows, columns] = states.view(*inserts.shape[:2], width)
        return Representation(inputs, hidden, inputs[..., :-width])

    def _inserts(self, histories: Histories, cand: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """c_hat, s_hat, e_i, t_i of candidates (B, K), those of the views that are on: (B, K, I, width).

        The second value are the two pooled vectors of each candidate, (B, K, width), where they are contrasted.
        """
        found: dict[int, Tensor] = {}
        if self.cf_view is not None:
            candidates = F.embedding(cand, self.cf)
            assert self.project is not None and histories.cf is not None
            filtered = self.cf_view.pool(histories.cf, histories.mask, candidates)
            own = self.project(candidates)
            if self.dot is not None:
                own = own + (filtered * candidates).mean(-1, keepdim=True) * self.dot
            pooled = self.project(filtered)
            found |= {0: pooled * self.scale, 2: own * self.scale}
        if self.semantic_view is not None:
            assert histories.semantic is not None
            wanted = self._title(cand, self.config.title_tokens)
            interests = self.semantic_view.pool(histories.semantic, histories.semantic_mask, wanted / self.scale)
            found |= {1: interests * self.scale, 3: wanted}
        kept = torch.stack([found[number] for number in self.wording.inserts], 2)
        return kept, (pooled, interests) if len(found) == 4 else None

    def _contrasted(self, histories: Histories, pooled: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """CF side, semantic side (N, width) and users (N,) of the contrast; sides without a history are zero."""
        if self.config.contrast_of == "pooled":
            assert pooled is not None
            # Of an empty history the filter and the projection leave their biases, which say nothing of the user.
            empty = ~histories.mask.any(1)[:, None, None]
            return *(side.masked_fill(empty, 0).flatten(0, 1) for side in pooled), histories.user
        assert self.project is not None and histories.cf is not None and histories.semantic is not None
        left = self.project(masked_mean(histories.cf.float(), histories.mask))
        right = masked_mean(histories.semantic.float(), histories.semantic_mask)
        return left.masked_fill(~histories.mask.any(1, keepdim=True), 0), right, histories.user

    def _title(self, items: Tensor, limit: int) -> Tensor:
        """Mean word embedding of the first `limit` tokens of each item's text, (B, n) ids to (B, n, width)."""
        return title_means(self.titles[:, :limit], items, self.words, self.prompts.pad)

    def _answer(self, task: int, query: Tensor, inserts: Tensor) -> Tensor:
        """The state that scores the first decoded token, (R * K, width), for R prompts with K candidates each."""
        asked, of = query.unique(return_inverse=True)
        if task == 0:  # one prompt for all
            asked, of = query[:1], torch.zeros_like(query)
        prompt = self.prompts.plan(task, asked)
        return self._read(self.words(prompt.ids), of, inserts, prompt.inserts, prompt.mask)

    def _words_of(self, states: Tensor) -> Tensor:
        """Logits of all words, float32 (N, V)."""
        with torch.autocast(states.device.type, enabled=False):
            return self.lm.get_output_embeddings()(states.float())

    def _answers(self, states: Tensor) -> Tensor:
        """Logits of Yes and No, float32 (N, 2), from two rows of the head."""
        rows = self.lm.get_output_embeddings().weight[[self.yes, self.no]]
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.float(), rows.float())
