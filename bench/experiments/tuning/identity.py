"""What a search is about, and which searches are the same one."""

import hashlib
import json

from bench.experiments.job import Job
from bench.experiments.plan import DatasetPlan
from bench.experiments.tuning.request import TuneRequest
from bench.experiments.tuning.without_test import SearchData
from bench.ranker import registry
from bench.store.records import now
from bench.store.studies import StudyRecord


def study_record(request: TuneRequest, plan: DatasetPlan, job: Job, data: SearchData) -> StudyRecord:
    """The record of a search that begins. Searches with the same key have the same trials, whatever their number.

    Args:
        request: the words of the command.
        plan: of the data set.
        job: the run of the default settings.
        data: what a trial can open.
    """
    cls = registry.get(job.model)
    key = {
        "data": data.fingerprint,
        "model": job.model,
        "tasks": job.tasks,
        "config": job.config,
        "space": cls.search_space,
        "search": request.search,
        "scheduler": request.scheduler,
        "seed": request.seed,
        "budget": request.budget,
        "validation rows": request.validation_rows,
        "device": job.device.partition(":")[0],
        "threads": job.threads,
        "code": job.code,
    }
    if request.time_limit:
        key["time limit"] = request.time_limit
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    return StudyRecord(
        id=f"{job.model.replace(':', '-')}-{request.budget}-{digest[:12]}",
        key=digest,
        model=job.model,
        title=cls.entry.title,
        dataset=plan.prepared.record(),
        tasks=list(job.tasks),
        budget=request.budget,
        search=request.search,
        scheduler=request.scheduler,
        seed=request.seed,
        space=json.loads(json.dumps(cls.search_space)),
        default=job.config,
        validation_rows=request.validation_rows,
        device=job.device,
        threads=job.threads,
        code=job.code,
        trials=request.trials,
        spread=request.spread,
        time_limit=request.time_limit,
        started=now(),
    )
