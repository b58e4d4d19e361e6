"""The docs are true: layers, files, links, the page of commands, every command in every page."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from bench.cli import options
from bench.cli.main import main
from bench.data import sources
from bench.data.log import TASKS
from bench.evaluation import metrics
from bench.evaluation.candidates import STRATEGIES
from bench.ranker import registry

from .documentation import PAGES, ROOT, code_blocks, commands
from .test_imports import LAYERS

# A page that shows how to add a model names one that is not there.
INVENTED = {"bprmf"}


def ids(page: Path) -> str:
    return page.name


def test_the_layers_of_the_page_are_those_of_the_import_test():
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = [re.findall(r"`([\w.]+)`", names) for names in re.findall(r"^\d+\. (.*?):", page, re.M)]
    true = [sorted(name for name in LAYERS if LAYERS[name] == number) for number in sorted(set(LAYERS.values()))]
    assert [sorted(names) for names in shown] == true


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_and_links_of_a_page_exist(page):
    text = page.read_text()
    code = "|".join(("bench", "models", "baselines", "datasets", "tests", "docs", "benchmarks"))
    for name in set(re.findall(rf"(?<![\w./<])((?:{code})/[\w./-]*\w\.(?:py|md)|(?:{code})/(?=[\s`,|]))", text)):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target


def test_the_picture_follows_the_code_from_the_log_to_the_table():
    (picture,) = (b.text for b in code_blocks(ROOT / "docs" / "architecture.md") if "raw files" in b.text)
    steps = re.findall(r"^[\s|]*(raw files|results folder|[A-Za-z]+)\s+(?:bench|datasets)/", picture, re.M)
    order = ["raw files", "Log", "split", "histories", "batches", "model", "candidates", "scores", "ranks"]
    assert steps == [*order, "results folder", "table"]
    readme = next(block.text for block in code_blocks(ROOT / "README.md") if "raw files" in block.text)
    assert set(order[:6]) | {"candidates", "scores", "ranks", "table"} <= set(re.findall(r"raw files|\w+", readme))


def test_the_layout_in_the_readme_is_todays():
    text = (ROOT / "README.md").read_text()
    layout = text[text.index("## Layout") :]
    top = re.findall(r"^    (\w+)/", layout, re.M)
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and any(path.rglob("*.*"))}
    assert set(top) == there - {"build", "dist", "shared", "bench.egg-info"}
    inner = {name for name in re.findall(r"^      (\w+)/", layout, re.M)} | {"testing"}
    folders = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert inner == folders - {"models", "baselines", "datasets"}


def test_the_page_of_commands_is_made_from_the_commands():
    # A process of its own: click keeps the help option of the context in which a command was first called.
    made = subprocess.run([sys.executable, "-m", "bench.cli.reference"], capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    assert (ROOT / "docs" / "cli.md").read_text() == made.stdout, "run `make docs`"


def placeholder(word: str) -> bool:
    return bool(re.fullmatch(r"[A-Z_]+|<\w+>", word))


def check_names(values: dict) -> None:
    """Every model, data set, task, metric and kind of candidates that a command names is known."""
    if models := values.get("models"):
        registry.select(",".join(name for name in models.split(",") if name not in INVENTED) or "all", TASKS)
    names = values.get("dataset") or ()
    for name in [names] if isinstance(names, str) else names:
        assert placeholder(name) or sources.entry(name)
    for task in values.get("tasks") or ():
        assert task in TASKS, task
    kinds = values.get("candidates") or ()
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        known = {*STRATEGIES, "uniform-99", "popularity-99"}
        assert kind in known or kind.startswith("given:") or placeholder(kind), kind
    for metric in values.get("metrics") or ():
        metrics.parse(metric)
    for setting in values.get("settings") or ():
        place, equals, _ = setting.partition("=")
        name, _, key = place.rpartition(".")
        assert equals
        if name in registry.entries():
            assert key in registry.get(name).Config.model_fields, setting
        elif not placeholder(name) and name != "train":
            assert key in sources.open_source(name).Config.model_fields, setting


def parse(words: list[str]) -> None:
    """Parse a bench command as click does: every command, argument and option exists and has a possible value."""
    command: click.Command = main
    words = words[1:]
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name)
        if not words or words == ["--help"]:
            return
        if isinstance(command, options.WithDefault):
            words = command.completed(words)
        _, inner, words = command.resolve_command(context, words)
        assert inner is not None
        command = inner
    check_names(command.make_context(command.name, list(words)).params)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_of_a_page_can_be_typed(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for words in commands(page):
        if words[0] == "bench":
            # A command that stands in running text may leave its arguments out.
            try:
                parse(words)
            except click.MissingParameter:
                assert page.name not in ("README.md", "CONTRIBUTING.md"), words
        elif words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0] == "python":
            assert words[1] == "-m" or (ROOT / words[1]).exists(), words


@pytest.mark.parametrize(
    "line",
    [
        "bench rnu --models gensr",
        "bench run --models gensrr",
        "bench run --models gensr --datset ml-100k",
        "bench run --models gensr --dataset ml-100",
        "bench run --models gensr --set gensr.lrr=1",
        "bench run --models gensr --set ml-100k.querys=A",
        "bench table --metrics N@10,MMR",
        "bench data lst",
        "bench evaluate RUN --candidates unifrm",
    ],
)
def test_a_command_that_cannot_be_typed_is_found(line):
    with pytest.raises((click.ClickException, AssertionError, Exception)) as caught:
        parse(line.split())
    assert not isinstance(caught.value, (TypeError, NameError, AttributeError))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_python_yaml_and_toml_blocks_are_valid(page):
    for block in code_blocks(page):
        if block.language == "python":
            ast.parse(block.text)
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)


def test_house_files_are_readable():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] and "urls" not in project
    (paper,) = citation["references"]
    assert len(paper["authors"]) == 6 and "Unifying Search and Recommendation" in paper["title"]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {hook["id"] for hook in repository["hooks"]} == {"ruff-check", "ruff-format", "mypy"}
    assert "the bench authors" in (ROOT / "LICENSE").read_text()
