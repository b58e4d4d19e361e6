"""From what a user typed to complete settings: `--set`, `--config FILE.yaml`, budgets, device."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown
from bench.messages import first_line, first_violation, flat_list

if TYPE_CHECKING:
    from bench.ranker.config import Config
    from bench.ranker.ranker import Ranker

BUDGETS = ("quick", "full")
TRAIN = "train"
LARGEST_SEED = 2**31 - 1
# More threads than this are a slip of the finger, and enough of them end the process without a word.
MOST_THREADS = 256
_SCALARS = (int, float, str, type(None))


@dataclass
class Overrides:
    """`NAME.KEY -> value` by name: a model, a data set or `train` (every model that has the setting)."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, name: str) -> dict[str, Any]:
        """The values for a name."""
        return self.values.get(name, {})

    def of_data(self, dataset: str) -> dict[str, Any]:
        """The values for a data set, by any of its `data_names`."""
        return {key: value for name in data_names(dataset) for key, value in self.of(name).items()}

    @classmethod
    def parse(cls, pairs: tuple[str, ...] | list[str]) -> "Overrides":
        """From `NAME.KEY=VALUE` strings; values are YAML: numbers, booleans, text, null or lists of these.

        Raises:
            UsageError: a string is of another form, or its value is no such YAML.
        """
        values: dict[str, dict[str, Any]] = {}
        for pair in pairs:
            owner, equals, text = pair.partition("=")
            name, dot, key = owner.rpartition(".")
            if not equals or not dot or not name or not key:
                raise UsageError(
                    f"--set {pair}: expected NAME.KEY=VALUE, for example unisar.lr=0.001 or train.epochs=3"
                )
            values.setdefault(name, {})[key] = _setting(pair, text)
        return cls(values)

    def over(self, base: "Overrides") -> "Overrides":
        """These values on top of others."""
        names = {*base.values, *self.values}
        return Overrides({name: base.of(name) | self.of(name) for name in names})

    def check(self, models: Iterable[str], datasets: Iterable[str]) -> None:
        """Refuse settings for names that this command does not use."""
        known = {*models, *(name for dataset in datasets for name in data_names(dataset)), TRAIN}
        for name in self.values:
            if name not in known:
                raise unknown(
                    "name in --set", name, known, "(it must be a model or data set of this command, or train)"
                )


def data_names(dataset: str) -> list[str]:
    """By which names `--set` speaks to a data set, the weakest first: its source's, and its own with the argument.

    A source that takes an argument may leave out the colon, `--set amazon.text=...`, unless a model is called so: `hem.lr` is
    the model's, `hem:.text` the source's.
    """
    # The command line imports this module before it knows what it is asked for.
    from bench.data import sources
    from bench.ranker import registry

    source = sources.entry(dataset).name
    short = source.rstrip(":")
    return [*([short] if short == source or short not in registry.entries() else []), source, dataset]


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file with the options of `bench run` (models, dataset, seeds, ...) and `set: {NAME: {KEY: VALUE}}`."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("set", {}), dict):
        raise UsageError(f"--config {path}: expected `option: value` lines and, under `set:`, NAME: {{KEY: VALUE}}")
    return content


def model_config(cls: "type[Ranker]", name: str, budget: str, overrides: Overrides, dataset: str = "") -> "Config":
    """The complete config of a model: defaults, what is published for the data set, the budget's, what the user set.

    It depends on the arguments and the model's sources alone: a backbone that is left to the machine stays `auto`.

    Raises:
        UsageError: an unknown setting or a value out of bounds.
    """
    from pydantic import ValidationError

    if budget not in BUDGETS:
        raise unknown("budget", budget, BUDGETS)
    known = set(cls.Config.model_fields)
    values = dict(cls.published.get(dataset.rstrip(":"), {})) | (cls.quick if budget == "quick" else {})
    # `train` speaks to all models at once; a model without the setting has nothing to change.
    values |= {key: value for key, value in overrides.of(TRAIN).items() if key in known}
    for key, value in overrides.of(name).items():
        if key not in known:
            raise unknown(f"setting of {name}", key, known or {"none, it has no settings"})
        values[key] = value
    try:
        config: Config = cls.Config(**values)
    except ValidationError as error:
        raise UsageError(first_violation(error, name)) from None
    return config


