"""What a process says of its memory."""

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
