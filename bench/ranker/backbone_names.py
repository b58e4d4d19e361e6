"""Which language models this machine has, found without importing torch."""

import os
from pathlib import Path

from bench.errors import RunError
from bench.messages import comma_list

SMALL = "small-t5"
PRETRAINED = "google/flan-t5-base"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = ("tokenizer.json", "spiece.model")


def resolve(name: str) -> str:
    """The backbone that `name` stands for: `auto` is flan-t5-base where this machine has it, else `small-t5`.

    Raises:
        RunError: a backbone was named that is not there.
    """
    if name == "auto":
        return PRETRAINED if available(PRETRAINED) else SMALL
    if not available(name) and not may_download():
        raise absent(name)
    return name


def available(name: str) -> bool:
    """Whether a backbone can be loaded without the network."""
    if name == SMALL:
        return True
    folder = Path(name).expanduser()
    if folder.is_dir():
        return not _missing(folder)
    return (
        _in_cache(name, "config.json")
        and any(_in_cache(name, f) for f in _WEIGHTS)
        and any(_in_cache(name, f) for f in _TOKENIZERS)
    )


def absent(name: str) -> RunError:
    """The error for a backbone that is not on this machine."""
    if Path(name).expanduser().is_dir():
        return RunError(
            f"backbone '{name}' is a folder that lacks {comma_list(_missing(Path(name).expanduser()))}; save a T5 and its "
            f"tokenizer there (save_pretrained of both), fetch one (hf download {PRETRAINED} --local-dir {name}), or choose "
            f"{SMALL}"
        )
    from huggingface_hub import constants

    return RunError(
        f"backbone '{name}' is not on this machine: it is no folder, and the cache {constants.HF_HUB_CACHE} does not have "
        f"it; fetch it (hf download {name}), allow it for this run (BENCH_DOWNLOAD=1), give a local folder, or choose {SMALL}"
    )


def _missing(folder: Path) -> list[str]:
    """What a folder lacks of a backbone: the first name of each kind of file."""
    has = {path.name for path in folder.iterdir()}
    return [names[0] for names in (("config.json",), _WEIGHTS, _TOKENIZERS) if not has & set(names)]


def may_download() -> bool:
    """Whether the user allows downloads."""
    return os.environ.get("BENCH_DOWNLOAD", "") not in ("", "0") and os.environ.get("HF_HUB_OFFLINE", "") in ("", "0")


def _in_cache(name: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, file), str)
    except HFValidationError:
        return False
