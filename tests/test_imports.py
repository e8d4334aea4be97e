"""Who may import whom, in which syntax, and how large: read off the sources, none of which is run."""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "jupyter_dlenv"
FRONT_END = CHECKOUT / "labextension" / "src"
ARCHITECTURE = CHECKOUT / "docs" / "architecture.md"

MAINTAINERS = ("locale/catalogue.py",)  # not in the wheel
STDLIB = sys.stdlib_module_names
LEAVES = ("dockerignore.py", "errors.py", "i18n.py", "options.py", "resources.py", "spec.py")
DOCKER = ("containers", "engine", "events", "failures", "images", "networks", "submission", "terminal")
SHIM = PACKAGE / "engines" / "shim"
ALONE = (
    "images/probe_script.py",
    "jobs/debug_entry.py",
    "kernels/boot.py",
    "kernels/compile.py",
    "kernels/finder.py",
    "kernels/lazy.py",
    "lastwords.py",
    "shell/channels.py",
)
"""Each is one file that an interpreter inside a container is given, or can be."""

IN_CONTAINERS = ("__init__.py", *LEAVES, *(name for name in ALONE if name.startswith(("kernels/", "lastwords"))))
HOST_ONLY = "notebook/embedded.py"
IO = frozenset(
    """asyncio ctypes docker fcntl glob http io multiprocessing os pynvml requests select shutil socket socketserver
    sqlite3 ssl subprocess tempfile threading tornado urllib.request""".split()  # noqa: SIM905
)
SERVERS = frozenset(("IPython", "ipykernel", "jupyter_client", "jupyter_server", "tornado"))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


@dataclass(frozen=True)
class Import:
    """One name that a module imports.

    Attributes:
        module: The importing file, below the package.
        name: What is imported, dotted in full: ``docker.errors.APIError``, ``jupyter_dlenv.spec.Job``.
        at_top: Whether importing the module imports it, rather than calling a function.
    """

    module: str
    name: str
    at_top: bool

    @property
    def top(self) -> str:
        """The top-level package."""
        return self.name.partition(".")[0]


@cache
def modules() -> tuple[str, ...]:
    """Return every Python file of the package, by its path below it."""
    found = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
    return tuple(sorted(name for name in found if name not in MAINTAINERS))


