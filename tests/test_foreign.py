"""What a foreign package does to the process on import does not reach what runs after it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

# Reads the state by itself, apart from the code under test.
STATE = """
import gc, locale, logging, os, random, signal, sys, types, warnings
import numpy as np, torch

def state():
    loggers = {
        name: (each.level, tuple(map(id, each.handlers)), each.propagate, each.disabled)
        for name, each in [("", logging.root), *logging.root.manager.loggerDict.items()]
        if isinstance(each, logging.Logger)
    }
    return {
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "generators": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "environment": dict(os.environ),
        "search path": list(sys.path), "command line": list(sys.argv), "folder": os.getcwd(),
        "hooks": (sys.excepthook, sys.displayhook), "streams": (id(sys.stdout), id(sys.stderr)),
        "recursion": sys.getrecursionlimit(), "locale": locale.setlocale(locale.LC_ALL),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "numpy": {name: id(value) for name, value in vars(np).items() if not isinstance(value, types.ModuleType)},
        "numpy's errors": (np.geterr(), np.get_printoptions()),
        "logging": (logging.root.manager.disable, logging.getLoggerClass()),
        "loggers": loggers,
    }

def changed(before, after):
    # A package's own new loggers are its own affair.
    after["loggers"] = {name: after["loggers"].get(name) for name in before["loggers"]}
    return sorted(name for name in before if before[name] != after[name])
"""
CHANGES = """
import locale, logging, os, random, signal, sys, warnings
import numpy as np, torch
torch.autograd.set_detect_anomaly(True, check_nan=False)
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
torch.set_grad_enabled(False)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_float32_matmul_precision("medium")
torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
torch.manual_seed(1), np.random.seed(1), random.seed(1)
warnings.simplefilter("error")
os.environ["PLANTED"], os.environ["HOME"] = "1", "/nowhere"
sys.path.insert(0, "/nowhere"), sys.argv.append("x")
sys.excepthook = lambda *_: None
sys.setrecursionlimit(12_345)
locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
np.planted, np.pi, before = 1, 3.0, np.pi
np.seterr(all="raise"), np.set_printoptions(precision=2)
logging.basicConfig(level=5, handlers=[logging.StreamHandler()], force=True)
logging.getLogger("known").setLevel(7), logging.disable(50)
os.chdir("/")
thing = 1
"""


def child(code: str, tmp_path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", STATE + code], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.split(";") if name]


def test_what_a_plugin_does_on_import_is_put_back(tmp_path):
    (tmp_path / "planted_package.py").write_text(CHANGES)
    direct = (
        "import logging; logging.getLogger('known'); import sys; sys.path.append('.'); before = state()\n"
        "import planted_package; print(*changed(before, state()), sep=';', end=';')"
    )
    loaded = (
        "import logging; logging.getLogger('known'); import sys; sys.path.append('.'); from bench import plugins\n"
        "before = state(); plugins.load('model', 'planted', 'planted_package:thing')\n"
        "print(*changed(before, state()), sep=';', end=';')"
    )
    assert len(child(direct, tmp_path)) >= 18, "the planted package changes nearly everything that is looked at"
    assert child(loaded, tmp_path) == []


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed")
@pytest.mark.slow
def test_importing_every_bridged_class_leaves_the_process_as_it_was(tmp_path):
    code = (
        "from bench.baselines.recbole import classes\nfrom bench.ranker import registry\nbefore = state()\n"
        "for entry in classes.listing():\n    entry['refused'] or registry.get(entry['name'])\n"
        "assert 'recbole.model.sequential_recommender.sine' in sys.modules\n"
        "print(*changed(before, state()), sep=';', end=';')"
    )
    assert child(code, tmp_path) == []


def test_a_library_that_comes_with_the_package_is_calm_afterwards(tmp_path):
    (tmp_path / "planted_package.py").write_text("import torch\ntorch.autograd.set_detect_anomaly(True)\nthing = 1")
    code = (
        "import sys; sys.path.append('.'); from bench import plugins; plugins.load('model', 'x', 'planted_package:thing')\n"
        "import torch; print(torch.is_anomaly_enabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
