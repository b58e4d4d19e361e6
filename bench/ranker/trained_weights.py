"""The weights of a checkpoint: what a fresh object does not have."""

import hashlib

import torch
from torch import Tensor, nn

from bench.errors import RunError
from bench.messages import comma_list


class TrainedWeights:
    """Reads and restores a module's buffers, and its parameters except for those that are as they were at first.

    So a checkpoint of a model around a frozen language model does not hold the language model.

    Args:
        module: as a fresh object has it, before any training.
        trained: ids of parameters that are read in any case; the others are read once they differ from the fresh object's.
    """

    def __init__(self, module: nn.Module, trained: set[int]):
        self._module = module
        parameters = module.named_parameters(remove_duplicate=False)
        self._fresh = {name: _fingerprint(value) for name, value in parameters if id(value) not in trained}

    def state(self) -> dict[str, Tensor]:
        """The entries of the module's state by name, sharing its memory."""
        state, fresh = self._module.state_dict(), self._fresh
        return {name: value for name, value in state.items() if name not in fresh or fresh[name] != _fingerprint(value)}

    def copy(self) -> dict[str, Tensor]:
        """A copy of `state` in the CPU's memory."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` or `copy` gave.

        Raises:
            RunError: it is of another model.
        """
        result = self._module.load_state_dict(state, strict=False)
        absent = [name for name in result.missing_keys if name not in self._fresh]
        if absent or result.unexpected_keys:
            wrong = comma_list([*absent, *result.unexpected_keys][:3])
            raise RunError(f"the checkpoint is of another model ({wrong}); start over with --force")


def _fingerprint(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy(), digest_size=16).digest()
