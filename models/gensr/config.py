"""Settings of GenSR: what the paper says, what its released code does instead, and what neither says.

`mode` chooses between two readings of the method. Each difference between them that touches the model is a setting of
its own, so that its effect can be measured alone: `--set gensr.mode=released` takes all of `RELEASED`, and
`--set gensr.cf_table=ego` takes one.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.ranker.contract import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TrainConfig,
)

# What the released code does where the paper says, or means, something else. The defaults below are the paper's.
RELEASED: dict[str, Any] = {
    "query_in_prompt": False,
    "third_segment": "repeated",
    "positions": False,
    "semantic_history": "tokens",
    "filter": "bilinear",
    "history_title_tokens": 10,
    "cf_table": "ego",
    "similarity": "normed",
    "contrast_of": "pooled",
    "score_as": "probability",
    "reshuffle": False,
    "first_check": 4,
    "kind": "book",
    "idle_weights": True,
    "match_norm": False,
    "lr_new": 1e-4,
    "schedule": "linear",
}


class GenSRConfig(TrainConfig):
    """Settings of GenSR. Where the paper is silent the released run decides; deviations from both are marked as such."""

    mode: Literal["paper", "released"] = "paper"
    """Defaults of the settings in which the released code differs from the paper; those that are set go over them."""
    backbone: str = "auto"
    """T5 or a relative of it: a name of the hub, a folder, `small-t5`; auto = flan-t5-base where it is on this machine."""
    lora: NonNegativeInt = 0
    """Rank of LoRA on the queries and values of the backbone, which stays as it is otherwise; 0 = all of it is trained."""
    lora_alpha: PositiveInt = 16
    """Products of LoRA are scaled by this over the rank."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Optimiser of all weights."""
    lr: PositiveFloat = 1e-4
    """Learning rate of pretrained weights."""
    # Deviation: the release has 1e-4 throughout; its loss stays at the entropy of the labels for 145,000 steps.
    lr_new: PositiveFloat = 1e-3
    """Learning rate of what starts at random: the views, the projection, all of small-t5."""
    weight_decay: NonNegativeFloat = 1e-3
    """Decoupled decay of matrices; vectors bear none."""
    warmup: NonNegativeInt = 200
    """Steps of linear warm-up."""
    clip: NonNegativeFloat = 1.0
    """Bound of the gradient's norm."""
    batch_size: PositiveInt = 40
    """Clicks of a batch; with 4 negatives each, the release's 200 rows."""
    epochs: PositiveInt = 200
    """Most passes over the clicks."""
    reshuffle: bool = True
    """Every pass draws its own order and negatives; the release repeats the first pass (no `set_epoch`)."""
    checkpointing: bool = False
    """Keep the activations of a layer of the language model's encoder only at its borders and compute the rest twice."""
    scoring_mb: PositiveInt = 48
    """Megabytes that the activations of one part of the scoring may take, about."""

    history_rec: PositiveInt = 20
    """Last recommendation clicks that a batch carries."""
    history_search: PositiveInt = 20
    """Last searches that a batch carries."""
    history: PositiveInt = 20
    """Last clicks of both tasks that are read; a search brings all that were clicked in it."""
    views: Literal["both", "cf", "semantic"] = "both"
    """Ablation (Figure 4): with one view, the other's two vectors leave the prompt, and there is nothing to contrast."""
    filter: Literal["attention", "bilinear", "mean"] = "attention"
    """Soft filter: multi-head cross-attention (eq. 5, 6), the release's bilinear form, or none (Figure 4): the mean."""
    # The paper speaks of sequential dependencies; the release has no positions and reads a set.
    positions: bool = True
    """Learned positions in the two views, counted from the newest click."""
    layers: PositiveInt = 1
    """Transformer layers of a view."""
    heads: PositiveInt = 2
    """Heads of a view and of its filter."""
    dropout: Fraction = 0.1
    """In the views; the language model keeps its own."""

    kind: Annotated[str, Field(pattern=r"^[^{}<>]+$")] = "auto"
    """What the prompts call an item; auto = what the data set declares."""
    query_in_prompt: bool = True
    """The search prompt holds the query; the release leaves a literal placeholder there."""
    third_segment: Literal["own", "repeated"] = "own"
    """Text before the candidate: its own, or what the release cuts out, the fourth and fifth once more."""
    title_tokens: PositiveInt = 32
    """First tokens of a candidate's text, whose mean embedding is its semantic vector."""
    history_title_tokens: PositiveInt = 32
    """The same for the items of the history."""
    query_tokens: PositiveInt = 32
    """First tokens of a query in the prompt."""
    semantic_history: Literal["items", "tokens"] = "items"
    """The semantic view reads one vector an item, or every token of the titles (release)."""
    word_ids: Literal["auto", "tokens", "text"] = "auto"
    """Words as tokens that are added to the backbone's, or as text; auto = tokens where items have no text and every
    word is a number (KuaiSAR)."""
    word_limit: PositiveInt = 100_000
    """Most frequent words that become tokens; the others share the unknown one."""

    contrast: NonNegativeFloat = 0.01
    """Lambda, weight of the contrastive loss (eq. 8)."""
    temperature: PositiveFloat = 0.07
    """Tau of the contrastive loss."""
    similarity: Literal["cosine", "normed"] = "cosine"
    """Cosine (eq. 10), or the release's product of normalised vectors after LayerNorm, some d times as large."""
    contrast_of: Literal["views", "pooled"] = "views"
    """Users' views (eq. 10), or the release's pooled vectors of every candidate, users notwithstanding."""
    contrast_warmup: NonNegativeInt = 0
    """Batches over which lambda grows from 0, against the training plateau."""

    score_as: Literal["logits", "probability"] = "logits"
    """logit(Yes) - logit(No), as under constrained generation, or the release's P(Yes) among all words."""
    loss_over: Literal["vocabulary", "answers"] = "vocabulary"
    """The likelihood of the answer among all words (eq. 9), or among Yes and No."""
    # Deviation: inserted vectors get the size of word embeddings, to which the projected CF rows have no relation.
    match_norm: bool = True
    """Inserted vectors have the scale of word embeddings, against the training plateau."""
    balanced_batches: NonNegativeInt = 0
    """So many batches at first have one negative a click, against the training plateau."""
    dot_feature: bool = False
    """The candidate's CF token also carries the product of its row with the filtered history, against the plateau."""

    cf_table: Literal["propagated", "ego"] = "propagated"
    """Rows of LightGCN after its propagation, or those of its layer 0 (release)."""
    cf_trained: bool = False
    """Train the rows of the table as well; paper and release freeze them."""
    cf_dim: PositiveInt = 64
    """Width of a row of the CF table."""
    cf_layers: PositiveInt = 2
    """Hops of its propagation."""
    cf_epochs: PositiveInt = 200
    """Passes of its training over the recommendation clicks."""
    cf_lr: PositiveFloat = 5e-3
    """Its learning rate."""
    cf_decay: NonNegativeFloat = 1e-4
    """Its weight decay."""
    cf_batch_size: PositiveInt = 2048
    """Clicks of its batches."""
    idle_weights: bool = False
    """Carry the release's weights that nothing reads: a second copy of each view's layer and a table of positions."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("mode") == "released":
            return RELEASED | given
        return given
