"""The report as one HTML file that needs nothing else: no network, no server, no other file."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from bench.files import write_atomically
from bench.report.detail.analyses import analyses
from bench.report.html.analyses import analysis_content
from bench.report.html.charts import WIDTH, Chart
from bench.report.html.content import BlockContent, block_content
from bench.report.table import Table
from bench.store.environment import versions

MOST_BYTES = 3_000_000
_EACH_WAY = 8  # largest losses and wins of each model, at first
_REMEDY = "free space or choose another place with --to"


class Report:
    """A table with everything behind it.

    Args:
        table: what is reported.
        root: folder of the prepared data; None for the default one.
        command: the command line that makes the report, for its last section.
    """

    def __init__(self, table: Table, root: str | Path | None = None, command: str = ""):
        self._table, self._root, self._command = table, root, command
        for block in table.blocks:
            block.test(table.shown)
        self.blocks: list[BlockContent] = []
        self._fill(_EACH_WAY)
        folders = [run.folder for block in table.blocks for row in block.group.rows for run in row.runs]
        names = [block.group.dataset["name"] for block in table.blocks]
        self.analyses = [analysis_content(each) for each in analyses([each.parent.parent for each in folders], names)]

    @property
    def charts(self) -> list[Chart]:
        """All charts, in the order of the page; names are unique."""
        return [chart for block in self.blocks for chart in block.charts]

    def html(self) -> str:
        """The page. Where it would be larger than `MOST_BYTES`, fewer single rows are shown."""
        each_way = _EACH_WAY
        while True:
            page = self._rendered()
            if len(page.encode()) <= MOST_BYTES or each_way == 0:
                return page
            each_way //= 2
            self._fill(each_way)

    def save(self, path: Path) -> None:
        """Write the page.

        Raises:
            RunError: the place cannot be written.
        """
        page = self.html()
        write_atomically(path, lambda scratch: scratch.write_text(page, encoding="utf-8"), _REMEDY)

    def save_figures(self, folder: Path, tick: Callable[[Path], None] = lambda path: None) -> list[Path]:
        """Write every chart as PNG and as PDF; returns the files.

        Args:
            folder: where; it is made.
            tick: called with each file.

        Raises:
            RunError: the folder cannot be written.
        """
        import vl_convert

        files = []
        for chart in self.charts:
            forms: dict[str, Callable[[], bytes]] = {
                "png": lambda spec=chart.spec: vl_convert.vegalite_to_png(spec, scale=2),  # type: ignore[misc]
                "pdf": lambda spec=chart.spec: vl_convert.vegalite_to_pdf(spec),  # type: ignore[misc]
            }
            for form, made in forms.items():
                path = folder / f"{chart.name}.{form}"
                content = made()
                write_atomically(path, lambda scratch, content=content: scratch.write_bytes(content), _REMEDY)  # type: ignore[misc]
                files.append(path)
                tick(path)
        return files

    def _fill(self, each_way: int) -> None:
        several = len(self._table.blocks) > 1
        self.blocks = [
            block_content(block, self._table.shown, self._root, f"{number}-" if several else "", each_way)
            for number, block in enumerate(self._table.blocks, 1)
        ]

    def _rendered(self) -> str:
        template = _environment().get_template("report.html.j2")
        return template.render(
            blocks=self.blocks,
            analyses=self.analyses,
            library=_library(),
            figure_width=WIDTH,
            command=self._command,
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            version=versions()["bench"] or "",
        )


def _environment() -> Any:
    """Templates with autoescape: whatever a name holds comes out as typed."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    made.policies["json.dumps_function"] = json.dumps
    return made


@cache
def _library() -> str:
    """Vega-Lite and what it stands on as one script, from the package that also renders the figures."""
    import vl_convert

    # Within a page nothing may look like the end of the script.
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
