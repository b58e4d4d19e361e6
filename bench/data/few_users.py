"""Whether a split leaves enough to compare models on."""

import numpy as np

from bench.data.log import TASKS
from bench.data.split import LogSplit

# With fewer users a 95 % interval of NDCG@10 is wider than the differences between most models (standard deviation .35).
ENOUGH_USERS = 100


def few_test_users(split: LogSplit) -> list[str]:
    """A sentence for each task whose test rows belong to too few users to tell models apart."""
    notes = []
    for task in TASKS:
        rows = split.rows("test", task)
        users = len(np.unique(split.log.events.user[rows]))
        if 0 < users < ENOUGH_USERS:
            noun = "user" if users == 1 else "users"
            notes.append(
                f"{task}: test rows of {users} {noun} only; differences between models are mostly chance at that size"
            )
    return notes
