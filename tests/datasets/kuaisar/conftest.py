"""A small generated release, a copy to change, and its Log."""

from pathlib import Path

import pytest

from bench.data import sources
from bench.data.log import Log
from bench.datasets.simulated.source import write_raw

from .release_files import FILES, SIZE


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "KuaiSAR_v2"
    write_raw(folder, SIZE)
    return folder


@pytest.fixture
def place(release, tmp_path):
    """Data root with a copy of the release; a function that loads it."""
    folder = tmp_path / "kuaisar" / "KuaiSAR_v2"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes((release / name).read_bytes())

    def load(name: str = "kuaisar", **options) -> Log:
        return sources.load(name, options, tmp_path)

    load.folder, load.root = folder, tmp_path
    return load


@pytest.fixture(scope="session")
def plain(release, tmp_path_factory) -> Log:
    root = tmp_path_factory.mktemp("plain")
    (root / "kuaisar").mkdir()
    (root / "kuaisar" / "KuaiSAR_v2").symlink_to(release)
    return sources.load("kuaisar", {}, root)
