"""Keeps what other people's packages do to the process on import from reaching the rest of a run.

A package may turn on a debugging mode of torch, seed the generators, filter warnings or set up logging the moment it
is imported; everything that runs later in the process would then run otherwise than without it.
"""

import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Put the state of the process back at the end of the block: of Python, logging, torch, numpy and matplotlib.

    That is: environment variables, search path, working folder, command line, hooks, recursion limit, signal handlers,
    locale, warnings filters; levels, handlers and switches of the loggers that there were before; the random
    generators; torch's anomaly and gradient modes, default type, threads, determinism and precision; numpy's names,
    error handling and printing; matplotlib's settings. Modules that the block imports stay imported.

    A library that the block itself imports first is put into the state in which it comes, where it has such a record.
    """
    with ExitStack() as undo, warnings.catch_warnings():
        for keep in (_python, _logging, _generators, _torch, _numpy, _matplotlib):
            undo.callback(keep())
        yield


def _python() -> Callable[[], None]:
    environment, path, arguments, folder = dict(os.environ), list(sys.path), list(sys.argv), os.getcwd()
    hooks = {name: getattr(sys, name) for name in ("excepthook", "displayhook", "unraisablehook", "stdout", "stderr")}
    in_threads, depth, place = threading.excepthook, sys.getrecursionlimit(), locale.setlocale(locale.LC_ALL)
    # Only the main thread may set a handler.
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}

    def restore() -> None:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        sys.path[:], sys.argv[:] = path, arguments
        if os.getcwd() != folder:
            os.chdir(folder)
        for name, hook in hooks.items():
            setattr(sys, name, hook)
        threading.excepthook = in_threads
        sys.setrecursionlimit(depth)
        locale.setlocale(locale.LC_ALL, place)
        for number, handler in handlers.items():
            # None: a handler that was not set from Python and cannot be read.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return restore


def _logging() -> Callable[[], None]:
    manager = logging.root.manager
    loggers = [logging.root, *(each for each in manager.loggerDict.values() if isinstance(each, logging.Logger))]
    state = [(each, each.level, list(each.handlers), each.propagate, each.disabled) for each in loggers]
    disabled, cls = manager.disable, logging.getLoggerClass()

    def restore() -> None:
        for logger, level, handlers, propagate, off in state:
            if logger.level != level:
                logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate, logger.disabled = propagate, off
        logging.disable(disabled)
        logging.setLoggerClass(cls)

    return restore


def _generators() -> Callable[[], None]:
    python, numpy, torch = random.getstate(), sys.modules.get("numpy"), sys.modules.get("torch")
    of_numpy = numpy.random.get_state() if numpy else None
    of_torch = torch.get_rng_state() if torch else None
    of_cuda = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(of_numpy)
        if torch:
            torch.set_rng_state(of_torch)
        if torch and of_cuda is not None:
            torch.cuda.set_rng_state_all(of_cuda)

    return restore


def _torch() -> Callable[[], None]:
    torch = sys.modules.get("torch")
    if torch is None:
        return lambda: _calm(sys.modules.get("torch"))
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    gradients, kind, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    strict, precision = torch.get_deterministic_debug_mode(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    convolutions = cudnn.enabled, cudnn.benchmark, cudnn.deterministic

    def restore() -> None:
        torch.autograd.set_detect_anomaly(*anomaly)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(kind)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_deterministic_debug_mode() != strict:
            torch.set_deterministic_debug_mode(strict)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) != convolutions:
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic = convolutions

    return restore


def _calm(torch: Any) -> None:
    """Torch as it comes, in what a package most often changes."""
    if torch is not None:
        torch.autograd.set_detect_anomaly(False)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        torch.set_deterministic_debug_mode(0)


def _numpy() -> Callable[[], None]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return lambda: None
    names, errors, printing = dict(vars(numpy)), numpy.geterr(), numpy.get_printoptions()

    def restore() -> None:
        for name, value in list(vars(numpy).items()):
            # A package gets an attribute for each of its modules that is imported.
            if name not in names and not isinstance(value, ModuleType):
                delattr(numpy, name)
        for name, value in names.items():
            if vars(numpy).get(name) is not value:
                setattr(numpy, name, value)
        numpy.seterr(**errors)
        numpy.set_printoptions(**printing)

    return restore


def _matplotlib() -> Callable[[], None]:
    before = sys.modules.get("matplotlib")
    # As a plain dict: reading the back end through rcParams would choose one.
    settings = dict.copy(before.rcParams) if before else None

    def restore() -> None:
        after = sys.modules.get("matplotlib")
        if after is not None and hasattr(after, "rcParams"):
            dict.update(after.rcParams, dict.copy(after.rcParamsOrig) if settings is None else settings)

    return restore
