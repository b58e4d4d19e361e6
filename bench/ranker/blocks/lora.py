"""Low-rank adapters in a language model (LoRA), through `peft`."""

from typing import Any

import torch
from torch import nn

from bench.ranker.context import Context


def add_lora(lm: Any, context: Context, *, rank: int, alpha: int, dropout: float, targets: list[str]) -> None:
    """Put low-rank adapters into a language model, in place (Hu et al., ICLR 2022; `peft`). At first they change nothing.

    The weights of the language model get no gradient any more; `lora_parameters` are those that do.

    Args:
        lm: the language model.
        context: of the model; the start derives from its seed.
        rank: of the adapters.
        alpha: their products are scaled by alpha / rank.
        dropout: of what they read.
        targets: names of the linear layers, such as "q" and "v".
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.generator("lora").initial_seed())
        inject_adapter_in_model(config, lm)


def lora_parameters(lm: Any) -> list[nn.Parameter]:
    """The weights of the adapters."""
    return [parameter for name, parameter in lm.named_parameters() if "lora_" in name]
