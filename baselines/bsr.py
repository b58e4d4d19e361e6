"""BSR: generative retrieval with one token per item, shared by search and recommendation (Penha et al., RecSys 2024)."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from bench.data.log import REC, SEARCH
from bench.data.ragged import Ragged
from bench.errors import NothingToReadError
from bench.ranker.backbone import query_texts
from bench.ranker.backbone_names import SMALL
from bench.ranker.blocks.language import ExtraVocabulary, answer, encode
from bench.ranker.blocks.losses import LossType, of_products
from bench.ranker.blocks.prompts import Template, Tokens, embed
from bench.ranker.blocks.trie import Trie, beam_search, found_scores
from bench.ranker.contract import (
    Batch,
    Context,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Representation,
    TorchRanker,
    TrainConfig,
    Window,
)
from bench.ranker.registry import register

# The publication has no wording; the kind of request stands in front of what the request holds.
TEXTS = {REC: "Recommend an item after {items}", SEARCH: "Search an item for {query}"}
MISSED = -1e4  # log-probability of an item that no beam reached, below any that one did


class BSRConfig(TrainConfig):
    """As published where something is (AdamW, 2e-3, decay .01, batches of 128); 5 epochs there, patience here."""

    backbone: str = "auto"
    """The language model: `auto`, `small-t5`, a name of the hub, or a folder."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Optimiser of all weights."""
    lr: PositiveFloat = 2e-3
    """Learning rate after the warm-up."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    warmup: NonNegativeInt = 200
    """Steps of linear warm-up."""
    clip: NonNegativeFloat = 1.0
    """Bound of the gradient's norm."""
    batch_size: PositiveInt = 128
    """Rows of a training batch, of both tasks as they come."""
    history_rec: PositiveInt = 20
    """Last recommendation clicks in a prompt."""
    query_tokens: PositiveInt = 32
    """First tokens of a query in a prompt."""
    softmax: Literal["vocabulary", "items", "sampled"] = "vocabulary"
    """What competes with the clicked item in training: every token, every item, or the `negatives` of its row."""
    negatives: NonNegativeInt = 0
    """Items sampled for each clicked item; read by softmax = "sampled"."""
    decode: Literal["exact", "beam"] = "exact"
    """Score every candidate, or only what a beam search of the catalogue finds; all others tie below."""
    beams: PositiveInt = 50
    """Beams of decode = "beam"."""

    @model_validator(mode="after")
    def _something_competes(self) -> "BSRConfig":
        if self.softmax == "sampled" and not self.negatives:
            raise ValueError("softmax = 'sampled' reads sampled items; set negatives to at least 1")
        return self


