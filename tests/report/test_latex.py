"""LaTeX of every view compiles, where a TeX is installed."""

import shutil
import subprocess

import pytest

from bench.report.table import table

from .results_by_hand import draws
from .test_forms import HOSTILE

needs_tex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs pdflatex with booktabs (Debian: apt-get install texlive-latex-recommended)",
)
# What an article in English compiles without a further font.
TITLES = [title for title in HOSTILE if title.isascii()]


@needs_tex
@pytest.mark.parametrize("view", ["table", "narrow", "paper", "against", "compare"])
def test_it_compiles_with_names_that_are_commands(folder, tmp_path, view):
    runs = [folder.run(f"m{i}", draws(i, 9), title=f"{i}. {title}", seed=i % 2) for i, title in enumerate(TITLES)]
    runs.append(folder.run("backed", draws(99), evidence={"backbone": TITLES[3]}))
    folder.command(*runs, failed={"ml-100k/gone-s0-1": TITLES[1]})
    made = table(folder.store)
    views = {
        "table": lambda: made,
        "narrow": lambda: made.layout("narrow"),
        "paper": lambda: made.layout("paper"),
        "against": lambda: made.against("m3"),
        "compare": lambda: made.compare("m3", "m4"),
    }
    body = views[view]().latex()
    source = tmp_path / "page.tex"
    # A table as wide as its 400-character name is an overfull line, which is no error.
    source.write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", source.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert source.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
