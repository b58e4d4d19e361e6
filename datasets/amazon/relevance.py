"""The files of the product-search benchmark of Ai et al. (SIGIR 2017): queries and relevance.

`query_text.txt`: one query a line, the line number (from 0) is its id. `train.qrels`, `test.qrels`:
`<reviewerID>_<query line> 0 <asin> 1`, user and query part at the LAST underscore.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.data.ragged import Ragged
from bench.datasets.amazon.files import read_lines
from bench.errors import RunError

PUBLISHER = "https://github.com/QingyaoAi/Amazon-Product-Search-Datasets"
_ROW = r"^(?P<user>\S+)_(?P<query>[0-9]{1,9})\s+[0-9]+\s+(?P<item>\S+)\s+1\s*$"


def read_queries(path: Path) -> list[str]:
    """Texts of the queries by line.

    Raises:
        RunError: an empty line, which would be a query without words.
    """
    lines = [line.strip() for line in read_lines(path)]
    for number, line in enumerate(lines, 1):
        if not line:
            raise RunError(f"{path}, line {number}: empty, a query is expected")
    return lines


def read_relevance(path: Path, n_queries: int) -> pd.DataFrame:
    """Triples in the order of the file: `user`, `item` (categorical), `query` (int64).

    Raises:
        RunError: a line has another form or names a query that does not exist; with the line.
    """
    lines = read_lines(path)
    parts = pc.extract_regex(pa.array(lines, pa.large_string()), _ROW)
    valid = parts.is_valid().to_numpy(zero_copy_only=False)
    if not valid.all():
        number = int(np.argmin(valid))
        raise RunError(
            f"{path}, line {number + 1}: expected `<reviewerID>_<query line> 0 <asin> 1`, found {lines[number][:80]!r}"
        )
    query = parts.field("query").cast(pa.int64()).to_numpy()
    if query.max() >= n_queries:
        number = int(np.argmax(query >= n_queries))
        raise RunError(
            f"{path}, line {number + 1}: query {query[number]} does not exist, query_text.txt has {n_queries} lines"
        )
    columns = {name: parts.field(name).dictionary_encode().to_pandas() for name in ("user", "item")}
    table = pd.DataFrame(columns | {"query": query})
    repeated = table.duplicated()
    if repeated.any():
        number = int(repeated.to_numpy().argmax())
        raise RunError(f"{path}, line {number + 1}: the same user, query and item stand in an earlier line")
    return table


@dataclass(frozen=True)
class PublishedQueries:
    """Query numbers relevant to each of n purchases, and those that each of m items carries."""

    of_purchase: Ragged
    of_item: Ragged
    counts: dict[str, int]


def published_queries(
    relevance: pd.DataFrame, user: np.ndarray, user_ids: np.ndarray, item: np.ndarray, item_ids: np.ndarray
) -> PublishedQueries:
    """Join relevance triples with purchases.

    A purchase has the queries of its own triples, not all of its item's: the random split of Ai et al. leaves some
    purchases without any.

    Args:
        relevance: columns `user`, `item` (ids) and `query` (number).
        user: (n,) codes into `user_ids`; one purchase per pair of user and item.
        user_ids: ids by code.
        item: (n,) codes into `item_ids`.
        item_ids: ids by code.
    """
    width = len(item_ids)
    triple_user = pd.Index(user_ids).get_indexer(relevance["user"]).astype(np.int64)
    triple_item = pd.Index(item_ids).get_indexer(relevance["item"])
    known = (triple_user >= 0) & (triple_item >= 0)
    query = relevance["query"].to_numpy()[known]
    wanted = user.astype(np.int64) * width + item
    order = np.argsort(wanted)
    pair = (triple_user * width + triple_item)[known]
    match = np.minimum(np.searchsorted(wanted[order], pair), len(wanted) - 1)
    purchase = np.where(wanted[order][match] == pair, order[match], -1)
    matched = np.flatnonzero(purchase >= 0)
    # Ascending numbers within a purchase: the draw must not depend on the order of the file.
    matched = matched[np.argsort(query[matched], kind="stable")]
    of_item = np.unique(triple_item[known].astype(np.int64) * (query.max(initial=0) + 1) + query)
    owner, number = np.divmod(of_item, query.max(initial=0) + 1)
    pairs = len(relevance[["user", "item"]].drop_duplicates())
    counts = {
        "relevance triples": len(relevance),
        "user-item pairs with a published query": pairs,
        "published pairs that are no purchase here": pairs - len(np.unique(purchase[matched])),
    }
    return PublishedQueries(
        of_purchase=Ragged.from_pairs(purchase[matched], query[matched].astype(np.int32), len(wanted)),
        of_item=Ragged.from_pairs(owner, number.astype(np.int32), width),
        counts=counts,
    )
