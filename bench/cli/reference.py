"""The page docs/cli.md, made from the commands themselves: `python -m bench.cli.reference > docs/cli.md`."""

import importlib
from collections.abc import Iterator

import click

from bench.cli.main import COMMANDS, main

_WIDTH = 100
_HEADER = """# Commands

Made from the commands by `python -m bench.cli.reference > docs/cli.md` (`make docs`); a test compares the two.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted. An error is one line on stderr.
"""


def reference() -> str:
    """The help of every command as Markdown, in the order of `bench --help`."""
    parts = [_HEADER]
    for name, command in _commands():
        settings = {**main.context_settings, "max_content_width": _WIDTH, "terminal_width": _WIDTH}
        context = click.Context(command, info_name=name, **settings)
        help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"## {name}\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups before what they hold."""
    yield "bench", main
    for name in COMMANDS:
        command = importlib.import_module(f"bench.cli.{name}").command
        yield f"bench {name}", command
        if isinstance(command, click.Group):
            for inner, subcommand in command.commands.items():
                yield f"bench {name} {inner}", subcommand


if __name__ == "__main__":
    print(reference(), end="")
