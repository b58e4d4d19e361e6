"""Language models for the models that need one: a pretrained T5 where the user has it, a small one built here otherwise.

Which one a run uses is decided before the model is built (`backbone_names.resolve`) and is part of every result.
Nothing is downloaded unless the user says so with `BENCH_DOWNLOAD=1`, and no name is ever replaced by another one behind
the user's back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data import hashing
from bench.data.catalog import Catalog
from bench.data.ragged import Ragged
from bench.errors import RunError
from bench.ranker.backbone_names import PRETRAINED, SMALL, absent, available, may_download
from bench.ranker.context import Backbone

# Checkpoints with the modules of a T5: t5, t5-v1.1 and flan-t5; mt5; umt5.
FAMILY = ("t5", "mt5", "umt5")
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
# Words of a large log beyond this number are spelled in characters.
VOCABULARY = 30_000
# The small T5: 2 + 2 layers; two wide heads cost less on a CPU than four narrow ones, and ReLU less than a gated GELU.
# As in flan-t5 the decoder's output is not scaled down before the words are scored: which words are answers has to be
# learnt first, and that takes the longer the smaller the logits can be.
SIZES = {
    "d_model": 64,
    "d_kv": 32,
    "num_heads": 2,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "dropout_rate": 0.0,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": False,
}
# Standard deviation of its fresh word embeddings. T5's 1.0 is large beside the steps of an optimiser, so that words would
# keep their random directions for long; much below 0.3 the logits are small again.
WORD_STD = 0.3


def load(name: str, catalog: Catalog, seed: int, texts: list[str]) -> Backbone:
    """A T5 with its tokenizer, float32, in evaluation mode.

    Args:
        name: `small-t5`, a name of the Hugging Face hub, or a folder written by `save_pretrained`.
        catalog: its item texts, query texts and words make the vocabulary of `small-t5`.
        seed: the weights of `small-t5` are drawn from it.
        texts: prompts and labels; their words are in the vocabulary of `small-t5` whatever its limit.

    Raises:
        RunError: the model is not on this machine, cannot be read or is no T5.
    """
    if name == SMALL:
        tokenizer = small_tokenizer(catalog, texts)
        return Backbone(SMALL, _small(tokenizer, seed), tokenizer)
    return _pretrained(name)


def item_texts(catalog: Catalog) -> list[str]:
    """Text of every item, row 0 empty; the item's words where the log has no text (anonymised captions)."""
    return _texts(catalog.item_text, catalog.item_word_lists, catalog.word_text)


def query_texts(catalog: Catalog) -> list[str]:
    """Text of every query, row 0 empty; the query's words where the log has no text."""
    return _texts(catalog.query_text, catalog.query_word_lists, catalog.word_text)


def small_tokenizer(catalog: Catalog, texts: list[str]) -> Any:
    """Word-level tokenizer: lower-case words and punctuation marks of the log and of `texts`, most frequent first.

    A query word and the same word in an item's text are one token. Rare words of logs with more than 30,000 are
    spelled in characters (`##c`). The same log gives the same ids, whatever the number of threads.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.BertPreTokenizer()
    counter = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    counter.normalizer, counter.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordLevelTrainer(vocab_size=VOCABULARY, show_progress=False, special_tokens=[PAD, END, UNKNOWN])
    read = [*item_texts(catalog), *query_texts(catalog), *catalog.word_text.tolist()]
    counter.train_from_iterator(_pieces(read), trainer)
    counted = counter.get_vocab()
    words = sorted(counted, key=counted.__getitem__)
    asked = [word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    raw = " ".join(sorted(set().union(*read, *texts)))
    letters = sorted(set(normalizer.normalize_str(raw)) - {" "})
    tokens = dict.fromkeys([*words, *asked, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def _small(tokenizer: Any, seed: int) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
        **SIZES,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hashing.seed("backbone", SMALL, seed))
        model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.shared.weight.mul_(WORD_STD)
    return model


def _pretrained(name: str) -> Backbone:
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    local = not may_download()
    if local and not available(name):
        raise absent(name)
    try:
        kind = AutoConfig.from_pretrained(source, local_files_only=local).model_type
        if kind not in FAMILY:
            raise RunError(f"backbone '{name}' is a {kind} model; a T5 is needed, such as {PRETRAINED}")
        with _quiet():
            model, report = AutoModelForSeq2SeqLM.from_pretrained(
                source, local_files_only=local, dtype=torch.float32, output_loading_info=True
            )
        if report["missing_keys"] or report["mismatched_keys"]:
            lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[0]
            raise RunError(
                f"the weights of backbone '{name}' are incomplete ({lacking} would stay at random); fetch it again: hf download {name}"
            )
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"backbone '{name}' cannot be read ({first}); fetch it again: hf download {name}") from error
    return Backbone(name, model.eval(), tokenizer)


def _texts(text: np.ndarray, words: Ragged, names: np.ndarray) -> list[str]:
    texts = [str(entry) for entry in text.tolist()]
    # Row by row, and only where the log has no text.
    return [entry or " ".join(names[words[row]].tolist()) for row, entry in enumerate(texts)]


def _pieces(texts: list[str], size: int = 1000) -> Iterator[list[str]]:
    return (texts[low : low + size] for low in range(0, len(texts), size))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the loading report of transformers off the terminal; what matters of it is checked here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
