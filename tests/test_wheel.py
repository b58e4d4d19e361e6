"""The wheel: it adds the one package `bench` to the import path, with all code folders in it, and works alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    import shutil

    # A copy, so that nothing is left in the checkout.
    source = tmp_path_factory.mktemp("source") / "bench"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "results", "tests", "*.egg-info", ".*_cache"),
    )
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_the_wheel_adds_only_bench(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"bench"}
    for folder, code in (
        ("models/gensr", "model"),
        ("baselines/unisar", "model"),
        ("datasets", "ml_100k"),
        ("testing", "conformance"),
    ):
        assert f"bench/{folder}/{code}.py" in names
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bench").rglob("*.py")}
    for folder in ("models", "baselines", "datasets"):
        files |= {f"bench/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    assert files <= set(names), "every package is listed in pyproject.toml"


def test_the_wheel_works_without_recbole(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # The checkout's own installation must not help out, and RecBole is hidden.
    program = (
        "import sys; sys.modules['recbole'] = None;"
        "import bench; assert bench.__file__.startswith(sys.argv[1]), bench.__file__;"
        "from bench.cli.main import main; main(sys.argv[2:])"
    )

    def bench(*words):
        env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "BENCH_DATA": str(tmp_path / "data")}
        command = [sys.executable, "-c", program, str(tmp_path / "site"), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)

    assert "run" in bench("--help").stdout
    listed = bench("models")
    assert listed.returncode == 0 and "gensr" in listed.stdout and "sasrec" in listed.stdout
    refused = bench("run", "--models", "popularity", "--dataset", "ml-100k")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "pip install --no-deps recbole" in refused.stderr
