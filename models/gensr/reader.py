"""A T5 that reads prompts and answers with one token, at no more than what the architecture asks for.

The prompts of one list differ in a few inserted vectors. What does not depend on them is computed once for each distinct
prompt, and only where that is exact:

- the word embeddings, and in the first layer of the encoder the normalisation, queries, keys and values of the words.
  From the second layer on every state depends on every insert, since the encoder attends in both directions;
- in the decoder, whose only input is the start token, the first self-attention and the queries of the first
  cross-attention. Its self-attention over one position is its values, in every layer;
- keys and values of the cross-attention are never made for the encoder's states: with one query a row,
  q . (W_k h) = (W_k^T q) . h and sum_t p_t (W_v h_t) = W_v (sum_t p_t h_t).

Dropout (in training, where the checkpoint has it) acts on the inputs of the first layer, so there its words are computed for each
prompt. The results are those of `transformers`' forward up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Reader:
    """The forward pass of a T5 with one decoded position. Holds no weights of its own.

    Args:
        lm: a T5ForConditionalGeneration or a relative with the same modules.
        checkpointing: keep only the inputs of the encoder's layers for the backward pass.
    """

    def __init__(self, lm: Any, checkpointing: bool = False):
        self.lm = lm
        self._checkpointing = checkpointing
        config = lm.config
        self._dropout = float(config.dropout_rate)
        # T5 has a word of its own for it, UMT5 scales where its head is its table, MT5 never.
        of_umt5 = config.model_type == "umt5" and config.tie_word_embeddings
        self._scaled = bool(getattr(config, "scale_decoder_outputs", of_umt5))

    def __call__(self, words: Tensor, of: Tensor, inserts: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """The state from which the head scores the first decoded token.

        Args:
            words: (U, T, d) word embeddings of the distinct prompts.
            of: (R,) the prompt of each row.
            inserts: (R, K, I, d) vectors of each row's K candidates.
            places: (U, I) their columns.
            mask: (U, T) True on words and inserts.

        Returns:
            (R * K, d).
        """
        states, allowed = self._encode(words, of, inserts, places, mask)
        return self._decode(states, allowed)

    def _encode(
        self, words: Tensor, of: Tensor, inserts: Tensor, places: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Encoder states (N, T, d) of N = R * K prompts, and (N, 1, 1, T) what is added to scores; None without padding."""
        stack, count = self.lm.encoder, inserts.shape[1]
        drop = stack.training and self._dropout > 0
        columns = places[of][:, None, :, None]  # (R, 1, I, 1)

        def together(of_words: Tensor, of_inserts: Tensor) -> Tensor:
            """(U, T, w) and (R, K, I, w) -> (N, T, w)."""
            # Indexing with [] adds up gradients in any order on several threads.
            rows = of_words if len(of_words) == 1 else of_words.index_select(0, of)
            rows = rows[:, None].expand(len(of), count, -1, -1)
            place = columns.expand(-1, count, -1, of_inserts.shape[-1])
            return rows.scatter(2, place, of_inserts.to(of_words.dtype)).flatten(0, 1)

        x = together(words, inserts)
        added = None
        if not bool(mask.all()):
            added = torch.zeros(mask.shape, dtype=words.dtype, device=words.device).masked_fill_(~mask, -1e9)
            added = added[of].repeat_interleave(count, 0)[:, None, None]  # (N, 1, 1, T)
        if drop:
            x = stack.dropout(x)
        bias = None
        for number, block in enumerate(stack.block):
            attention = block.layer[0].SelfAttention
            if bias is None or attention.has_relative_attention_bias:
                bias = attention.compute_bias(x.shape[1], x.shape[1], device=x.device)  # (1, h, T, T)
            first = None
            if number == 0 and not drop:
                parts = [
                    _project((attention.q, attention.k, attention.v), _rms(block.layer[0].layer_norm, side))
                    for side in (words, inserts)
                ]
                first = [together(of_words, of_inserts) for of_words, of_inserts in zip(*parts, strict=True)]
            if self._checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._layer, block, x, bias, added, first, use_reentrant=False)
            else:
                x = self._layer(block, x, bias, added, first)
        return self._dropped(_rms(stack.final_layer_norm, x), stack), added

    def _layer(
        self, block: Any, x: Tensor, bias: Tensor, added: Tensor | None, first: Sequence[Tensor] | None
    ) -> Tensor:
        """One layer of the encoder, (N, T, d) -> (N, T, d); `first` are its queries, keys and values where they are known."""
        inner = block.layer[0]
        attention = inner.SelfAttention
        parts = first or _project((attention.q, attention.k, attention.v), _rms(inner.layer_norm, x))
        q, k, v = (part.unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for part in parts)  # (N, h, T, dk)
        scores = q @ k.transpose(2, 3)
        scores = scores + bias if scores.requires_grad else scores.add_(bias)
        if added is not None:
            scores = scores + added
        weights = self._dropped(scores.softmax(-1), inner)
        mixed = (weights @ v).transpose(1, 2).flatten(2)  # (N, T, inner)
        x = x + self._dropped(attention.o(mixed), inner)
        return self._feed_forward(block.layer[-1], x)

    def _decode(self, states: Tensor, added: Tensor | None) -> Tensor:
        """The decoder's state at the start token after all layers, (N, d)."""
        stack, config = self.lm.decoder, self.lm.config
        start = torch.tensor([config.decoder_start_token_id], device=states.device)
        x = self.lm.get_input_embeddings()(start)  # (1, d), one for all rows as long as nothing has told them apart
        if stack.training and self._dropout > 0:
            x = stack.dropout(x.expand(len(states), -1))
        padding = None if added is None else added[:, 0]  # (N, 1, T)
        for block in stack.block:
            itself, other, network = block.layer
            values = itself.SelfAttention.v(_rms(itself.layer_norm, x))
            # Dropout on a weight that is 1 drops a head's values as a whole.
            if stack.training and self._dropout > 0:
                ones = values.new_ones(len(x), itself.SelfAttention.n_heads, 1)
                values = (values.unflatten(-1, (ones.shape[1], -1)) * F.dropout(ones, self._dropout)).flatten(1)
            x = x + self._dropped(itself.SelfAttention.o(values), itself)
            x = x + self._dropped(self._cross(other, x, states, padding), other)
            x = self._feed_forward(network, x)
        x = self._dropped(_rms(stack.final_layer_norm, x), stack)
        return x * config.d_model**-0.5 if self._scaled else x

    def _cross(self, layer: Any, x: Tensor, states: Tensor, padding: Tensor | None) -> Tensor:
        """Cross-attention of one position (N or 1, d) to `states` (N, T, d), before the dropout: (N, d)."""
        attention = layer.EncDecAttention
        heads = attention.n_heads
        q = attention.q(_rms(layer.layer_norm, x)).unflatten(-1, (heads, -1))  # (N or 1, h, dk)
        if not (_plain(attention.k) and _plain(attention.v)):
            k, v = (part(states).unflatten(-1, (heads, -1)) for part in (attention.k, attention.v))  # (N, T, h, dk)
            scores = (q[:, None] * k).sum(-1).transpose(1, 2)  # (N, h, T)
            weights = self._attended(scores, padding, layer)
            return attention.o((weights[:, :, None] @ v.transpose(1, 2)).flatten(1))
        k_rows, v_rows = (part.weight.unflatten(0, (heads, -1)) for part in (attention.k, attention.v))  # (h, dk, d)
        asked = (q.transpose(0, 1) @ k_rows).transpose(0, 1)  # (N or 1, h, d)
        one = len(asked) == 1  # for all rows: a single product
        scores = (states @ asked[0].T).transpose(1, 2) if one else asked @ states.transpose(1, 2)  # (N, h, T)
        mixed = self._attended(scores, padding, layer) @ states  # (N, h, d)
        values = mixed.transpose(0, 1) @ v_rows.transpose(1, 2)  # (h, N, dk)
        return attention.o(values.transpose(0, 1).flatten(1))

    def _attended(self, scores: Tensor, padding: Tensor | None, layer: nn.Module) -> Tensor:
        return self._dropped((scores if padding is None else scores + padding).softmax(-1), layer)

    def _feed_forward(self, layer: Any, x: Tensor) -> Tensor:
        """Normalisation, network and residual of a layer."""
        network = layer.DenseReluDense
        normed = _rms(layer.layer_norm, x)
        if hasattr(network, "wi_0"):
            gate, linear = _project((network.wi_0, network.wi_1), normed)
            inner = _activate(network.act, gate) * linear
        else:
            inner = _activate(network.act, network.wi(normed))
        return x + self._dropped(network.wo(self._dropped(inner, layer)), layer)

    def _dropped(self, x: Tensor, module: nn.Module) -> Tensor:
        return F.dropout(x, self._dropout) if module.training and self._dropout else x


