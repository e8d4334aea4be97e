"""What is sent to a builder, and how a build is shown."""

from __future__ import annotations

import base64
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from docker.utils.build import exclude_paths

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.notebook.builds import BuildDisplay, apt_body, apt_parser, build_body, build_parser, summary
from jupyter_dlenv.notebook.client import Frame
from jupyter_dlenv.notebook.context import LIMIT, packed

FILES = (
    "Dockerfile",
    "a.py",
    "a.pyc",
    "data/x.bin",
    "data/keep.txt",
    "data/deep/y.bin",
    "deep/er/z.pyc",
    "deep/er/b.py",
    "we ird/[x].txt",
    ".hidden",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a few files."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/etc/passwd")
    return tmp_path


def names(text: str) -> set[str]:
    """Return what is in a packed folder, folders left out."""
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as tar:
        return {member.name for member in tar if not member.isdir()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# a comment\n\n",
        "*.pyc",
        "**/*.pyc",
        "data",
        "/data/",
        "data\n!data/keep.txt",
        "data/*\n!data/deep",
        "**\n!a.py",
        "*\n!deep/er/*.py",
        "deep/**/z.*",
        "data/?.bin",
        "[ab].py",
        ".hidden\n!.hidden\n.hidden",
        "deep\n!deep/er",
        "!data/keep.txt\ndata",
    ],
)
def test_dockerignore_is_read_as_docker_s_own_client_reads_it(folder: Path, text: str) -> None:
    (folder / ".dockerignore").write_text(text)
    wanted = {path for path in exclude_paths(str(folder), [line for line in text.splitlines() if line]) if path}
    wanted = {path for path in wanted if not os.path.isdir(folder / path) or os.path.islink(folder / path)}
    # Docker's client always sends these two; ours sends the Dockerfile by itself, and needs no list any more.
    optional = {"Dockerfile", ".dockerignore"}
    assert names(packed(str(folder))) - optional == wanted - optional


def test_a_backslash_takes_a_pattern_s_character_by_its_word(folder: Path) -> None:
    (folder / ".dockerignore").write_text("we ird/\\[x\\].txt\n")
    assert "we ird/[x].txt" not in names(packed(str(folder)))


def test_a_link_is_sent_as_a_link(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed(str(folder)))), mode="r:gz") as tar:
        assert tar.getmember("link").linkname == "/etc/passwd"


def test_a_large_folder_is_refused_and_the_largest_file_named(folder: Path) -> None:
    (folder / "model.bin").write_bytes(os.urandom(LIMIT + 1))
    with pytest.raises(InvalidRequest, match=r"larger than 16 MiB.*model.bin \(16.8 MB\)") as caught:
        packed(str(folder))
    assert ".dockerignore" in caught.value.hint
    (folder / ".dockerignore").write_text("model.bin\n")
    assert "model.bin" not in names(packed(str(folder)))


def test_a_context_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not a folder"):
        packed(str(tmp_path / "nowhere"))


def test_nothing_of_the_folder_is_sent_unless_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOKEN", "x")
    words = ["-t", "mine", "--env", "lab", "--build-arg", "A=1=2", "--build-arg", "TOKEN"]
    body = build_body(build_parser("%%dlbuild").parse_args(words), "FROM a")
    assert body == {
        "dockerfile": "FROM a",
        "tag": "mine",
        "environment": "lab",
        "context": "",
        "build_args": {"A": "1=2", "TOKEN": "x"},
        "no_cache": False,
    }
    with pytest.raises(InvalidRequest, match="is not set here"):
        build_body(build_parser("%%dlbuild").parse_args(["--build-arg", "NOT_SET_ANYWHERE"]), "FROM a")


def test_a_wrong_option_is_an_error_and_no_exit() -> None:
    with pytest.raises(InvalidRequest, match="--tga"):
        build_parser("%%dlbuild").parse_args(["--tga", "x"])
    with pytest.raises(InvalidRequest, match="Which packages"):
        apt_body(apt_parser().parse_args([]))


def test_a_build_is_one_display_and_complete_when_it_fails() -> None:
    sent: list[tuple[str, bool]] = []

    def publish(data: dict[str, Any], transient: dict[str, Any], update: bool) -> None:
        sent.append((data["text/plain"], update))

    display = BuildDisplay("lab", publish)
    display.add(Frame(b"Step 1/2 : FROM a\n", "", {"0": "fetching the image: 5 %"}, "RUNNING", None))
    for number in range(500):
        display.add(Frame(b"line %d\n" % number, "", {}, "RUNNING", None))
    display.add(Frame(b"", "", {}, "FAILED", None))
    assert [update for _text, update in sent] == [False, True]
    assert sent[0][0].splitlines()[0].startswith("lab · RUNNING · step 1/2 · ")
    assert sent[0][0].splitlines()[-1] == "fetching the image: 5 %"
    assert sent[-1][0].splitlines()[1:] == ["Step 1/2 : FROM a", *(f"line {number}" for number in range(500))]


def test_what_was_built_is_said() -> None:
    built = {"image": "sha256:1", "tag": "dlenv-built/a:1", "environment": "", "changed": False, "cached": False}
    assert summary(built) == ["dlenv-built/a:1 is ready."]
    moved = {**built, "environment": "lab", "changed": True, "cached": True}
    assert "was there already" in summary(moved)[0]
    assert "lab" in summary(moved)[1]
    assert summary({**moved, "changed": False}) == ["lab has these packages already."]