@register("bsr", title="BSR", tasks=("rec", "search"), group="unified", cite="Penha et al., RecSys 2024")
class BSR(TorchRanker):
    """A T5 reads the clicked items or the query and answers with a token that is the item.

    Every item is a new token of the language model, one row of its input table and one of its output head. A prompt of
    recommendation lists the tokens of the user's last clicks, one of search holds the words of the query and nothing of
    the user. One model learns both tasks from the union of their rows: cross-entropy of the item's token. The score is
    the logit of the item's token after one decoder step, exact for any number of candidates.

    No code is published. The wording of the prompts, the warm-up and the bound of gradients are ours; the target has no
    end-of-sequence token, which after an id of one token is always the same.
    """

    Config = BSRConfig
    uses_query = True
    uses_history = ("rec",)
    quick: ClassVar[dict[str, Any]] = {"backbone": SMALL, "max_steps": 3000}
    search_space: ClassVar[dict[str, Any]] = {
        "lr": [5e-4, 1e-3, 2e-3],
        "history_rec": [10, 20],
        "softmax": ["vocabulary", "items"],
    }
    exempt: ClassVar[dict[str, str]] = {
        f"gradients:lm.decoder.block.*.layer.0.SelfAttention.{part}.weight": (
            "One decoded position attends to itself alone, whatever this is."
        )
        for part in ("q", "k", "relative_attention_bias")
    }
    config: BSRConfig

    def __init__(self, config: BSRConfig, context: Context):
        super().__init__(config, context)
        queries = query_texts(self.catalog)
        if "search" in context.tasks and not any(queries):
            raise NothingToReadError(
                f"the queries of {self.catalog.name} have no words that a language model could read"
            )
        backbone = context.backbone(config.backbone, list(TEXTS.values()))
        self.backbone_name, self.lm = backbone.name, backbone.model
        self.queries = Tokens(backbone.tokenizer, queries, config.query_tokens)
        self.templates = torch.nn.ModuleList(Template(backbone.tokenizer, TEXTS[task]) for task in (REC, SEARCH))
        self.items = ExtraVocabulary(self.lm, self.catalog.n_items, context.generator("bsr-items"))
        self._trie: list[Trie] = []

    @property
    def window(self) -> Window:
        """Recommendation clicks alone."""
        return Window(rec=self.config.history_rec, search=0)

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record: the language model that answered."""
        return {"backbone": self.backbone_name}

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the clicked item's token."""
        assert batch.item is not None, "a training batch has clicked items"
        vectors, target = self.answers(batch), batch.item - 1
        if self.config.softmax == "vocabulary":
            head = torch.cat([self.lm.get_output_embeddings().weight, self.items.output])  # (V + N, d)
            return F.cross_entropy(vectors @ head.T, self.items.first + target)
        table = F.pad(self.items.output, (0, 0, 1, 0))  # (N + 1, d), row 0 = padding
        kind: LossType = "CE" if self.config.softmax == "items" else "sampled-CE"
        return of_products(kind, vectors, table, batch.item, batch.negatives)

    def answers(self, batch: Batch) -> Tensor:
        """What the language model says first for each row, (B, d), for the output head."""
        vectors = batch.cand.new_zeros(len(batch), self.lm.config.d_model, dtype=torch.float32)
        for task in (REC, SEARCH):
            rows = torch.nonzero(batch.task == task).flatten()
            if len(rows):
                vectors = vectors.index_copy(0, rows, self._answers(batch, task, rows).float())
        return vectors

    def _answers(self, batch: Batch, task: int, rows: Tensor) -> Tensor:
        if task == REC:
            clicks, real = batch.rec_items[rows], batch.rec_mask[rows]
            # Token V + n is item n + 1.
            fields = {"items": (torch.where(real, self.items.first + clicks - 1, 0), real)}
        else:
            fields = {"query": self.queries(batch.query[rows])}
        prompt = self.templates[task](len(rows), **fields)
        states = encode(self.lm, embed(prompt, self.lm.get_input_embeddings(), extra=self.items.input), prompt.mask)
        return answer(self.lm, states, prompt.mask)

    def encode(self, batch: Batch) -> Tensor:
        """Answers (B, d); with decode = "beam" the scores of the whole catalogue, (B, n_items + 1)."""
        vectors = self.answers(batch)
        if self.config.decode == "exact":
            return vectors
        log_probs = F.log_softmax(vectors @ self.items.output.T, -1)  # (B, N)
        beams = min(self.config.beams, self.catalog.n_items)
        items, found = beam_search(self._paths(), lambda parent, token: log_probs[:, None], len(batch), beams)
        return found_scores(items, found, self.catalog.n_items, MISSED)

    def score_items(self, encoded: Tensor, cand: Tensor) -> Tensor:
        """Logits of the candidates' tokens, (B, K); with decode = "beam" the log-probability among all items."""
        if self.config.decode == "beam":
            return encoded.gather(1, cand)
        return (encoded[:, None] * self.items.output[cand - 1]).sum(-1)

    def represent(self, batch: Batch) -> Representation:
        """The answer beside the candidate's token in the input, (B, K, 2d), and its product with the one in the head."""
        tokens = self.items.input[batch.cand - 1]  # (B, K, d)
        answers = self.answers(batch)[:, None].expand_as(tokens)  # (B, K, d)
        return Representation(torch.cat([answers, tokens], -1), answers * self.items.output[batch.cand - 1])

    def _paths(self) -> Trie:
        """The ids of all items, one token each."""
        if not self._trie:
            n = self.catalog.n_items
            self._trie.append(Trie(Ragged(np.arange(n + 1), np.arange(n))).to(self.items.output.device))
        return self._trie[0]