def on_this_machine(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the backbone that this machine has in the place of `auto`."""
    if config.get("backbone") != "auto":
        return config
    from bench.ranker.backbone_names import resolve

    return config | {"backbone": resolve("auto")}


def check_train_keys(overrides: Overrides, configs: Iterable[dict[str, Any]]) -> None:
    """Refuse `train.KEY` that none of the models has."""
    known = {name for config in configs for name in config}
    for key in overrides.of(TRAIN):
        if key not in known:
            raise unknown("setting of train", key, known or {"(none of these models is trained)"})


def check_seeds(seeds: Sequence[int], given: str = "") -> None:
    """Refuse seeds that are none: too large, negative, or twice the same.

    Args:
        seeds: the numbers.
        given: how the user gave them, for the message.

    Raises:
        UsageError: the first of them, with what is expected.
    """
    if not seeds:
        raise UsageError("no seeds given; --seeds 0 or --seeds 0,1,2")
    given = given or f"--seeds {flat_list(seeds)}"
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UsageError(f"{given}: expected whole numbers from 0 to {LARGEST_SEED}")
        if list(seeds).count(seed) > 1:
            raise UsageError(f"{given}: {seed} is there twice; a second run with the same seed is the same run")


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has.

    Raises:
        UsageError: it is negative or too large.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise UsageError(f"--threads {threads}: expected 0 (all cores) to {MOST_THREADS}")


def device(name: str, elsewhere: bool = False) -> str:
    """`auto` (a GPU where this machine has one), `cpu`, `cuda`, `cuda:N` or `mps`, checked.

    Args:
        name: what the user typed.
        elsewhere: whether other machines do the work, whose devices are not looked at.

    Raises:
        UsageError: there is no such device.
    """
    if name == "cpu" or (name == "auto" and not _may_use_cuda()):
        return "cpu"
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:0 or mps") from None
    if elsewhere and kind.type in ("cpu", "cuda"):
        return name
    if kind.type == "cuda" and (not torch.cuda.is_available() or (kind.index or 0) >= torch.cuda.device_count()):
        there = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise UsageError(f"--device {name}: this machine has {there}; use --device cpu")
    if kind.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: not available on this machine; use --device cpu")
    if kind.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:0 or mps")
    return name


def _may_use_cuda() -> bool:
    """False where torch is sure to find no GPU: its build or this machine has no driver for one. Does not import torch."""
    import ctypes
    import importlib.util

    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return True
    build = importlib.util.spec_from_file_location(
        "bench_torch_version", Path(spec.submodule_search_locations[0]) / "version.py"
    )
    if build is None or build.loader is None:
        return True
    version = importlib.util.module_from_spec(build)
    build.loader.exec_module(version)
    if getattr(version, "hip", "unknown") is not None:
        return True
    if getattr(version, "cuda", "unknown") is None:
        return False
    if not sys.platform.startswith("linux"):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _setting(pair: str, text: str) -> Any:
    """The value of `NAME.KEY=VALUE`."""
    import yaml

    # YAML 1.1 reads 1e-3 as text.
    number = _number(text)
    if number is not None:
        return number
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(
            f"--set {pair}: '{text}' is not readable ({first_line(error)}); quote it to make it text"
        ) from None
    if not all(isinstance(each, _SCALARS) for each in (value if isinstance(value, list) else [value])):
        kind = "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise UsageError(
            f"--set {pair}: '{text}' is {kind}; expected a number, true or false, text or a list; quote it to make it text"
        )
    return value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
