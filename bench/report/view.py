"""What a command shows: sheets in every form, and the records behind them."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.report.sheet import Sheet


@dataclass(frozen=True)
class View:
    """Sheets with the records behind them, which are made where they are asked for."""

    sheets: list[Sheet]
    make_records: Callable[[], list[dict[str, Any]]]

    def records(self) -> list[dict[str, Any]]:
        """Flat records; what does not exist is None."""
        return self.make_records()

    def text(self, width: int = 100, color: bool = False) -> str:
        """For the terminal: columns that do not fit into `width` follow below."""
        from bench.report import sheet_forms

        return sheet_forms.text(self.sheets, width, color)

    def markdown(self) -> str:
        """GitHub's tables."""
        from bench.report import sheet_forms

        return sheet_forms.markdown(self.sheets)

    def latex(self) -> str:
        """One `table` environment a sheet; needs the package booktabs."""
        from bench.report import sheet_forms

        return sheet_forms.latex(self.sheets)

    def html(self) -> str:
        """A page that needs nothing but itself."""
        from bench.report.html_table import html

        return html(self.sheets)

    def json(self) -> str:
        """The records as a JSON list."""
        return json.dumps(self.records(), indent=1)

    def csv(self) -> str:
        """The records as CSV with a header line; what does not exist is empty."""
        stream, records = io.StringIO(), self.records()
        writer = csv.DictWriter(stream, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue()
