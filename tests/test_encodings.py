"""Text files are UTF-8, whatever the locale of the process that reads or writes them: read off the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jupyter_dlenv"
OPENERS = ("open", "os.fdopen", "io.open")
MODE = re.compile(r"[rwxabt+]+")


def _is_text_without_encoding(call: ast.Call) -> bool:
    """Return whether a call reads or writes text in the locale's encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    name, method = ast.unparse(call.func), call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in ("read_text", "write_text"):
        return len(call.args) <= (method == "write_text")
    at = 1 if name in OPENERS else 0
    if at == 0 and (method != "open" or name == "tarfile.open"):
        return False
    mode = given.get("mode") or (call.args[at] if len(call.args) > at else None)
    if mode is None:
        return at == 1 or not (call.args or given)
    known = mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else ""
    return bool(MODE.fullmatch(known)) and "b" not in known


def _sources() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", _sources())
def test_text_says_its_encoding(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if _is_text_without_encoding(call)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text('a')", True),
        ("path.write_text('a', encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='rb')", False),
        ("os.fdopen(3, 'r+')", True),
        ("path.open()", True),
        ("path.open('rb')", False),
        ("os.open(path, flags)", False),
        ("tarfile.open(fileobj=target, mode='w')", False),
    ],
)
def test_what_is_found(source: str, found: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    assert _is_text_without_encoding(call) is found
