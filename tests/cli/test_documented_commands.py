"""The quick commands and the code blocks of the pages do what the pages say."""

import importlib.util
from pathlib import Path

import pytest

from bench.data.log import TASKS
from bench.ranker import registry

from ..documentation import PAGES, ROOT, code_blocks, commands

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)
# These answer in seconds from what is there; `run`, `fetch`, `ui`, `prepare` and the conformance checks take minutes or a
# server and are parsed in tests/test_docs.py.
QUICK = {("table",), ("models",), ("doctor",), ("runs",), ("data",), ("data", "list"), ("data", "stats"), ("evaluate",)}
STAND_IN = {"RUN": "popularity-s0", "unisar-s0": "matcher-s0", "NAME": "ml-100k"}
STAND_IN |= {"gensr": "popularity", "gensr,unisar": "popularity,matcher"}


def quick_commands() -> list[list[str]]:
    chosen = []
    for page in PAGES:
        for words in commands(page):
            head = tuple(word for word in words[1:3] if not word.startswith("-") and not word.isupper())
            known = words[0] == "bench" and (head in QUICK or head[:1] in {("table",), ("evaluate",)})
            there = not {"DIR", "kuaisar"} & set(words)
            if known and there and words not in chosen and page.name != "add-a-model.md":
                chosen.append(words)
    return chosen


@pytest.mark.parametrize("words", quick_commands(), ids=" ".join)
def test_a_quick_command_does_its_work(results, bench, words: list[str]) -> None:
    words = [STAND_IN.get(word, word) for word in words[1:]]
    if words[0] == "evaluate":
        words += ["--candidates", "popularity"] if "--candidates" not in words else []
    given = bench(*words, "--help").stdout
    words += ["--data", results.data] if "--data DIR" in given else []
    words += ["--out", results.out] if "--out DIR" in given and "--from" not in words else []
    for folder in [words[at + 1] for at, word in enumerate(words) if word == "--from"]:
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        Path(folder).symlink_to(results.out)
    if "popularity" in words and words[0] == "table":
        first = (
            "evaluate",
            "popularity-s0",
            "--candidates",
            "popularity",
            "--data",
            results.data,
            "--out",
            results.out,
        )
        assert bench(*first).exit_code == 0
    done = bench(*words)
    assert done.exit_code == 0 and done.stdout, done.output


def test_the_notebook_block_of_the_readme_runs(results, monkeypatch) -> None:
    (block,) = (each for each in code_blocks(ROOT / "README.md") if each.language == "python")
    assert registry.select("gensr,unisar", TASKS)
    # The two models take minutes; one without training stands in.
    text = block.text.replace('models="gensr,unisar"', 'models="popularity", trivial=False, quiet=True')
    assert text != block.text
    monkeypatch.setenv("BENCH_DATA", str(results.data))
    scope: dict = {}
    exec(text, scope)
    assert len(scope["log"].users) == 943 and set(scope["bench"].table()["model"]) == {"popularity"}


def test_the_ten_lines_of_the_page_on_own_logs_are_a_log(bench) -> None:
    (block,) = (each for each in code_blocks(ROOT / "docs" / "own-logs.md") if each.language == "csv")
    Path("my-shop").mkdir()
    Path("my-shop/events.csv").write_text(block.text)
    done = bench("data", "check", "my-shop")
    assert done.exit_code == 0 and "my-shop is in order" in done.stdout, done.output
