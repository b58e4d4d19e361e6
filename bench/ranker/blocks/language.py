"""T5 models inside a ranker: answers of one step, labels of one token, new tokens.

P prompts of T tokens each, width d, V words.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits that are computed at once where there is no gradient; bounds the memory of scoring.
LOGITS = 2**24


def encode(lm: Any, vectors: Tensor, mask: Tensor) -> Tensor:
    """Encoder states (P, T, d) of input vectors (P, T, d); `mask` (P, T) bool is True on what is real."""
    return lm.encoder(inputs_embeds=vectors, attention_mask=_attention(mask)).last_hidden_state


def answer(lm: Any, states: Tensor, mask: Tensor) -> Tensor:
    """What the decoder says first, as a vector (P, d) for the output head: logits are its products with the head's rows.

    Only the rows of the head that are asked for need to be multiplied, and only one step is decoded.

    Args:
        lm: a T5ForConditionalGeneration.
        states: (P, T, d) of `encode`.
        mask: (P, T) bool.
    """
    start = torch.full((len(states), 1), lm.config.decoder_start_token_id, device=states.device)
    out = lm.decoder(
        input_ids=start, encoder_hidden_states=states, encoder_attention_mask=_attention(mask), use_cache=False
    )
    return out.last_hidden_state[:, 0] * head_scale(lm)


def decode(lm: Any, vectors: Tensor, states: Tensor, mask: Tensor) -> Tensor:
    """Decoder outputs for the output head, of K continuations of each prompt: teacher forcing of candidates.

    What the encoder read is projected once per prompt, not once per continuation: in the cross-attention, which has no
    positions, the continuations of a prompt stand in one line; in the self-attention they are rows of their own.

    Args:
        lm: a T5ForConditionalGeneration.
        vectors: (P, K, S, d) embeddings of the start token and of what follows; right padding changes nothing before it.
        states: (P, T, d) of `encode`.
        mask: (P, T) bool.

    Returns:
        (P, K, S, d): at position s the vector that the head turns into the logits of the token after it.
    """
    prompts, count, steps, width = vectors.shape
    decoder, least = lm.decoder, torch.finfo(vectors.dtype).min
    later = torch.full((steps, steps), least, dtype=vectors.dtype, device=vectors.device).triu(1)[None, None]
    hidden_from = (~mask[:, None, None]).to(vectors.dtype) * least  # (P, 1, 1, T)
    bias = cross_bias = None
    hidden = decoder.dropout(vectors.flatten(0, 1))  # (P * K, S, d)
    for block in decoder.block:
        hidden, bias, _ = block.layer[0](hidden, attention_mask=later, position_bias=bias)
        line = hidden.view(prompts, count * steps, width)
        line, cross_bias, _ = block.layer[1](
            line, key_value_states=states, attention_mask=hidden_from, position_bias=cross_bias
        )
        hidden = block.layer[-1](line.reshape(prompts * count, steps, width))
    hidden = decoder.dropout(decoder.final_layer_norm(hidden))
    return hidden.view(prompts, count, steps, width) * head_scale(lm)


def token_log_probs(lm: Any, states: Tensor, mask: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
    """Log-probabilities of the tokens of K continuations of each prompt, by teacher forcing.

    The output head, V words wide, is applied to real tokens alone, a chunk of them at a time where there is no gradient.

    Args:
        lm: a T5ForConditionalGeneration.
        states: (P, T, d) of `encode`.
        mask: (P, T) bool.
        tokens: (P, K, S) the continuations, each with its end token.
        real: (P, K, S) bool, False on padding behind them.

    Returns:
        (P, K, S), 0 where a token is not real.
    """
    said, said_tokens = decode(lm, shifted(lm, tokens), states, mask)[real], tokens[real]  # (n, d), (n,)
    head = lm.get_output_embeddings().weight  # (V, d)
    size = len(said) if torch.is_grad_enabled() else max(1, LOGITS // len(head))
    parts = [
        -F.cross_entropy(some @ head.T, wanted, reduction="none")
        for some, wanted in zip(said.split(max(1, size)), said_tokens.split(max(1, size)), strict=True)
    ]
    return torch.zeros(tokens.shape, device=said.device).masked_scatter(real, torch.cat(parts).float())


def shifted(lm: Any, tokens: Tensor) -> Tensor:
    """What the decoder reads to say `tokens` (P, K, S): word vectors (P, K, S, d) of the start token and of all but the last."""
    start = torch.full_like(tokens[..., :1], lm.config.decoder_start_token_id)
    return lm.get_input_embeddings()(torch.cat([start, tokens[..., :-1]], -1))


def next_tokens(lm: Any, states: Tensor, mask: Tensor) -> Callable[[Tensor | None, Tensor | None], Tensor]:
    """The step of a beam search (`trie.beam_search`): reads what the beams have written so far, and nothing else.

    Args:
        lm: a T5ForConditionalGeneration.
        states: (P, T, d) of `encode`.
        mask: (P, T) bool.

    Returns:
        parents and tokens of the last step (P, W) to log-probabilities of the next token (P, W, V).
    """
    written = torch.full((len(states), 1, 1), lm.config.decoder_start_token_id, device=states.device)  # (P, W, S)

    def step(parent: Tensor | None, token: Tensor | None) -> Tensor:
        nonlocal written
        if parent is not None and token is not None:
            kept = written.gather(1, parent[..., None].expand(-1, -1, written.shape[-1]))
            written = torch.cat([kept, token[..., None]], -1)
        said = decode(lm, lm.get_input_embeddings()(written), states, mask)[:, :, -1]  # (P, W, d)
        return (said @ lm.get_output_embeddings().weight.T).log_softmax(-1)

    return step


class Continuations:
    """K continuations of each prompt that grow by one token at a time; keys and values of what was read are kept.

    As in `decode`, the encoder's states are projected once per prompt, and the continuations of a prompt stand in one line.

    Args:
        lm: a T5ForConditionalGeneration.
        states: (P, T, d) of `encode`.
        mask: (P, T) bool.
        count: K.
    """

    def __init__(self, lm: Any, states: Tensor, mask: Tensor, count: int):
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        self._lm, self._states = lm, states
        self._past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._hidden_from = (~mask[:, None, None]).to(states.dtype) * torch.finfo(states.dtype).min  # (P, 1, 1, T)
        start = torch.full((len(states), count), lm.config.decoder_start_token_id, device=states.device)
        self.said = self._read(start)
        """(P, K, d) vectors for the output head behind the last token, at first behind the start token."""

    def write(self, tokens: Tensor) -> None:
        """Go on with the tokens (P, K)."""
        self.said = self._read(tokens)

    def _read(self, tokens: Tensor) -> Tensor:
        decoder, past = self._lm.decoder, self._past
        bias = cross_bias = None
        line = decoder.dropout(self._lm.get_input_embeddings()(tokens))  # (P, K, d)
        for block in decoder.block:
            hidden = line.reshape(-1, 1, line.shape[-1])  # (P * K, 1, d)
            hidden, bias, _ = block.layer[0](hidden, position_bias=bias, past_key_values=past)
            line, cross_bias, _ = block.layer[1](
                hidden.view(line.shape),
                key_value_states=self._states,
                attention_mask=self._hidden_from,
                position_bias=cross_bias,
                past_key_values=past,
            )
            line = block.layer[-1](line)
        return decoder.dropout(decoder.final_layer_norm(line)) * head_scale(self._lm)


def head_scale(lm: Any) -> float:
    """The factor between decoder and output head: the first T5 shrinks by sqrt(d), T5 1.1 and flan-t5 do not."""
    return lm.config.d_model**-0.5 if lm.config.scale_decoder_outputs else 1.0


def word_scale(words: nn.Embedding) -> Tensor:
    """() root mean square of a word embedding's entries: the scale of what is inserted among words."""
    return words.weight.detach().square().mean().sqrt()


