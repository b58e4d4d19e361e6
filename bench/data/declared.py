"""Reads what classes declare in a decorator without importing their modules, so that listing names is fast."""

import ast
from pathlib import Path
from typing import Any


def declared(path: Path, decorator: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(class name, registered name, keyword arguments) for each `@decorator("name", key=literal, ...)` class of a file."""
    source = path.read_text(encoding="utf-8")
    if f"@{decorator}(" not in source:
        return []
    found = []
    for node in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
                facts = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
                found.append((node.name, ast.literal_eval(call.args[0]), facts))
    return found
