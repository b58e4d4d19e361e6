"""This process: threads, deterministic kernels, memory."""

import contextlib
import os
import sys
from pathlib import Path


def usable_threads(asked: int) -> int:
    """The number of threads that a command asks for; 0 means one per core that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or allowed


def configure_torch(threads: int) -> None:
    """Set the number of threads, deterministic kernels and zero for what is too small, for this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    # Sets the same as `use_deterministic_algorithms(True)`, which imports the compiler for a setting of it.
    torch.set_deterministic_debug_mode("error")
    # Deterministic kernels alone are what is wanted; filling every new tensor finds bugs and costs half the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # A processor computes numbers below 1.2e-38 (float32) in microcode. Long trainings are full of them, for attention
    # becomes sharp, and a UniSAR took more than twice the time for it; as zeros they changed no digit of its losses and
    # metrics. Threads have this from the thread that starts them, so it is set before the first work in parallel.
    torch.set_flush_denormal(True)


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` begin anew, where the system can: on Linux, and on a GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Largest resident memory of this process, or of the GPU where one is used, in MB; NaN on Windows.

    Since `forget_peak_memory` where the system can forget it, otherwise since the process began.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        # What getrusage says can be older: it keeps the peak of threads that have ended.
        (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6
    except (OSError, ValueError):
        pass
    try:
        import resource  # only on Unix
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
