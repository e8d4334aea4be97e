"""The documents say what the code does: options, commands, settings, names, links."""

from __future__ import annotations

import argparse
import ast
import io
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from jupyter_dlenv import cli, demo, options
from jupyter_dlenv.engines.docker.request import LABEL_PREFIX
from jupyter_dlenv.engines.registry import GROUP
from jupyter_dlenv.kernels.environments import PROVISIONER
from jupyter_dlenv.notebook.follow import MIME
from jupyter_dlenv.notebook.magics import DLEnvMagics
from jupyter_dlenv.notebook.widgets import SWITCH_MIME
from jupyter_dlenv.server.api import LOG_TYPE, ROUTES
from jupyter_dlenv.settings import DLEnv
from jupyter_dlenv.spec import JobState

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "jupyter_dlenv"
DOCS = CHECKOUT / "docs"
READMES = (CHECKOUT / "README.md", CHECKOUT / "README.zh-CN.md")
DOCUMENTS = (*READMES, CHECKOUT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")))


def text_of(path: Path) -> str:
    """Return a document's text."""
    return path.read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    """Return the project's table in pyproject.toml; JupyterLab brings the reader where Python has none."""
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return dict(toml.loads(text_of(CHECKOUT / "pyproject.toml"))["project"])


def section(path: Path, name: str) -> str:
    """Return what lies between a document's two marks of that name."""
    text = text_of(path)
    assert text.count(f"<!-- {name} -->") == 1, f"{path.name} has no section {name}"
    return text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]


def rows(table: str) -> list[list[str]]:
    """Return the cells of a table's rows, its head left out."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def escaped(text: str) -> str:
    """Return a text as it stands in a cell."""
    return text.replace("|", "\\|")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    """Each document in turn."""
    return Path(request.param)


# Options, commands, magics --------------------------------------------------------------------------------------------


def shown(option: options.Option) -> str:
    """Return how a table names an option."""
    return f"`{escaped(f'{option.flag} {option.metavar}'.strip())}`"


def test_the_readme_s_options_are_the_code_s() -> None:
    wanted = [[shown(option), escaped(option.help)] for option in options.OPTIONS]
    assert rows(section(READMES[0], "options")) == wanted


def test_the_chinese_readme_has_the_same_options() -> None:
    found = rows(section(READMES[1], "options"))
    assert [row[0] for row in found] == [shown(option) for option in options.OPTIONS]
    assert all(re.search("[\u4e00-\u9fff]", row[1]) for row in found)


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that does something."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below or parser.get_default("function"):
        yield words
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_readme_lists_every_command(readme: Path) -> None:
    named = [re.sub(r"\s+[A-Z\[(-].*", "", row[0].strip("`")) for row in rows(section(readme, "commands"))]
    assert named == [" ".join(("jupyter dlenv", *words)) for words in leaves(cli.parser())]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_readme_lists_every_magic(readme: Path) -> None:
    cells = " ".join(row[0] for row in rows(section(readme, "magics")))
    found = set(re.findall(r"%%?dl\w+", cells))
    assert found == {f"{'%' * (2 if kind == 'cell' else 1)}{name}" for kind, name in _magics()}


def _magics() -> Iterator[tuple[str, str]]:
    table: Mapping[str, Mapping[str, object]] = DLEnvMagics.magics
    yield from ((kind, name) for kind in ("line", "cell") for name in table[kind])


def commands(start: str, text: str) -> list[str]:
    """Return the lines of code that begin so, in blocks and inline; those that only show a form are left out."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.partition(" # ")[0].rstrip() for line in [*lines, *inline]]
    return [line for line in found if line.startswith(start) and not re.search(r"[…\[|<]", line)]


def refusal(words: list[str]) -> str:
    """Return why the command line does not take the words, empty when it does."""
    own = {"demo": demo._parser}
    parser, rest = (own[words[0]](), words[1:]) if words[0] in own else (cli.parser(), words)
    with redirect_stderr(io.StringIO()) as said, suppress(SystemExit):
        parser.parse_args(rest)
    return said.getvalue()


def test_every_command_can_be_typed(document: Path) -> None:
    for command in commands("jupyter dlenv ", text_of(document)):
        words = shlex.split(command)[2:]
        if words[:1] == ["run"]:
            options.parse_run(words[1:], environ={"TOKEN": "x"})
        else:
            assert refusal(words) == "", command


def test_every_run_magic_can_be_typed(document: Path) -> None:
    for start in ("%dlrun ", "%%dlrun "):
        for line in commands(start, text_of(document)):
            options.parse_run(shlex.split(line)[1:], environ={"TOKEN": "x"})


def test_the_documents_hold_commands_to_check() -> None:
    assert sum(len(commands("jupyter dlenv ", text_of(path))) for path in DOCUMENTS) > 20
    assert sum(len(commands("%dlrun ", text_of(path))) for path in DOCUMENTS) > 5


