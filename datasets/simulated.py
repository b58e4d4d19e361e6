"""Simulated searches and recommendations with a known answer: generator -> CSV files like KuaiSAR's -> its reader.

What is planted, and how strongly, is in `Parameters`; `oracle` scores with that knowledge. `write_raw` writes the files
of a release of any size, so that `kuaisar` itself can be tried where the real files are not.
"""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.data.folders import claimed
from bench.data.log import Log, file_sha256
from bench.data.sources import Source, source
from bench.datasets import kuaisar, simulated_events, simulated_files, simulated_structure
from bench.datasets.kuaisar_csv import Release
from bench.datasets.simulated_files import write_raw
from bench.datasets.simulated_structure import Parameters, full_size, oracle

__all__ = ["Config", "Parameters", "Simulated", "full_size", "oracle", "write_raw"]


@dataclass(config=ConfigDict(extra="forbid"))
class Config(kuaisar.Config, Parameters):
    """Size and strengths of the simulation (`Parameters`), and how its release becomes a Log (`kuaisar.Config`)."""

    def parameters(self) -> Parameters:
        return Parameters(**{field.name: getattr(self, field.name) for field in fields(Parameters)})


@source("simulated", title="Simulated", split="last-day", synthetic="everything (simulated)")
class Simulated(Source):
    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """Files of the release, generated on first use; a folder for each set of parameters."""
        modules = (simulated_structure, simulated_events, simulated_files)
        code = [file_sha256(Path(str(module.__file__))) for module in modules]
        recipe = json.dumps([asdict(self.config.parameters()), code], sort_keys=True)
        folder = self.root / f"raw-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
        if not folder.exists():
            with claimed(folder, "the simulated files"):
                if not folder.exists():  # another process may have made them meanwhile
                    write_raw(folder, self.config.parameters())
        return {name: folder / name for name in kuaisar.FILES}

    def prepare(self, files: dict[str, Path]) -> Log:
        return kuaisar.prepare("simulated", Release(files), self.config)
