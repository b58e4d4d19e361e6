"""Simulated searches and recommendations with a known answer: generator -> CSV files like KuaiSAR's -> its reader.

What is planted, and how strongly, is in `Parameters`; `oracle` scores with that knowledge. `write_raw` writes the files
of a release of any size, so that `kuaisar` itself can be tried where the real files are not.
"""

import hashlib
import json
from pathlib import Path

from bench.data.log import Log, file_sha256
from bench.data.sources import Source, source
from bench.datasets.kuaisar import source as kuaisar
from bench.datasets.kuaisar.csv import Release
from bench.datasets.simulated import events as simulated_events
from bench.datasets.simulated import files as simulated_files
from bench.datasets.simulated import structure as simulated_structure
from bench.datasets.simulated.files import write_raw
from bench.datasets.simulated.structure import Parameters, full_size, oracle
from bench.files import exclusive_folder

__all__ = ["Config", "Parameters", "Simulated", "full_size", "oracle", "write_raw"]


class Config(kuaisar.Config, Parameters):
    """Size and strengths of the simulation (`Parameters`), and how its release becomes a Log (`kuaisar.Config`)."""

    def parameters(self) -> Parameters:
        """The part of the settings that is about the simulation."""
        return Parameters(**{name: getattr(self, name) for name in Parameters.model_fields})


@source("simulated", title="Simulated", split="last-day", synthetic="everything (simulated)")
class Simulated(Source):
    """A simulated release, generated when it is first used."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """Files of the release, generated on first use; a folder for each set of parameters."""
        modules = (simulated_structure, simulated_events, simulated_files)
        code = [file_sha256(Path(str(module.__file__))) for module in modules]
        recipe = json.dumps([self.config.parameters().model_dump(), code], sort_keys=True)
        folder = self.root / f"raw-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        if not folder.exists():
            with exclusive_folder(folder, "the simulated files"):
                if not folder.exists():  # another process may have made them meanwhile
                    write_raw(folder, self.config.parameters())
        return {name: folder / name for name in kuaisar.FILES}

    def prepare(self, files: dict[str, Path]) -> Log:
        """As KuaiSAR's reader does."""
        return kuaisar.prepare("simulated", Release(files), self.config)
