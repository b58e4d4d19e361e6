"""What makes two fits the same fit."""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.experiments.job import Job


def fit_key(job: "Job") -> str:
    """Identity of a job's fit, 64 hex digits: everything that its result depends on, and nothing else.

    The number of CPU threads and the kind of device are part of it, because they change the order of sums. The sources
    are those that decide the fit, see `code_hash`.
    """
    parts = {
        "data": job.data.fingerprint,
        "split": job.data.split,
        "validation rows": job.validation_rows,
        "model": job.model,
        "config": job.config,
        "tasks": job.tasks,
        "budget": job.budget,
        "device": job.device.partition(":")[0],
        "threads": job.threads,
        "seed": job.seed,
        "code": job.code,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
