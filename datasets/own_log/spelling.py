"""Ids and queries that differ in their spelling only: which are meant by which."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.datasets.own_log.problem import quoted

_SHOWN = 3


def plain_id(values: pd.Index) -> pd.Index:
    """Ids without what programs add or drop: blanks around them, leading zeros, the `.0` of a float."""
    return pd.Index(_plain(values).to_pandas())


def plain_text(values: pd.Index) -> pd.Index:
    """Texts in one case, width and composition (NFKC), with single blanks and none around."""
    folded = pc.utf8_lower(pc.utf8_normalize(_array(values), "NFKC"))
    return pd.Index(pc.utf8_trim_whitespace(pc.replace_substring_regex(folded, r"\s+", " ")).to_pandas())


def spelled_differently(values: pd.Index, plain: pd.Index) -> str:
    """How many of the distinct values agree in their plain form, with an example; "" where none do."""
    group, _ = pd.factorize(plain)
    sizes = np.bincount(group) if len(group) else np.zeros(0, dtype=np.int64)
    if not (sizes > 1).any():
        return ""
    first = int(np.argmax(sizes[group] > 1))
    same = values[group == group[first]]
    examples = ", ".join(quoted(value) for value in same[:_SHOWN])
    many = int((sizes > 1).sum())
    return f"{len(same)} spellings count as different: {examples}" + (f" ({many:,} such groups)" if many > 1 else "")


def meant_by(unknown: pd.Index, known: pd.Index) -> str:
    """Which known id the first unknown one with such a counterpart means, for a message; "" where none has one."""
    # Of all unknown ids a part is enough for a hint.
    for how, unknown_form, known_form in (
        ("blanks, leading zeros or a decimal point", plain_id(unknown[:10_000]), plain_id(known)),
        ("upper and lower case or the width of letters", plain_text(unknown[:10_000]), plain_text(known)),
    ):
        index = pd.Series(np.arange(len(known)), index=known_form)
        index = index[~index.index.duplicated()].reindex(unknown_form)
        hits = np.flatnonzero(index.notna().to_numpy())
        if len(hits):
            value, other = unknown[hits[0]], known[int(index.iloc[hits[0]])]
            return f" (is {quoted(value)} the {quoted(other)} of that file? {how} alone tell them apart)"
    return ""


def rounded_by_spreadsheet(values: pd.Index, counts: np.ndarray) -> str:
    """A value that a spreadsheet has written in place of a long number, where a column seems full of them; else "".

    A spreadsheet writes `1.23E+07`. Ids such as `12345e67` or `1E5` are left alone, and so is a column that holds
    anything but numbers beside them.

    Args:
        values: (d,) distinct values, "" apart.
        counts: (d,) rows of each.
    """
    ids = _array(values)
    exponents = np.asarray(pc.match_substring_regex(ids, r"^-?\d(\.\d+)?E\+\d\d+$"))
    numbers = np.asarray(pc.match_substring_regex(ids, r"^-?\d+(\.\d+)?$"))
    rows = int(counts[exponents].sum())
    if rows < max(3, 0.01 * counts.sum()) or not (exponents | numbers).all():
        return ""
    return str(values[int(exponents.argmax())])


def _array(values: pd.Index) -> pa.Array:
    return pa.array(values.to_numpy(dtype=object), pa.string())


def _plain(values: pd.Index) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(_array(values)), r"^0*(\d+?)(\.0*)?$", r"\1")
