"""The commands and code blocks of README.md, CONTRIBUTING.md and docs/."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_SHELL = ("", "bash", "sh", "text")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block with its language, or an indented block (language "")."""

    page: str
    language: str
    text: str


def code_blocks(page: Path) -> list[CodeBlock]:
    """Every code block of a page in its order."""
    found, rest = [], page.read_text()
    pattern = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^ {4}[^\n]*\n|^\n(?= {4}))+)", re.M | re.S)
    for match in pattern.finditer(rest):
        if match[3] is None:
            found.append(CodeBlock(page.name, match[1], match[2]))
        elif match[3].strip():
            found.append(CodeBlock(page.name, "", match[3]))
    return found


def commands(page: Path) -> list[list[str]]:
    """The words of every shell command in the code blocks of a page and in its running text."""
    lines = [line for block in code_blocks(page) if block.language in _SHELL for line in block.text.splitlines()]
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    lines += re.findall(r"`([^`]+)`", re.sub(r"\s*\n\s*", " ", text))
    return [shlex.split(line, comments=True) for line in lines if re.match(r"\s*(bench|make|python|git|pip) ", line)]