def label_token(tokenizer: Any, word: str) -> int:
    """The one token of an answer such as "Yes".

    Raises:
        ValueError: the tokenizer cuts it into several or does not know it.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"'{word}' is {len(ids)} tokens of this tokenizer; one that knows it as one token is needed")
    return ids[0]


class ExtraVocabulary(nn.Module):
    """New tokens of a language model: rows below its word table, and below its output head where that is apart.

    Their entries start with the root mean square of the old rows (N(0, rms)), so that a new token is neither silent nor
    loud among words. Token V + n is row n, where V is the number of rows of the old table.

    Args:
        lm: the language model; it stays as it is.
        size: N, the number of new tokens.
        generator: source of the start.
    """

    def __init__(self, lm: Any, size: int, generator: torch.Generator):
        super().__init__()
        words, head = lm.get_input_embeddings().weight, lm.get_output_embeddings().weight
        self.first = len(words)
        self.input = nn.Parameter(_like(words, size, generator))  # (N, d)
        self.output = self.input if head is words else nn.Parameter(_like(head, size, generator))  # (N, d)


def _attention(mask: Tensor) -> Tensor | None:
    """The mask as transformers reads it; None is faster where nothing is masked."""
    return None if bool(mask.all()) else mask.long()


def _like(table: Tensor, size: int, generator: torch.Generator) -> Tensor:
    std = float(table.detach().square().mean().sqrt())
    return torch.empty(size, table.shape[1]).normal_(0, std, generator=generator)