@cache
def tree(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"), module)


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Return what a module imports, inside its functions too."""
    return tuple(_imports(module, tree(module), at_top=True))


def _imports(module: str, node: ast.AST, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(module, alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base(module, child)
            yield from (Import(module, f"{base}.{alias.name}".lstrip("."), at_top) for alias in child.names)
        else:
            inside = isinstance(child, (*FUNCTIONS, ast.Lambda))
            yield from _imports(module, child, at_top and not inside)


def _base(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ["jupyter_dlenv", *module.split("/")[:-1]]
    parts = package[: len(package) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def every_import() -> list[Import]:
    """Return what all modules import."""
    return [found for module in modules() for found in imports(module)]


def own_module(name: str) -> str:
    """Return the file of ours that a dotted name lies in, empty for a name that is not ours."""
    parts = name.split(".")
    if parts[0] != "jupyter_dlenv":
        return ""
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[1:end])
        for file in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
            if file in modules():
                return file
    raise AssertionError(f"{name} is nowhere")


def part_of(module: str) -> str:
    """Return the part that a file belongs to: a folder, or a file beside the folders; engines are one part each."""
    first, *rest = module.removesuffix(".py").split("/")
    return f"{first}/{rest[0]}" if first == "engines" and rest[0] != "__init__" else first


def where(found: Iterator[Import] | list[Import]) -> list[str]:
    """Return one line for each import."""
    return sorted({f"{each.module} imports {each.name}" for each in found})


# Arrows ---------------------------------------------------------------------------------------------------------------


def documented_arrows() -> set[tuple[str, str]]:
    """Return the arrows in the table of docs/architecture.md."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    section = text.partition("<!-- arrows -->")[2].partition("<!-- /arrows -->")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE)
    return {(part, target) for part, targets in rows for target in re.findall(r"`([^`]+)`", targets)}


def test_parts_import_what_the_table_says() -> None:
    pairs = {(part_of(each.module), part_of(target)) for each in every_import() if (target := own_module(each.name))}
    drawn = {(part, target) for part, target in pairs if part != target}
    documented = documented_arrows()
    assert sorted(drawn - documented) == [], "new arrows: think twice, then add them to docs/architecture.md"
    assert sorted(documented - drawn) == [], "arrows that are gone: take them out of docs/architecture.md"


def test_the_words_of_the_domain_stand_on_the_standard_library() -> None:
    allowed = {
        "errors.py": {"i18n.py"},
        "resources.py": {"errors.py", "i18n.py"},
        "spec.py": {"errors.py", "i18n.py", "resources.py"},
        "options.py": {"errors.py", "i18n.py", "spec.py"},
    }
    wrong = [
        each
        for module in LEAVES
        for each in imports(module)
        if each.top not in STDLIB and own_module(each.name) not in allowed.get(module, set())
    ]
    assert where(wrong) == []


def test_what_is_one_file_in_a_container_stands_alone() -> None:
    wrong = [each for module in ALONE for each in imports(module) if each.top not in (*STDLIB, "debugpy")]
    # The runtime's own copy, which lies beside the finder.
    assert where([each for each in wrong if (each.module, each.top) != ("kernels/finder.py", "packaging")]) == []
    assert not any(each.at_top for each in wrong)


def test_the_shim_is_a_folder_that_stands_alone() -> None:
    found = [each for module in modules() if module.startswith("engines/shim/") for each in imports(module)]
    outside = [
        each for each in found if each.top not in STDLIB and not each.name.startswith("jupyter_dlenv.engines.shim.")
    ]
    assert found
    assert where(outside) == []


def is_pure(module: str) -> bool:
    """Tell modules that promise to decide and do nothing else."""
    promised = re.search(r"\bPure[.:]", ast.get_docstring(tree(module)) or "")
    stem = module.removesuffix(".py").rpartition("/")[2]
    return bool(promised) or module.startswith("launchers/") or stem in ("request", "state", "reference")


def test_pure_modules_import_nothing_that_reads_or_writes() -> None:
    pure = [module for module in modules() if is_pure(module)]
    assert {"engines/docker/request.py", "images/reference.py", "jobs/diagnosis.py"} <= set(pure)
    names = [each for module in pure for each in imports(module)]
    assert where([each for each in names if each.top in IO or each.name.startswith("urllib.request")]) == []


def test_engines_know_neither_each_other_nor_jupyter() -> None:
    engines = {"engines/process.py": "engines/docker/", "engines/docker/": "engines/process.py"}
    for engine, other in engines.items():
        found = [each for each in every_import() if each.module.startswith(engine)]
        assert found
        assert where([each for each in found if own_module(each.name).startswith(other)]) == []
    below = [each for each in every_import() if each.module.startswith("engines/")]
    assert where([each for each in below if each.top in SERVERS]) == []
    shared = [each for each in below if each.module in ("engines/base.py", "engines/folder.py")]
    assert where([each for each in shared if own_module(each.name).startswith(tuple(engines))]) == []


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("docker", {f"engines/docker/{name}.py" for name in DOCKER}),
        ("requests", {"engines/docker/images.py"}),
        ("pynvml", {"gpus/inventory.py"}),
        ("ipywidgets", {"notebook/widgets.py"}),
        ("IPython", {"notebook/magics.py", "notebook/widgets.py"}),
        ("jupyter_server", {"server/app.py", "server/handlers.py"}),
        ("jupyter_server_proxy", {"server/open.py", "server/proxy.py"}),
        (
            "tornado",
            {f"server/{name}.py" for name in ("handlers", "keeper", "proxy", "sockets")} | {"kernels/provisioner.py"},
        ),
    ],
)
def test_a_library_has_its_place(library: str, homes: set[str]) -> None:
    assert {each.module for each in every_import() if each.top == library} <= homes


def test_docker_failures_know_its_errors_only() -> None:
    names = [each.name for each in imports("engines/docker/failures.py") if each.top == "docker"]
    assert all(name.startswith("docker.errors.") for name in names)


def notebook_side() -> list[str]:
    """Return the modules that a user's kernel imports."""
    return [module for module in modules() if module.startswith("notebook/") and module != HOST_ONLY]


def test_the_notebook_s_side_needs_ipython_only() -> None:
    found = [each for module in notebook_side() for each in imports(module) if each.at_top]
    carried = (*LEAVES, "lastwords.py")
    ours = ("jupyter_dlenv.notebook.", *(f"jupyter_dlenv.{name.removesuffix('.py')}." for name in carried))
    foreign = [each for each in found if each.top not in STDLIB and not each.name.startswith(ours)]
    widgets = {"notebook/widgets.py": {"IPython", "ipywidgets"}}
    assert where([each for each in foreign if each.top not in widgets.get(each.module, {"IPython"})]) == []


