"""The Kindle statistics of the papers beside ours, with each difference named."""

from typing import Any

# GenSR's and UniSAR's tables. Reviews of the public 5-core file: 982,619.
PAPER = {
    "users": 68_223,
    "items": 61_934,
    "queries": 4_298,
    "recommendation interactions": 989_618,
    "search interactions": 934_664,
}
REVIEWS = 982_619
_PUBLISHED_PAIRS = 934_663


def kindle_reference(facts: dict[str, Any], config: Any) -> dict[str, Any]:
    """`paper`, `ours` and `differences` (a sentence for each statistic that differs).

    Args:
        facts: counts of the preparation by step, and `users`, `items`.
        config: the source's settings.
    """
    ours = {
        "users": facts["users"],
        "items": facts["items"],
        "queries": facts["distinct queries drawn"],
        "recommendation interactions": facts[f"rows after the {config.core}-core"],
        "search interactions": facts["purchases with a query"],
    }
    complete = facts["review rows"] == REVIEWS
    published = config.queries == "published"
    if published:
        queries = (
            "the paper's are those of the 4,603 published queries that a draw of one query a purchase leaves; the draw "
            f"is not published, ours is the hash with seed {config.seed}"
        )
        search = (
            f"the published relevance files hold {_PUBLISHED_PAIRS:,} pairs of user and item, one less than the paper's"
        )
    else:
        queries = (
            "the paper drew from the published query file (queries=published); ours come from the category paths of "
            f"the metadata, cut with stem={config.stem} (the published ones with Krovetz's stemmer)"
        )
        search = (
            "the paper leaves out purchases whose product has no held-out query in the random split of Ai et al.; here "
            "every purchase of a product with a category path of two levels has a query"
        )
    reasons = {
        "users": "the 5-core of the complete file has the paper's number",
        "items": "the 5-core of the complete file has the paper's number",
        "queries": queries,
        "recommendation interactions": (
            f"the 5-core file has {REVIEWS:,} reviews ({REVIEWS - 1:,} once one without a word in the vocabulary is "
            "dropped, which we keep); 989,618 differs from that in one digit and no filter adds rows: most likely a "
            "typing error"
        ),
        "search interactions": search,
    }
    differences = {
        name: reasons[name]
        + ("" if complete else f"; the reviews file has {facts['review rows']:,} rows, the complete one {REVIEWS:,}")
        for name in PAPER
        if ours[name] != PAPER[name]
    }
    return {"paper": PAPER, "ours": ours, "differences": differences, "complete file": complete}
