"""The catalogues: complete, faithful to the code's strings, and read in the reader's language."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from babel.messages.catalog import Catalog, Message

from jupyter_dlenv.i18n import LANGUAGE_VARIABLE, _
from jupyter_dlenv.options import OPTIONS

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "jupyter_dlenv"
TOOL = PACKAGE / "locale" / "catalogue.py"
LANGUAGE_VARIABLES = (LANGUAGE_VARIABLE, "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
PLACEHOLDER = re.compile(r"\{[^{}]*\}|%\d")
COMMAND = re.compile(r"%{1,2}dl\w+|--[a-z][a-z-]*|(?<!\w)-[a-z](?!\w)|`[^`]+`|jupyter [a-z]+")


def _load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue", TOOL)  # not in the wheel, so not imported from it
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


catalogue = _load_tool()


def _messages() -> Iterator[Message]:
    for path in catalogue.po_files():
        yield from (message for message in catalogue.read(path) if message.id)


def _texts(value: str | tuple[str, ...] | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _pairs() -> list[tuple[str, str]]:
    """Return each message with each of its translations; plural forms are compared with the plural."""
    return [(_texts(message.id)[-1], form) for message in _messages() for form in _texts(message.string)]


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no language."""
    for name in LANGUAGE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def copied_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the catalogues, which the tool then takes for its own."""
    folder = tmp_path / "locale"
    shutil.copytree(catalogue.LOCALE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    monkeypatch.setattr(catalogue, "LOCALE", folder)
    return folder


# What is in the catalogues --------------------------------------------------------------------------------------------


def test_every_string_is_translated(capsys: pytest.CaptureFixture[str]) -> None:
    status = catalogue.main(["check"])
    assert (status, capsys.readouterr().out) == (0, "Everything is translated.\n")


def test_the_check_names_what_is_not_translated(copied_locale: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = catalogue.po_files()
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'(?<=msgid "stop a job"\n)msgstr ".*"', 'msgstr ""', text), encoding="utf-8")
    catalogue.compile_json()
    assert catalogue.main(["check"]) == 1
    assert capsys.readouterr().out == "zh_CN: not translated: 'stop a job'\n"


def test_the_json_is_what_compile_writes(copied_locale: Path) -> None:
    committed = {path: path.read_bytes() for path in sorted(copied_locale.glob("*/LC_MESSAGES/*.json"))}
    assert [path.parents[1].name for path in committed] == ["zh_CN"]
    for path in committed:
        path.unlink()
    catalogue.compile_json()
    assert {path: path.read_bytes() for path in committed} == committed


def test_the_catalogue_holds_what_update_finds(copied_locale: Path) -> None:
    before = {path: _ids(catalogue.read(path)) for path in catalogue.po_files()}
    catalogue.update()
    assert {path: _ids(catalogue.read(path)) for path in catalogue.po_files()} == before


def _ids(found: Catalog) -> set[str]:
    return {_texts(message.id)[0] for message in found if message.id}


def test_the_language_is_the_one_that_jupyterlab_asks_for() -> None:
    (path,) = catalogue.po_files()
    header = catalogue.as_json(catalogue.read(path))[""]
    assert (header["domain"], header["language"]) == ("jupyter_dlenv", "zh-CN")


def test_no_call_hides_its_string_from_the_catalogue() -> None:
    # Babel reads tokens, and before Python 3.12 an f-string is one token.
    hidden = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                literal = [isinstance(item, ast.Constant) and isinstance(item.value, str) for item in node.args]
                if literal != [True] or id(node) in inside:
                    hidden.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}")
    assert hidden == []


# What a translation keeps ---------------------------------------------------------------------------------------------


def test_translations_keep_exactly_the_placeholders() -> None:
    pairs = _pairs()
    assert len(pairs) > 200
    wrong = [pair for pair in pairs if set(PLACEHOLDER.findall(pair[0])) != set(PLACEHOLDER.findall(pair[1]))]
    assert wrong == []


def test_translations_keep_commands_and_options() -> None:
    wrong = [(text, form) for text, form in _pairs() if sorted(COMMAND.findall(text)) != sorted(COMMAND.findall(form))]
    assert wrong == []


def test_translations_keep_their_lines_and_indents() -> None:
    def shape(text: str) -> tuple[int, int, bool]:
        return text.count("\n"), len(text) - len(text.lstrip()), text.endswith((" ", "\n"))

    assert [(text, form) for text, form in _pairs() if shape(text) != shape(form)] == []


def test_translations_are_chinese() -> None:
    plain = {text for text, form in _pairs() if not re.search(r"[\u4e00-\u9fff]", form)}
    # A word that Chinese borrows, and two that are figures alone.
    assert plain == {"    {percent} % of {ref}", "  {percent:.0%} ({done} of {total})", "GPUs"}


# How they are read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", LANGUAGE_VARIABLES)
@pytest.mark.parametrize("name", ["zh_CN", "zh_CN.UTF-8", "zh-CN", "zh_CN:en", "zh", "zh_TW.UTF-8"])
def test_chinese_readers_get_chinese(variable: str, name: str, speak: pytest.MonkeyPatch) -> None:
    speak.setenv(variable, name)
    assert _("exit code {code}") == "退出码 {code}"


@pytest.mark.parametrize("name", ["", "C", "C.UTF-8", "POSIX", "en", "en_GB.UTF-8", "fr_FR.UTF-8", "../zh_CN"])
def test_others_get_english(name: str, speak: pytest.MonkeyPatch) -> None:
    speak.setenv("LANGUAGE", name)
    assert _("exit code {code}") == "exit code {code}"


def test_the_servers_language_goes_before_the_images(speak: pytest.MonkeyPatch) -> None:
    speak.setenv("LANG", "en_US.UTF-8")
    speak.setenv(LANGUAGE_VARIABLE, "zh_CN")
    assert _("Stopped by its owner.") == "由所有者停止。"
    speak.setenv(LANGUAGE_VARIABLE, "en")
    speak.setenv("LANG", "zh_CN.UTF-8")
    assert _("Stopped by its owner.") == "Stopped by its owner."


def test_what_is_not_in_the_catalogue_stays(speak: pytest.MonkeyPatch) -> None:
    speak.setenv("LANGUAGE", "zh_CN")
    assert _("no such string") == "no such string"


def test_the_help_of_every_option_changes_with_the_language(speak: pytest.MonkeyPatch) -> None:
    english = {option.flag: option.help for option in OPTIONS}
    speak.setenv("LANGUAGE", "zh_CN")
    assert [option.flag for option in OPTIONS if option.help == english[option.flag]] == []
