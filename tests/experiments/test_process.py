"""How a process computes, and what it says of its memory."""

import subprocess
import sys

import numpy as np
import pytest

from bench.experiments.job import execute
from bench.experiments.plan import plan
from bench.experiments.process import forget_peak_memory, peak_memory_mb
from bench.experiments.run import RunRequest


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process")
def test_a_peak_can_be_forgotten():
    forget_peak_memory()
    before = peak_memory_mb()
    block = np.ones(40_000_000)  # 320 MB
    with_it = peak_memory_mb()
    del block
    assert with_it > before + 250
    assert peak_memory_mb() == pytest.approx(with_it, rel=0.01)  # gone, and still remembered
    forget_peak_memory()
    assert peak_memory_mb() < with_it - 250


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process")
def test_the_record_of_a_run_does_not_hold_the_peak_of_what_was_before_it(tmp_path):
    pytest.importorskip("recbole", reason="ml-100k comes with RecBole (pip install --no-deps recbole==1.2.1)")
    (job,) = plan(RunRequest("popularity", trivial=False, threads=1, out=tmp_path))[0].jobs
    block = np.ones(100_000_000)  # 800 MB
    with_it = peak_memory_mb()
    del block
    assert 0 < execute(job).record.peak_memory_mb < with_it - 300


DENORMAL = """
import torch
from bench.experiments.process import configure_torch
{configure}
tiny = torch.full((1_000_000,), 1 << 20, dtype=torch.int32).view(torch.float32)  # 1.5e-39
print(float((tiny * 1.0).sum()) > 0, float((tiny[:4] * 1.0).sum()) > 0, bool(tiny.view(torch.int32).all()))
"""


@pytest.mark.parametrize(("configure", "survive"), [("configure_torch(2)", "False False True"), ("", "True True True")])
def test_numbers_that_slow_a_processor_down_are_zeros_in_all_threads(configure, survive):
    script = DENORMAL.format(configure=configure)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == survive
