"""Small own logs, written in any format."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data import sources
from bench.data.log import Log
from bench.datasets.own_log.check import inspect

NOW = 1_750_000_000
T0 = 1_732_000_000_000


def events(n_users: int = 5, length: int = 8, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), length)
    item = np.concatenate([rng.permutation(30)[:length] for _ in range(n_users)])
    search = rng.random(len(user)) < 0.5
    return pd.DataFrame(
        {
            "user": [f"u{u}" for u in user],
            "item": [f"i{i}" for i in item],
            "time": T0 + rng.integers(0, 10**9, len(user)),
            "task": np.where(search, "search", "rec"),
            "query": [f"q{i % 4}" if s else "" for i, s in zip(item, search, strict=True)],
        }
    )


def tables() -> dict[str, pd.DataFrame]:
    return {
        "events": events(),
        "items": pd.DataFrame(
            [(f"i{i}", f"Thing {i}, red", f"a|b{i % 3}", i % 4) for i in range(30)],
            columns=["item", "text", "categories", "feature:size"],
        ),
        "queries": pd.DataFrame({"query": [f"q{q}" for q in range(5)], "text": [f"red thing {q}" for q in range(5)]}),
        "users": pd.DataFrame({"user": [f"u{u}" for u in range(6)], "feature:age": ["young", "old"] * 3}),
    }


def write(folder: Path, content: dict[str, pd.DataFrame], form: str = "csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in content.items():
        if form == "parquet":
            table.to_parquet(folder / f"{name}.parquet", index=False)
        else:
            text = table.to_csv(index=False).encode()
            (folder / f"{name}.{form}").write_bytes(gzip.compress(text) if form.endswith("gz") else text)
    return folder


def load(folder: Path, root: Path, **options) -> Log:
    return sources.load(f"log:{folder}", options, root=root)


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in inspect(folder, NOW).problems]


def notes(folder: Path) -> list[str]:
    inspection = inspect(folder, NOW)
    assert not inspection.problems, inspection.problems
    return inspection.notes
