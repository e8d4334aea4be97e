"""Which launcher a script is written for, read off its text. Nothing of it is run.

A script is reduced to the names in it: what it imports and uses, in full and whatever it calls them
(``tensorflow.distribute.MultiWorkerMirroredStrategy``), names that nothing imports (``.init_process_group``), variables
that it reads (``$RANK``), and short texts (``'dist_sync'``). The table below says which names mean what.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What speaks for a launcher.

    Attributes:
        launcher: Its name.
        names: Patterns that each have to match one of a script's names, from its first character on.
        several: Whether it is needed for several processes or nodes only.
        unless: What must not be among the names.
    """

    launcher: str
    names: tuple[str, ...]
    several: bool = False
    unless: str = r"(?!)"

    def fits(self, names: frozenset[str]) -> bool:
        """Return whether a script with these names is meant."""
        return all(_among(each, names) for each in self.names) and not _among(self.unless, names)


ROWS = (
    # First come frameworks that scripts use together with those below: the MPI ranks of a PyTorch script, for example.
    Row("horovod", (r"horovod\b",)),
    Row("mpi", (r"mpi4py\b",)),
    Row("paddle-ps", (r"paddle\b", r"(.*\.)?(fleet|role|role_maker)\.(init_server|run_server|init_worker|is_server)$")),
    Row("paddle-ps", (r"paddle\b", r"(.*\.)?PaddleCloudRoleMaker\(\)$")),
    Row("paddle", (r"paddle\.(distributed|DataParallel|fleet|fluid\.incubate\.fleet\.collective)\b",)),
    Row("tensorflow-ps", (r"(.*\.)?ParameterServerStrategy(V[12])?$",)),
    Row("tensorflow", (r"(.*\.)?(MultiWorkerMirrored|CollectiveAllReduce)Strategy$",)),
    Row("tensorflow", (r"(tensorflow|keras)\b", r"\$TF_CONFIG$")),
    Row("mxnet", (r"mxnet\b", r"'dist_(\w+_)?a?sync(_device)?'$")),
    Row("jax", (r"jax\.(distributed|experimental\.multihost_utils)\b",)),
    Row("torchrun", (r"(torch\.distributed|accelerate|deepspeed)\b",)),
    Row("torchrun", (r"(.*\.)?(init_process_group|DistributedDataParallel)$",)),
    Row("torchrun", (r"\$(LOCAL_)?RANK$",), unless=r"(flax|jax|keras|mxnet|paddle|tensorflow)\b"),
    # What a script is written in, where that alone has to do.
    Row("paddle", (r"paddle\b",), several=True),
    Row("jax", (r"(jax|flax)\b",), several=True),
    Row("torchrun", (r"(torch|lightning|pytorch_lightning|transformers)\b",), several=True),
    Row("tensorflow", (r"(tensorflow|keras)\b",), several=True),
    Row("mxnet", (r"mxnet\b",), several=True),
)
"""The first row that fits decides."""

OTHERWISE = "python"

