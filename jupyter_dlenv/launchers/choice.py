"""Which launcher a script is written for, read off its text. Nothing of it is run."""

from __future__ import annotations

import ast
import re
import warnings

_MODULE = "torch.distributed"
_NAMES = frozenset(("init_process_group", "DistributedDataParallel"))
_VARIABLES = frozenset(("RANK", "LOCAL_RANK"))
_READERS = frozenset(("get", "getenv", "pop", "setdefault"))
_TEXT = re.compile(
    r"\btorch\.distributed\b|\bfrom\s+torch\s+import\b.*\bdistributed\b"
    r"|\binit_process_group\b|\bDistributedDataParallel\b"
    r"|\b(?:environ|getenv)\b[^\n]{0,20}[\"'](?:LOCAL_)?RANK[\"']"
)


def needs_torchrun(script_text: str) -> bool:
    """Return whether a script expects to be one rank of several, as torchrun starts them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's string escapes
            return any(map(_is_distributed, ast.walk(ast.parse(script_text))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # magics, another Python's syntax, absurd nesting
        return _TEXT.search(script_text) is not None


def _is_distributed(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(_below(alias.name) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
        return any(_below(f"{node.module}.{name}") or name in _NAMES for name in names)
    if isinstance(node, ast.Attribute):
        return node.attr in _NAMES or (node.attr == "distributed" and ast.unparse(node) == _MODULE)
    return (isinstance(node, ast.Name) and node.id in _NAMES) or _reads_rank(node)


def _below(module: str) -> bool:
    return module == _MODULE or module.startswith(_MODULE + ".")


def _reads_rank(node: ast.AST) -> bool:
    """Tell ``os.environ["RANK"]``, ``environ.get("RANK")`` and ``os.getenv("RANK")`` from the bare word."""
    if isinstance(node, ast.Subscript):
        return _names_rank(node.slice) and "environ" in ast.unparse(node.value)
    if isinstance(node, ast.Call) and node.args and _names_rank(node.args[0]):
        function = ast.unparse(node.func)
        return "env" in function and function.rpartition(".")[2] in _READERS
    return False


def _names_rank(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in _VARIABLES