def test_the_runtime_carries_all_that_the_notebook_s_side_imports() -> None:
    (assigned,) = [
        node.value
        for node in tree("kernels/runtime.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_NOTEBOOK_SIDE"
    ]
    carried = set(ast.literal_eval(assigned))
    needed, queue = set(), ["__init__.py", *notebook_side()]
    while queue:
        module = queue.pop()
        if module not in needed:
            needed.add(module)
            queue += [own_module(each.name) for each in imports(module) if each.at_top and own_module(each.name)]
    assert {module.split("/")[0] for module in needed} <= carried


def test_nobody_imports_the_server_s_app_or_the_command_line() -> None:
    entries = {("__init__.py", "server/app.py"), ("__main__.py", "cli/__init__.py")}
    found = {(each.module, own_module(each.name)) for each in every_import()}
    ends = {pair for pair in found if pair[1] == "server/app.py" or part_of(pair[1]) == "cli"}
    within = {(module, target) for module, target in ends if module == target or part_of(module) == "cli"}
    assert ends - within == entries


def test_only_the_model_talks_to_the_server() -> None:
    callers = [
        path.name
        for path in sorted(FRONT_END.glob("*.ts*"))
        if re.search(r"\brequest(API|Stream)\b", path.read_text(encoding="utf-8"))
    ]
    assert callers == ["model.ts", "request.ts"]


# Syntax ---------------------------------------------------------------------------------------------------------------


def parses(module: str, version: tuple[int, int]) -> None:
    """Fail where a module's syntax is newer than a Python."""
    ast.parse((PACKAGE / module).read_text(encoding="utf-8"), module, feature_version=version)


@pytest.mark.parametrize("module", sorted({*IN_CONTAINERS, *notebook_side()}))
def test_what_kernels_import_is_python_3_8(module: str) -> None:
    parses(module, (3, 8))
    assert newer_annotations(module) == []


@pytest.mark.parametrize(
    "module",
    [
        *(f"engines/shim/{path.name}" for path in sorted(SHIM.glob("*.py"))),
        "i18n.py",
        *(f"kernels/{name}.py" for name in ("boot", "compile", "finder", "lazy", "too_old")),
    ],
)
def test_what_older_images_run_is_python_3_6(module: str) -> None:
    parses(module, (3, 6))


def newer_annotations(module: str) -> list[str]:
    """Return the annotations that Python 3.8 would evaluate and could not: ``list[str]``, ``X | None``."""
    if any(each.name == "__future__.annotations" for each in imports(module)):
        return []
    nodes = list(ast.walk(tree(module)))
    found = [node.annotation for node in nodes if isinstance(node, (ast.arg, ast.AnnAssign))]
    found += [node.returns for node in nodes if isinstance(node, FUNCTIONS)]
    inner = [each for annotation in found if annotation is not None for each in ast.walk(annotation)]
    builtin = ("dict", "frozenset", "list", "set", "tuple", "type")
    return [
        ast.unparse(node)
        for node in inner
        if (isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr))
        or (isinstance(node, ast.Subscript) and ast.unparse(node.value) in builtin)
    ]


def test_the_probe_has_no_syntax_of_python_3_alone() -> None:
    nodes = list(ast.walk(tree("images/probe_script.py")))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.Nonlocal, ast.NamedExpr, ast.AsyncFunctionDef, ast.Starred)
    assert [node for node in nodes if isinstance(node, newer)] == []
    assert [node for node in nodes if isinstance(node, ast.arg) and node.annotation] == []
    assert [node for node in nodes if isinstance(node, ast.arguments) and (node.kwonlyargs or node.posonlyargs)] == []
    assert [node for node in nodes if isinstance(node, ast.Raise) and node.cause] == []


# Shape ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", modules())
def test_errors_are_caught_by_name(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            assert not re.search(r"\bException\b", caught), f"line {node.lineno}"
            ends = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert "BaseException" not in caught or ends, f"line {node.lineno} does not raise it again"


def test_modules_are_short() -> None:
    lengths = {module: len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) for module in modules()}
    assert {module for module, length in lengths.items() if length >= LONGEST_MODULE} == set()
    scripts = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FRONT_END.glob("*.ts*")}
    assert max(scripts.values()) < LONGEST_MODULE


def test_functions_are_short() -> None:
    lengths = {
        f"{module}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, FUNCTIONS)
    }
    assert [name for name, length in lengths.items() if length > LONGEST_FUNCTION] == []
    assert statistics.median(lengths.values()) < 10