_CATCHES_IMPORTS = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))
_EXITS = frozenset(("exit", "quit", "sys.exit", "os._exit"))
_READERS = frozenset(("get", "getenv", "pop", "setdefault"))
_DOTTED = re.compile(r"[A-Za-z_][\w.]*")
_IMPORTED = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]*(?:\(([^)]*)\)|([^\n#;(]*))|import[ \t]+([^\n#;]*))", re.MULTILINE
)
_READ = re.compile(r"\b(?:environ|getenv)\b[^\n]{0,20}[\"'](\w+)[\"']")
_WORD = re.compile(r"[\"'](dist_\w+)[\"']")
_CALLED = re.compile(r"(?<![\w.])([\w.]+)[ \t]*\(([^()]*)\)")
_LONGEST_NAME = 16  # parts; nobody's is longer, and a text of nothing but dots would cost minutes


def fitting(script_text: str, several: bool) -> str:
    """Return the launcher that a script is written for.

    Args:
        several: Whether there are several processes.
    """
    found = _first_row(names_in(script_text, optional=False), several)
    if found is None and several:
        found = _first_row(names_in(script_text), several)
    return found.launcher if found else OTHERWISE


def _first_row(names: frozenset[str], several: bool) -> Row | None:
    return next((row for row in ROWS if (several or not row.several) and row.fits(names)), None)


def _among(pattern: str, names: frozenset[str]) -> bool:
    match = re.compile(pattern).match
    return any(map(match, names))


def names_in(script_text: str, *, optional: bool = True) -> frozenset[str]:
    """Return the names in a script; where it is no Python (magics, another Python's syntax), what looks like them.

    Args:
        optional: Whether imports count that the script can do without.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's string escapes
            tree = ast.parse(script_text)
            nodes = list(ast.walk(tree))
            left_out = set() if optional else {id(node) for node in _optional_imports(nodes)}
            return frozenset(_Names([node for node in nodes if id(node) not in left_out]).found())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(_names_of_text(script_text))


def _optional_imports(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """Yield the imports that a script can do without: under ``try`` with a way on, and for type checkers."""
    for node in nodes:
        blocks: list[ast.AST] = []
        if isinstance(node, ast.Try) and any(map(_goes_on, node.handlers)):
            blocks = [*node.body, *node.handlers, *node.orelse]
        elif isinstance(node, ast.If) and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            blocks = [*node.body]
        for block in blocks:
            yield from (each for each in ast.walk(block) if isinstance(each, (ast.Import, ast.ImportFrom)))


def _goes_on(handler: ast.ExceptHandler) -> bool:
    """Return whether an import may fail here and the script goes on; one that says so and ends needs the import."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    caught = not handler.type or any(ast.unparse(kind).rpartition(".")[2] in _CATCHES_IMPORTS for kind in kinds)
    return caught and not any(_ends(statement) for statement in handler.body)


def _ends(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(statement, ast.Raise) or (isinstance(call, ast.Call) and ast.unparse(call.func) in _EXITS)


class _Names:
    """The names in a syntax tree, with aliases resolved."""

    def __init__(self, nodes: list[ast.AST]) -> None:
        self._nodes = nodes
        self._full = dict(self._imported())

    def found(self) -> Iterator[str]:
        """Yield all of them, some more than once."""
        for node in self._nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (_whole(node, alias) for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 64:
                yield repr(node.value)
            elif isinstance(node, (ast.Attribute, ast.Name)):
                yield self._dotted(node)
            elif isinstance(node, ast.Subscript) and self._dotted(node.value).endswith("environ"):
                yield from _variable(node.slice)
            elif isinstance(node, ast.Call):
                yield from self._of_call(node)

    def _imported(self) -> Iterator[tuple[str, str]]:
        """Yield what a name stands for after the script's imports."""
        for node in self._nodes:
            if isinstance(node, ast.ImportFrom):
                yield from ((alias.asname or alias.name, _whole(node, alias)) for alias in node.names)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    yield (alias.asname, alias.name) if alias.asname else (first, first)

    def _dotted(self, node: ast.AST) -> str:
        """Return a name in full, with a dot first where nothing imports what it begins with."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute) and len(parts) < _LONGEST_NAME:
            parts.append(node.attr)
            node = node.value
        first = node.id if isinstance(node, ast.Name) else ""
        return ".".join([self._full.get(first, f".{first}" if first else ""), *reversed(parts)])

    def _of_call(self, node: ast.Call) -> Iterator[str]:
        """Yield a call that may decide, and the variable that it reads."""
        name = self._dotted(node.func)
        given = [*node.args[:1], *(each.value for each in node.keywords if each.arg == "is_collective")]
        if not any(isinstance(each, ast.Constant) and each.value is True for each in given):
            yield f"{name}()"
        if node.args and "env" in name and name.rpartition(".")[2] in _READERS:
            yield from _variable(node.args[0])


def _whole(node: ast.ImportFrom, alias: ast.alias) -> str:
    return f"{'.' * node.level}{node.module or ''}.{alias.name}"


def _variable(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield f"${node.value}"


def _names_of_text(text: str) -> Iterator[str]:
    full = dict(_imported_of_text(text))
    yield from full.values()
    for word in {match.group() for match in _DOTTED.finditer(text)}:
        yield _resolved(word, full)
    for name, words in _CALLED.findall(text):
        if not re.search(r"(^|\bis_collective\s*=)\s*True\b", words):
            yield _resolved(name, full) + "()"
    yield from (f"${name}" for name in _READ.findall(text))
    yield from (repr(word) for word in _WORD.findall(text))


def _imported_of_text(text: str) -> Iterator[tuple[str, str]]:
    for module, several, names, modules in _IMPORTED.findall(text):
        for word in (several or names or modules).split(","):
            name, _, alias = (part.strip() for part in word.strip().partition(" as "))
            if module:
                yield alias or name, f"{module}.{name}"
            else:
                yield alias or name, name
                yield (alias, name) if alias else (name.partition(".")[0], name.partition(".")[0])


def _resolved(word: str, full: Mapping[str, str]) -> str:
    first, dot, rest = word.partition(".")
    return full.get(first, f".{first}") + dot + rest