# Settings, routes, states ---------------------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_default() -> None:
    found = {row[0].strip("`"): row[1].strip("`") for row in rows(section(DOCS / "configuration.md", "settings"))}
    traits = DLEnv.class_own_traits(config=True)
    assert set(found) == {f"c.DLEnv.{name}" for name in traits}
    for name in traits:
        if name != "owner":  # the account's own name
            default = repr(getattr(DLEnv(), name)).replace("'", '"')
            assert found[f"c.DLEnv.{name}"] == default, name


def test_every_route_is_documented() -> None:
    named = {re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", route.path): route.methods for route in ROUTES}
    wanted = {f"{method} {path}" for path, methods in named.items() for method in methods}
    assert {row[0].strip("`") for row in rows(section(DOCS / "architecture.md", "routes"))} == wanted


def test_every_state_is_documented() -> None:
    named = {row[0].strip("`") for row in rows(section(DOCS / "jobs.md", "states"))}
    assert named == {state.value for state in JobState}


# Names and links ------------------------------------------------------------------------------------------------------


def test_fixed_names() -> None:
    points = project()["entry-points"]
    assert (project()["name"], LABEL_PREFIX, GROUP) == ("jupyter-dlenv", "io.jupyter-dlenv.", "jupyter_dlenv.engines")
    assert list(points["jupyter_client.kernel_provisioners"]) == [PROVISIONER] == ["dlenv-container"]
    assert set(points[GROUP]) == {"docker", "process"}
    assert project()["scripts"] == {"jupyter-dlenv": "jupyter_dlenv.cli:main"}
    kinds = [mime.removeprefix("application/vnd.jupyter-dlenv.") for mime in (MIME, SWITCH_MIME, LOG_TYPE)]
    assert kinds == ["job+json", "environment+json", "log"]
    architecture = text_of(DOCS / "architecture.md")
    for name in (LABEL_PREFIX, GROUP, PROVISIONER, MIME, SWITCH_MIME, LOG_TYPE, "dlenv/api/v1"):
        assert name in architecture, name


def test_every_dependency_has_its_reason() -> None:
    named = [re.split(r"[<>=]", line)[0] for line in project()["dependencies"]]
    found = [row[0].strip("`") for row in rows(section(DOCS / "architecture.md", "dependencies"))]
    assert sorted(found) == sorted(named)


def test_every_module_is_on_the_map() -> None:
    plan = section(DOCS / "architecture.md", "map")
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    missing = [name for name in files if "__pycache__" not in name and f"`{name}`" not in plan]
    gone = [name for name in re.findall(r"`([\w/]+\.py)`", plan) if not (PACKAGE / name).is_file()]
    assert (missing, gone) == ([], [])


def defined(name: str) -> bool:
    """Tell whether a dotted name of the package is defined: a module, or a class, function or value in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        file = PACKAGE.joinpath(*parts[:end]).with_suffix(".py")
        for path in (file, PACKAGE.joinpath(*parts[:end], "__init__.py")):
            if path.is_file():
                return _holds(ast.parse(text_of(path)).body, parts[end:])
    return False


def _holds(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == names[0]:
            return _holds(node.body, names[1:])
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if names[0] in map(ast.unparse, targets):
                return len(names) == 1
    return False


def test_every_function_that_is_named_exists() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    named = re.findall(r"`((?:\w+\.)+\w+)(?:\(\))?`", text_of(DOCS / "architecture.md"))
    ours = [name for name in named if name.split(".")[0] in parts and not name.endswith((".py", ".json", ".yml"))]
    assert len(ours) > 30
    assert [name for name in ours if not defined(name)] == []


def anchor(title: str) -> str:
    """Return the anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", title.strip().lower())
    return kept.replace(" ", "-")


def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = unquote(target).partition("#")
        path = (document.parent / file) if file else document
        assert path.exists(), f"{document.name}: {target}"
        if fragment:
            titles = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
            assert fragment in map(anchor, titles), f"{document.name}: {target}"


def test_the_two_readmes_lead_to_each_other_and_to_the_same_pages() -> None:
    english, chinese = (set(re.findall(r"\]\(([^)#\s]+)", text_of(path))) for path in READMES)
    assert "README.zh-CN.md" in english
    assert "README.md" in chinese
    pages = [{link for link in links if link.startswith("docs/")} for links in (english, chinese)]
    assert pages[0] == pages[1]


def test_every_page_is_linked_from_the_readme() -> None:
    linked = re.findall(r"\]\((docs/[^)#\s]+)", text_of(READMES[0]))
    assert {path.name for path in DOCS.glob("*.md")} == {Path(link).name for link in linked}
