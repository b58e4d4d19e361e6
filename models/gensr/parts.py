"""Parts of a scoring batch that fit into memory, prompts of like length together."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.models.gensr.prompt import Prompts
from bench.models.gensr.views import Histories


def scoring_parts(
    prompts: Prompts, language: Any, encoded: Histories, count: int, megabytes: int
) -> Iterator[tuple[int, Tensor, slice]]:
    """Task, row numbers and candidates of each part.

    Args:
        prompts: they know how long a prompt is.
        language: the config of the language model.
        encoded: the rows.
        count: candidates of a row.
        megabytes: what a part may take, about; one prompt is always read.
    """
    inner = language.num_heads * language.d_kv
    token = 4 * (4 * language.d_model + 4 * inner + 3 * language.d_ff + 3 * language.num_heads * 32)  # bytes, about
    for code in (0, 1):
        rows = torch.nonzero(encoded.task == code).flatten()
        if not len(rows):
            continue
        lengths, order = prompts.lengths(code, encoded.query[rows]).sort(stable=True)
        rows, longest = rows[order], int(lengths[-1])
        at_once = max(1, megabytes * 2**20 // (token * longest))
        if at_once < count:
            for row in rows.split(1):
                yield from ((code, row, slice(low, low + at_once)) for low in range(0, count, at_once))
        else:
            yield from ((code, part, slice(None)) for part in rows.split(at_once // max(1, count)))
