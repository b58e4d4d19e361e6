"""Results folders that are filled by hand, and what tests ask of the tables made from them."""

import zlib

import numpy as np

from bench.data.log import file_sha256
from bench.evaluation.ranks import Ranks
from bench.report.table import table
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store

USERS = 120
FIRST, OTHER = "a1" * 32, "b2" * 32
DATA, CHANGED = "d0" * 32, "d1" * 32


class Folder:
    """A results folder that is filled by hand; time moves on by a second with every run and command."""

    def __init__(self, root):
        self.store = Store(root)
        self.clock = 0

    def tick(self):
        self.clock += 1
        return f"2030-01-01T{self.clock // 3600:02}:{self.clock // 60 % 60:02}:{self.clock % 60:02}.000+00:00"

    def run(
        self,
        model,
        better,
        *,
        tasks=("rec", "search"),
        seed=0,
        budget="quick",
        group="rec",
        config=None,
        code="c0",
        dataset="ml-100k",
        data=DATA,
        candidates=FIRST,
        label="uniform-99",
        title=None,
        tied=0,
        fit=None,
        evidence=None,
        leaks=None,
        kind="fit",
        users=None,
    ):
        """One finished run; `better` is the number of negatives above the positive, for each row or for each task."""
        users = np.arange(1, USERS + 1) if users is None else np.asarray(users)
        config = {"lr": 0.1, "epochs": 3} if config is None else config
        key = format(zlib.crc32(repr((model, seed, budget, config, code, data, tasks, dataset)).encode()), "012x")
        record = RunRecord(
            id=f"{model}-s{seed}-{key}",
            fit_key=key,
            kind=kind,
            model=model,
            title=title or model.upper(),
            group=group,
            tasks=list(tasks),
            seed=seed,
            budget=budget,
            config=config,
            device="cpu",
            threads=1,
            code=code,
            dataset={
                "name": dataset,
                "title": f"{dataset} (5-core)",
                "options": {},
                "fingerprint": data,
                "mode": "disjoint",
                "split": "leave-one-out",
                "synthetic": "queries (genre and decade)",
                "counts": {},
                "split_counts": {},
            },
            fit={"converged": True} if fit is None else fit,
            evidence=evidence or {},
        )
        n, parts = len(users), len(tasks)
        counts = [np.broadcast_to(better[t] if isinstance(better, dict) else better, n) for t in tasks]
        search = np.repeat([task == "search" for task in tasks], n)
        ranks = Ranks(
            user=np.tile(users, parts),
            event_id=np.tile(users, parts) * 10 + search,
            item=np.tile(users, parts),
            task=search,
            query=search,
            better=np.concatenate(counts),
            tied=np.full(n * parts, tied),
            candidates=np.full(n * parts, 100),
            meta={"model": model, "candidates": candidates},
        )
        name = f"ranks-{candidates[:16]}.parquet"
        folder = self.store.folder(dataset, record.id)
        if (folder / "run.json").exists():
            record = self.store.read(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ranks.save(folder / name)
        record.finished = self.tick()
        record.evaluations[candidates] = Evaluation(
            fingerprint=candidates,
            label=label,
            strategy=label.partition("-9")[0],
            seed=0,
            rows=dict.fromkeys(tasks, n),
            tie_rate={},
            leaks=leaks or {"zero:target in own history": 0, "share": 0.5},
            ranks=name,
            sha256=file_sha256(folder / name),
            seconds=1.0,
            finished=record.finished,
        )
        self.store.write(folder, record)
        return f"{dataset}/{record.id}"

    def command(self, *runs, candidates=(FIRST,), budget="quick", failed=None, models=()):
        started = self.tick()
        self.store.write_command(
            CommandRecord(
                id=started.replace(":", ""),
                line="bench run",
                started=started,
                budget=budget,
                candidates=list(candidates),
                datasets=list(dict.fromkeys(run.rpartition("/")[0] for run in runs)),
                models=list(models),
                seeds=[0],
                runs=list(runs),
                failed=failed or {},
                finished=self.tick(),
            )
        )


def draws(seed, high=60, n=USERS):
    return np.random.default_rng(seed).integers(0, high, n)


def three(folder):
    """a is clearly the best, b and c are equal; `most` is trivial and serves recommendation only."""
    runs = [
        folder.run("a", draws(1, 8), group="unified"),
        folder.run("b", draws(2), group="unified"),
        folder.run("c", draws(2)),
        folder.run("most", draws(3, 90) + 5, tasks=("rec",), group="trivial", config={}),
    ]
    folder.command(*runs)
    return table(folder.store)


def cells(made, **wanted):
    frame = made.frame()
    for key, value in wanted.items():
        frame = frame[frame[key] == value]
    return frame


def one(made, **wanted):
    found = cells(made, **wanted)
    assert len(found) == 1, found
    return found.iloc[0]