class _Normalise(torch.autograd.Function):
    """x / rms(x) * weight; PyTorch composes it on a CPU, and its gradient, of twice as many passes over the memory."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        factor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()  # (..., 1)
        scaled = x * factor
        context.save_for_backward(scaled, factor, weight)
        return scaled * weight

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        scaled, factor, weight = context.saved_tensors
        product = (gradient * scaled).flatten(0, -2)  # (n, d)
        along = (product @ weight).div_(-len(weight)).view(factor.shape)
        return torch.addcmul(gradient * weight, scaled, along).mul_(factor), product.sum(0), None


def _rms(norm: Any, x: Tensor) -> Tensor:
    """T5's normalisation."""
    if x.device.type == "cpu" and x.dtype == norm.weight.dtype and x.requires_grad:
        return _Normalise.apply(x, norm.weight, norm.variance_epsilon)
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _activate(act: nn.Module, x: Tensor) -> Tensor:
    """The activation; transformers' `gelu_new` is the tanh form of GELU in many passes over the memory."""
    return F.gelu(x, approximate="tanh") if type(act).__name__ == "NewGELUActivation" else act(x)


def _plain(module: nn.Module) -> bool:
    """Whether a product is its weight and nothing else (no adapter, no quantisation)."""
    return type(module) is nn.Linear


def _project(modules: Sequence[nn.Module], x: Tensor) -> Sequence[Tensor]:
    """The products of `x` with several matrices, in one where they are plain."""
    if not all(map(_plain, modules)):
        return [module(x) for module in modules]
    weights = [module.weight for module in modules]
    return F.linear(x, torch.cat(weights)).split([len(weight) for weight in weights], -1)
