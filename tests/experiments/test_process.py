"""What a process says of its memory."""

import sys

import numpy as np
import pytest

from bench.experiments.process import forget_peak_memory, peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak of a process")
def test_the_peak_of_one_run_is_not_that_of_the_runs_before_it():
    forget_peak_memory()
    before = peak_memory_mb()
    block = np.ones(40_000_000)  # 320 MB
    with_it = peak_memory_mb()
    del block
    assert with_it > before + 250
    assert peak_memory_mb() == pytest.approx(with_it, rel=0.01)  # gone, and still remembered
    forget_peak_memory()
    assert peak_memory_mb() < with_it - 250
