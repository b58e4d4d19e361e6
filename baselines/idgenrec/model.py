"""IDGenRec: recommendation in textual ids that a language model learns to write (Tan et al., SIGIR 2024)."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.idgenrec.config import IDGenRecConfig
from bench.baselines.idgenrec.names import DIGITS, Wave, distinct, diverse_beams, wordless_tokens
from bench.data.ragged import Ragged
from bench.errors import NothingToReadError, RunError
from bench.ranker.backbone_names import SMALL
from bench.ranker.blocks.language import decode, encode, next_tokens, shifted, token_log_probs
from bench.ranker.blocks.pooling import masked_mean
from bench.ranker.blocks.prompts import Prompt, Template, Tokens, embed
from bench.ranker.blocks.rows import rows_of
from bench.ranker.blocks.trie import Trie, beam_search, found_scores
from bench.ranker.contract import (
    Batch,
    Context,
    Representation,
    Stage,
    Stream,
    TorchRanker,
    TrainConfig,
    TrainData,
    Window,
)
from bench.ranker.registry import register

PROMPT = "After the items {items} the user{user} will choose the item"
NAMED = " known as {user}"
SEPARATOR = ";"  # stands behind each item of a history
KEPT = 0.7  # share of an item's words in what the fresh generator learns to write
COPIED = 128  # items of a batch of that stage
CHUNK = 1024  # names that go through the decoder at once when scoring; bounds its memory
TEXTS = 64  # texts that the generator reads at once
PENALTIES, LENGTHS = range(1, 10), 2  # what is tried until every name is distinct
Describe = Callable[[Tensor], Prompt]  # ids of items or users (n,) to what the generator reads about them
MISSED = -1e4  # log-probability of an item that no beam reached, below any that one did


@register("idgenrec", title="IDGenRec", tasks=("rec",), group="rec", cite="Tan et al., SIGIR 2024")
class IDGenRec(TorchRanker):
    """A T5 writes a short name for every item from its text, and another T5 reads and writes these names.

    The generator's candidates come from diverse beams (10 groups, penalty 1 to 9, then longer ones); an item takes the
    first one that no item has. A user's name is written from the names of the items that the user clicked in training.
    The recommender reads the user's name and those of the last clicks and writes the name of the next item; loss: mean
    negative log-likelihood of its tokens. Rounds alternate: a generator stage trains the generator alone, through soft
    names (at each step of its greedy name the expected word vector of the recommender) in the place of the history;
    then names are written anew, and a recommender stage trains the recommender alone. A candidate's score is the
    log-probability of its whole name with the end token, exact for any number of candidates. `decode=beam` ranks what a
    beam search over the trie of all names finds, as published; all other items tie below.

    Where this differs from the authors' code: names of users come from training clicks alone (theirs read the held-out
    ones, too); soft names mix word vectors by probabilities, where theirs multiplies by log-probabilities; a candidate's
    log-probability is not divided by its length; candidates with equal penalty are compared over the whole catalogue
    before the penalty rises; names that are still not distinct at twice the length bear a number; one wording of our own,
    where theirs draws three of ten. Their generator starts from a T5 that was trained to write tags of articles; give
    one as `generator`. The T5 built here (`small-t5`) has read nothing before. For it a stage "copy" comes first, in
    which the generator learns to write words of an item's text, and takes the place of the first generator stage: a
    recommender that has learnt nothing could not teach it.
    """

    Config = IDGenRecConfig
    uses_user = True
    quick: ClassVar[dict[str, Any]] = {
        "backbone": SMALL,
        "rounds": 1,
        "copy_max_steps": 300,
        "generator_max_steps": 100,
        "max_steps": 1480,
    }
    search_space: ClassVar[dict[str, Any]] = {
        "lr": [5e-4, 1e-3, 3e-3],
        "generator_lr": [1e-8, 1e-6, 1e-4],
        "rounds": [1, 3],
        "user_names": [False, True],
    }
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "random names": {"names": "random"},
        "no names of users": {"user_names": False},
    }
    config: IDGenRecConfig
    item_names: Tensor  # (n_items + 1, S) int32 tokens with the end token, padded; row 0 empty
    user_names: Tensor  # (n_users + 1, S) int32, rows of users without a training click empty
    numbered: Tensor  # () names of items that bear a number

    def __init__(self, config: IDGenRecConfig, context: Context):
        super().__init__(config, context)
        catalog, titles = self.catalog, [str(text) for text in self.catalog.item_text.tolist()]
        if not any(titles):
            raise NothingToReadError(
                f"the items of {catalog.name} have no text that a language model could read, if any words then "
                "anonymised ones; textual ids cannot be written from them"
            )
        texts = [PROMPT.format(items="", user=NAMED.format(user="")), SEPARATOR, DIGITS]
        backbone = context.backbone(config.backbone, texts)
        other = context.backbone(config.generator or config.backbone, texts)
        if other.tokenizer.get_vocab() != backbone.tokenizer.get_vocab():
            raise RunError(f"generator '{other.name}' and backbone '{backbone.name}' have different words")
        self.fresh, self.backbone_name = backbone.name == SMALL, backbone.name
        self.generator_name = other.name
        self.recommender, self.generator = backbone.model, other.model
        self.tokenizer = tokenizer = backbone.tokenizer
        self.texts = Tokens(tokenizer, titles, config.text_tokens)
        self.prompt = Template(tokenizer, PROMPT.replace("{user}", NAMED if config.user_names else ""))
        self.plain = Template(tokenizer, "{text}")
        self.pad, self.end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.separator = tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"][-1]
        wordless = wordless_tokens(self.generator, tokenizer)
        banned = torch.ones_like(wordless)
        # Marks may be written and are left out of the name; special tokens may not.
        banned[[t for t in range(min(len(tokenizer), len(banned))) if t not in tokenizer.all_special_ids]] = False
        banned[tokenizer.eos_token_id] = False
        self.register_buffer("wordless", wordless, persistent=False)
        self.register_buffer("banned", banned, persistent=False)
        self.width = LENGTHS * config.id_tokens + 1
        for name, rows in (("item_names", catalog.n_items + 1), ("user_names", catalog.n_users + 1)):
            self.register_buffer(name, torch.full((rows, self.width), self.pad, dtype=torch.int32))
        self.register_buffer("numbered", torch.tensor(0))
        self._clicks = Ragged(np.zeros(catalog.n_users + 2, dtype=np.int64), np.zeros(0, dtype=np.int64))
        self._trie: tuple[Tensor, Trie] | None = None

    @property
    def window(self) -> Window:
        """Recommendation clicks alone."""
        return Window(rec=self.config.history_rec, search=0)

    def evidence(self) -> dict[str, Any]:
        """Facts for the result record: both language models, mean length of the items' names, and how many bear a number."""
        length = float((self.item_names[1:] != self.pad).sum(1).double().mean())
        return {
            "backbone": self.backbone_name,
            "generator": self.generator_name,
            "name_tokens": round(length, 2),
            "numbered_names": int(self.numbered),
        }

    # Training

    def precompute(self, train: TrainData) -> None:
        """Names to begin with: the generator's, or the words of the texts where it has read nothing yet."""
        clicks = train.arrays("rec")
        order = np.argsort(clicks["time"], kind="stable")
        self._clicks = Ragged.from_pairs(clicks["user"][order], clicks["item"][order], self.catalog.n_users + 1)
        if self.config.names == "random":
            generator = self.context.generator("idgenrec-names")
            self._name([partial(self._random, generator)], [partial(self._random, generator)])
        elif self.fresh:
            self._name(*([partial(self._first_words, prompt)] for prompt in (self._item_prompt, self._user_prompt)))
        else:
            self._rename()

    def stages(self, train: TrainData) -> list[Stage]:
        """Rounds of a generator and a recommender stage; the last recommender stage is "fit"."""
        config = self.config
        copy, generator, between = (config.for_stage(prefix) for prefix in ("copy", "generator", "round"))
        generator_groups = [{"params": [*self.generator.parameters()]}]
        stages = []
        learns = config.names == "generated"
        for number in range(1, config.rounds + 1):
            if learns and number == 1 and self.fresh:
                stages.append(self._stage("copy", copy, self.copy_loss, generator_groups, self._rename))
            elif learns:
                name = f"generator-{number}"
                stages.append(self._stage(name, generator, self.generator_loss, generator_groups, self._rename))
            if number < config.rounds:
                stages.append(self._stage(f"recommender-{number}", between, self.loss, self.parameter_groups()))
        return [*stages, Stage("fit", config, self.loss, self.stream, self.parameter_groups)]

    def _stage(
        self, name: str, config: TrainConfig, loss: Any, groups: list[dict[str, Any]], finish: Any = None
    ) -> Stage:
        def stream(data: TrainData) -> Stream:
            return data.events(config.batch_size, negatives=0, window=self.window)

        return Stage(name, config, loss, stream, lambda: groups, select="last", finish=finish)

    def stream(self, train: TrainData) -> Stream:
        """Training clicks without negatives: the names of all items compete."""
        return train.events(self.config.batch_size, negatives=0, window=self.window)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What a recommender stage trains."""
        return [{"params": [*self.recommender.parameters()]}]

    def loss(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of the tokens of the clicked items' names."""
        return self._recommend(batch, self._prompt(batch))

    def generator_loss(self, batch: Batch) -> Tensor:
        """The same loss with soft names in the history, which carry the gradient to the generator."""
        items, place = batch.rec_items.where(batch.rec_mask, 0).unique(return_inverse=True)  # (n,), (B, L)
        soft, real = self._soft_names(items)  # (n, S, d), (n, S)
        rows, length, steps = len(place), place.shape[1], soft.shape[1]
        # Slots of the prompt stand for soft words, the separator behind each name is a word.
        slots = (-1 - torch.arange(length * steps, device=place.device)).view(1, length, steps).expand(rows, -1, -1)
        tokens = F.pad(slots, (0, 1), value=self.separator)
        mask = F.pad(real[place], (0, 1), value=True) & batch.rec_mask[..., None]
        prompt = self._prompt_of(batch, tokens.flatten(1), mask.flatten(1))
        return self._recommend(batch, prompt, rows_of(soft, place).flatten(1, 2))

    def copy_loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of words of an item's text given the text; which words, chance decides anew each time."""
        seen = torch.cat([batch.item, batch.rec_items[batch.rec_mask]]).unique()
        items = seen[torch.randperm(len(seen), device=seen.device)[:COPIED]]
        tokens, real = self.texts(items)
        words = real & ~self.wordless[tokens]
        kept = words & (torch.rand(words.shape, device=words.device) < KEPT)
        kept = torch.where(kept.any(1, keepdim=True), kept, words)
        target = self.plain(len(items), text=(tokens, kept & (kept.cumsum(1) < self.config.id_tokens)))
        prompt = self.plain(len(items), text=(tokens, real))
        states = encode(self.generator, embed(prompt, self.generator.get_input_embeddings()), prompt.mask)
        found = token_log_probs(self.generator, states, prompt.mask, target.ids[:, None], target.mask[:, None])
        return -found.sum() / target.mask.sum()

    def _recommend(self, batch: Batch, prompt: Prompt, inserts: Tensor | None = None) -> Tensor:
        assert batch.item is not None, "a training batch has clicked items"
        names, real = self._names(self.item_names, batch.item[:, None])  # (B, 1, S)
        return -token_log_probs(self.recommender, *self._read(prompt, inserts), names, real).sum() / real.sum()

    def _soft_names(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Expected word vectors (n, S, d) of the recommender along the generator's greedy names; real (n, S) on words."""
        generator, steps = self.generator, self.config.id_tokens
        prompt = self._item_prompt(items)
        greedy = diverse_beams(generator, prompt, self.banned, groups=1, penalty=0.0, least=1, most=steps)  # (n, 1, S)
        states = encode(generator, embed(prompt, generator.get_input_embeddings()), prompt.mask)
        said = decode(generator, shifted(generator, greedy), states, prompt.mask)[:, 0]  # (n, S, d)
        logits = (said @ generator.get_output_embeddings().weight.T).masked_fill(self.banned, -torch.inf)  # (n, S, V)
        logits[:, 0, self.end] = -torch.inf  # no name is empty
        chances = logits.softmax(-1)
        return chances @ self.recommender.get_input_embeddings().weight, ~self.wordless[greedy[:, 0]]

    # Names

    def _rename(self) -> None:
        """Write all names anew with the generator as it is."""
        self._name(self._written(self._item_prompt), self._written(self._user_prompt))

    def _name(self, items: Iterable[Wave], users: Iterable[Wave]) -> None:
        self.numbered.fill_(self._fill(self.item_names, np.arange(1, self.catalog.n_items + 1), items))
        if self.config.user_names:
            # Users are named after the items' names, and only those whose clicks are trained on.
            self._fill(self.user_names, np.flatnonzero(self._clicks.lengths), users)

    def _fill(self, table: Tensor, rows: np.ndarray, waves: Iterable[Wave]) -> int:
        names, numbered = distinct(self.tokenizer, rows, waves, self.width)
        lists = Ragged(np.cumsum([0, *map(len, names)]), np.fromiter((t for name in names for t in name), np.int64))
        written = np.full(table.shape, self.pad, dtype=np.int32)
        real = np.arange(self.width) < lists.lengths[:, None]
        written[rows] = np.where(real, lists.padded(self.width), self.pad)
        table.copy_(torch.from_numpy(written))
        return numbered

    def _written(self, describe: Describe) -> Iterator[Wave]:
        """Candidates by diverse beams, with rising penalties, then longer ones."""
        for least in range(1, 1 + LENGTHS * self.config.id_tokens, self.config.id_tokens):
            # The first penalty is enough for most texts; the others are tried at once.
            yield partial(self._beamed, describe, least, PENALTIES[:1])
            yield partial(self._beamed, describe, least, PENALTIES[1:])

    def _beamed(self, describe: Describe, least: int, penalties: range, rows: np.ndarray) -> list[list[str]]:
        groups, most = self.config.beams, least - 1 + self.config.id_tokens
        device, each = self.item_names.device, len(penalties)
        found: list[str] = []
        for some in torch.from_numpy(rows).to(device).split(max(1, TEXTS // each)):
            prompt = describe(some.repeat_interleave(each))
            penalty = torch.tensor([*penalties], dtype=torch.float32, device=device).repeat(len(some))[
                :, None
            ]  # (P, 1)
            tokens = diverse_beams(
                self.generator, prompt, self.banned, groups=groups, penalty=penalty, least=least, most=most
            )
            found += self.tokenizer.batch_decode(tokens.flatten(0, 1).tolist(), skip_special_tokens=True)
        return [found[low : low + each * groups] for low in range(0, len(found), each * groups)]

    def _random(self, generator: torch.Generator, rows: np.ndarray) -> list[list[str]]:
        """Words of the vocabulary, half as many as a name may have."""
        words = torch.nonzero(~self.wordless).flatten().cpu()
        drawn = words[torch.randint(len(words), (len(rows), self.config.id_tokens // 2), generator=generator)]
        return [[text] for text in self.tokenizer.batch_decode(drawn.tolist())]

    def _first_words(self, describe: Describe, rows: np.ndarray) -> list[list[str]]:
        """The first words of what the generator reads."""
        prompt = describe(torch.from_numpy(rows).to(self.item_names.device))
        tokens = prompt.ids[:, : self.config.id_tokens - 1].tolist()
        return [[text] for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _item_prompt(self, items: Tensor) -> Prompt:
        return self.plain(len(items), text=self.texts(items))

    def _user_prompt(self, users: Tensor) -> Prompt:
        """The names of the items that users clicked in training, oldest first."""
        limit = self.config.text_tokens
        clicks = self._clicks.take(users.cpu().numpy())
        items = torch.from_numpy(clicks.padded(min(limit, int(clicks.lengths.max())))).to(users.device)
        tokens, real = self._names(self.item_names, items)
        real = (real & (tokens != self.end)).flatten(1)
        return self.plain(len(users), text=(tokens.flatten(1), real & (real.cumsum(1) <= limit)))

    def _names(self, table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of names (..., S), as wide as the longest of them, and which are real."""
        tokens = table[rows].long()
        real = tokens != self.pad
        width = max(1, int(real.sum(-1).max())) if real.numel() else 1
        return tokens[..., :width], real[..., :width]

    # Scores

    def _prompt(self, batch: Batch) -> Prompt:
        """The user's name and the names of the last clicks, each with the separator in the place of its end token."""
        tokens, real = self._names(self.item_names, batch.rec_items.where(batch.rec_mask, 0))  # (B, L, S)
        tokens = torch.where(tokens == self.end, self.separator, tokens)
        return self._prompt_of(batch, tokens.flatten(1), real.flatten(1))

    def _prompt_of(self, batch: Batch, tokens: Tensor, real: Tensor) -> Prompt:
        fields = {"items": (tokens, real)}
        if self.config.user_names:
            name, known = self._names(self.user_names, batch.user)
            fields["user"] = name, known & (name != self.end)
        return self.prompt(len(batch), **fields)

    def encode(self, batch: Batch) -> Any:
        """States (B, T, d) and mask (B, T) of the prompts; with decode = "beam" scores of the whole catalogue."""
        states, mask = self._read(self._prompt(batch))
        return (states, mask) if self.config.decode == "exact" else self._found(states, mask)

    def score_items(self, encoded: Any, cand: Tensor) -> Tensor:
        """Log-probabilities of the candidates' names, (B, K)."""
        if self.config.decode == "beam":
            return encoded.gather(1, cand)
        states, mask = encoded
        parts = []
        for columns in cand.split(max(1, CHUNK // max(1, len(cand))), 1):
            names, real = self._names(self.item_names, columns)
            parts.append(token_log_probs(self.recommender, states, mask, names, real).sum(-1))
        return torch.cat(parts, 1)

    def represent(self, batch: Batch) -> Representation:
        """Mean state of the prompt beside the mean word of the name, (B, K, 2d); mean state that writes the name."""
        states, mask = self._read(self._prompt(batch))
        names, real = self._names(self.item_names, batch.cand)  # (B, K, S)
        words = masked_mean(self.recommender.get_input_embeddings()(names), real)
        said = masked_mean(decode(self.recommender, shifted(self.recommender, names), states, mask), real)
        return Representation(torch.cat([masked_mean(states, mask)[:, None].expand_as(words), words], -1), said)

    def _read(self, prompt: Prompt, inserts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors = embed(prompt, self.recommender.get_input_embeddings(), inserts)
        return encode(self.recommender, vectors, prompt.mask), prompt.mask

    def _found(self, states: Tensor, mask: Tensor) -> Tensor:
        """What a beam search over all names finds for each row, (B, n_items + 1)."""
        trie, beams = self._paths(), min(self.config.search_beams, self.catalog.n_items)
        tables = []
        for rows in torch.arange(len(states), device=states.device).split(max(1, CHUNK // beams)):
            step = next_tokens(self.recommender, states[rows], mask[rows])
            items, found = beam_search(trie, step, len(rows), beams)
            tables.append(found_scores(items, found, self.catalog.n_items, MISSED))
        return torch.cat(tables)

    def _paths(self) -> Trie:
        """The names of all items as they are now."""
        names = self.item_names[1:].cpu()
        if self._trie is None or not torch.equal(self._trie[0], names):
            real = (names != self.pad).numpy()
            lists = Ragged(np.concatenate([[0], np.cumsum(real.sum(1))]), names.numpy()[real].astype(np.int64))
            self._trie = names, Trie(lists).to(self.item_names.device)
        return self._trie[1]
