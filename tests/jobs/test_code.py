"""The copy of a job's code, and the commit that it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.jobs import code
from jupyter_dlenv.jobs.code import commit_of, copy_code, link_around
from jupyter_dlenv.spec import Identity


def _tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


def test_a_copy_holds_the_code_and_not_what_is_ignored(tmp_path: Path) -> None:
    source = tmp_path / "project"
    for name in (
        "train.py",
        "lib/net.py",
        "data/big.bin",
        "runs/1/x.pt",
        "lib/__pycache__/net.pyc",
        ".git/HEAD",
        "keep.pt",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / ".gitignore").write_text("*.pt\n!keep.pt\n/data/\n")
    (source / "lib/.gitignore").write_text("secret.txt\n")
    (source / "lib/secret.txt").write_text("x")
    (source / ".dockerignore").write_text("runs\n")
    os.symlink("/etc/passwd", source / "link")
    copied = copy_code(source, tmp_path / "copy")
    assert _names(tmp_path / "copy") == [
        ".dockerignore", ".gitignore", "keep.pt", "lib/.gitignore", "lib/net.py", "link", "train.py"
    ]  # fmt: skip
    assert (copied.files, copied.refused) == (7, "")
    assert os.readlink(tmp_path / "copy/link") == "/etc/passwd"
    assert (tmp_path / "copy/lib/net.py").read_text() == "lib/net.py"


def test_what_is_left_out_is_linked_where_the_job_sees_it(tmp_path: Path) -> None:
    names = ("train.py", "lib/net.py", "lib/fast.so", "data/x.bin", "__pycache__/a.pyc", "odd/.gitignore", "odd/x")
    source = _tree(tmp_path / "project", **dict.fromkeys(names, "x"))
    (source / ".gitignore").write_text("*.so\n/data/\ntrain.py\n")
    (source / "odd/.gitignore").write_text("*\n")
    into = tmp_path / "copy"
    copied = copy_code(source, into, always=source / "train.py", seen="/seen/project")
    links = {name: os.readlink(into / name) for name in _names(into) if (into / name).is_symlink()}
    left_out = ("lib/fast.so", "data", "odd/.gitignore", "odd/x")
    assert links == {name: f"/seen/project/{name}" for name in left_out}
    assert copied.files == 3


def test_what_lies_around_the_folder_is_linked_around_its_copy(tmp_path: Path) -> None:
    source = _tree(tmp_path / "root/tools/one", **{"train.py": "x"})
    _tree(tmp_path, **dict.fromkeys(("root/lib/net.py", "root/tools/two.py", "beside.py"), "x"))
    into = tmp_path / "code"
    (into / "tools/one").mkdir(parents=True)
    link_around(source, ("tools", "one"), into, "/seen/tools/one")
    assert {name: os.readlink(into / name) for name in _names(into)} == {
        "lib": "/seen/lib",
        "tools/two.py": "/seen/tools/two.py",
    }


PROJECT = dict.fromkeys(
    ("train.py", "a.md", "src/net.py", "src/data/load.py", "src/data/x.bin", "data/x.bin", "data/keep/y.bin"), "x"
)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("*\n!src\n!train.py\n", {"a.md", "data/x.bin", "data/keep/y.bin"}),
        ("data\n", {"data/x.bin", "data/keep/y.bin"}),
        ("\ufeff./data/../data/\r\n", {"data/x.bin", "data/keep/y.bin"}),
        ("data\n!data/keep\n", {"data/x.bin"}),
        ("data\n  !/data/*/y.*\n", {"data/x.bin"}),
        ("!data/keep\ndata\n", {"data/x.bin", "data/keep/y.bin"}),
        ("*.bin\n*.md\n", {"a.md"}),
        ("**/*.bin\n", {"data/x.bin", "data/keep/y.bin", "src/data/x.bin"}),
        ("src[^a]data\n#a.md\n", set()),
        ("!\n[z-a]*\na\\\n  data\n", {"data/x.bin", "data/keep/y.bin"}),
    ],
)
def test_dockerignore_leaves_out_what_docker_leaves_out(tmp_path: Path, text: str, left_out: set[str]) -> None:
    source = _tree(tmp_path / "project", **PROJECT, **{"src__.dockerignore": "net.py\n"})
    (source / ".dockerignore").write_text(text)
    copy_code(source, tmp_path / "copy", always=source / "train.py")
    assert set(PROJECT) - set(_names(tmp_path / "copy")) == left_out


@pytest.mark.parametrize(
    "text",
    [
        "data\n",
        "/data/\n",
        "\ufeff/data/\r\n*.md  \r\n",
        "*\n!*/\n!*.py\n",
        "/*\n!/src\n!train.py\n",
        "data/**\n!data/keep/\n!*.bin\n",
        "data/*\n!data/keep\n",
        "*.bin\n!keep/*.bin\n",
        "**/data/\n",
        "src/**/*.py\n[!x].md\n",
        "[]a]*\n\\train.py\n#data\n",
        "!\na\\\n[z-a]*\n[a\n/\ndata/x*\n",
    ],
)
@pytest.mark.parametrize("where", ["src", "."])
def test_gitignore_is_read_as_git_reads_it(tmp_path: Path, text: str, where: str) -> None:
    """It counts for the whole repository, whichever folder of it is copied."""
    repository = _tree(tmp_path / "repository", **PROJECT, **{".gitignore": text, "src/deep/.gitignore": "*.py"})
    _tree(repository, **{"src/deep/a.py": "x", "src/deep/data/b.bin": "x"})
    _git(repository, "init", "--quiet")
    copy_code(repository / where, tmp_path / "copy")
    wanted = _git(repository / where, "ls-files", "--others", "--exclude-standard", ".").splitlines()
    assert _names(tmp_path / "copy") == sorted(wanted)


def test_a_repository_that_leaves_out_the_whole_folder_says_nothing_of_it(tmp_path: Path) -> None:
    home = _tree(tmp_path / "home", **{".gitignore": "*\n", "work/.gitignore": "*.pt\n", "work/src/train.py": "x"})
    _tree(home / "work/src", **{"net.py": "x", "model.pt": "x"})
    (home / ".git").mkdir()
    copy_code(home / "work/src", tmp_path / "copy")
    assert _names(tmp_path / "copy") == ["net.py", "train.py"]


def test_rules_above_the_folder_count_only_where_the_user_may_read_them(tmp_path: Path) -> None:
    repository = _tree(tmp_path / "repository", **{".gitignore": "*.py\n", "src/train.py": "x"})
    (repository / ".git").mkdir()
    for path, mode in (("", 0o755), ("src", 0o755), ("src/train.py", 0o644), (".gitignore", 0o600)):
        (repository / path).chmod(mode)
    copy_code(repository / "src", tmp_path / "copy", reader=STRANGER)
    assert _names(tmp_path / "copy") == ["train.py"]


def test_the_script_itself_is_always_there(tmp_path: Path) -> None:
    source = tmp_path / "project"
    _tree(source, **{"train.py": "print()", ".gitignore": "*.py"})
    copy_code(source, tmp_path / "copy", always=source / "train.py")
    assert (tmp_path / "copy/train.py").read_text() == "print()"


@pytest.mark.parametrize("limits", [{"most_bytes": 10}, {"most_files": 1}])
def test_what_is_too_much_is_not_copied_and_said(tmp_path: Path, limits: dict[str, int]) -> None:
    source = _tree(tmp_path / "project", **{"a.py": "1" * 8, "b.py": "2" * 8})
    copied = copy_code(source, tmp_path / "copy", **limits)
    assert "when it starts" in str(copied)
    assert not (tmp_path / "copy").exists()


def test_a_server_that_runs_as_root_copies_what_the_user_may_read(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"open.py": "1", "closed.py": "2"})
    (source / "closed.py").chmod(0o600)
    (source / "open.py").chmod(0o644)
    copy_code(source, tmp_path / "copy", reader=STRANGER)
    assert _names(tmp_path / "copy") == ["open.py"]


STRANGER = Identity(uid=os.getuid() + 4321, gid=os.getgid() + 4321, groups=(os.getgid() + 4322,))


def test_folders_that_the_user_may_not_enter_are_not_copied(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"open/a.py": "1", "shut/b.py": "2", "listed/c.py": "3", "passed/d.py": "4"})
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for name, mode in (("shut", 0o700), ("listed", 0o744), ("passed", 0o711)):
        (source / name).chmod(mode)
    copy_code(source, tmp_path / "copy", reader=STRANGER)
    assert _names(tmp_path / "copy") == ["open/a.py"]
    source.chmod(0o700)
    assert copy_code(source, tmp_path / "none", reader=STRANGER).files == 0


def test_the_rights_of_a_group_count(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"a.py": "1", "b.py": "2"})
    (source / "a.py").chmod(0o640)
    (source / "b.py").chmod(0o604)
    member = Identity(uid=STRANGER.uid, gid=STRANGER.gid, groups=(os.getgid(),))
    copy_code(source, tmp_path / "copy", reader=member)
    assert _names(tmp_path / "copy") == ["a.py"]


def test_a_script_that_the_user_may_not_read_is_not_copied(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"train.py": "secret", "more.py": "1"})
    (source / "train.py").chmod(0o600)
    copied = copy_code(source, tmp_path / "copy", always=source / "train.py", reader=STRANGER)
    assert "may not read" in str(copied)
    assert not (tmp_path / "copy").exists()


def test_a_script_that_is_a_link_is_copied_as_a_file(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"more.py": "1"})
    _tree(tmp_path / "elsewhere", **{"real.py": "print()"})
    os.symlink("../elsewhere/real.py", source / "train.py")
    copied = copy_code(source, tmp_path / "copy", always=source / "train.py")
    assert (tmp_path / "copy/train.py").read_text() == "print()"
    assert not (tmp_path / "copy/train.py").is_symlink()
    assert copied.files == 2


@pytest.mark.parametrize("end", ["/dev/zero", "secret.py", "shut/real.py", "nothing.py"])
def test_a_script_that_leads_where_the_user_may_not_read_is_not_copied(tmp_path: Path, end: str) -> None:
    source = _tree(tmp_path / "project", **{"secret.py": "1", "shut/real.py": "2"})
    (source / "secret.py").chmod(0o600)
    (source / "shut").chmod(0o700)
    os.symlink(end, source / "train.py")
    copied = copy_code(source, tmp_path / "copy", always=source / "train.py", reader=STRANGER)
    assert "may not read" in str(copied)


def test_what_changes_meanwhile_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a folder and the copy, its owner puts links in the place of files and folders."""
    source = _tree(
        tmp_path / "project", **{"a.py": "1", "lib/b.py": "2", "gone.py": "3", "stays.py": "4", "shut/c.py": "5"}
    )
    os.symlink("a.py", source / "link")
    secrets = _tree(tmp_path / "secrets", **{"b.py": "secret"})
    look = code._files

    def swap(tree: Any) -> Iterator[Any]:
        yield from list(look(tree))
        (source / "a.py").unlink()
        os.symlink(secrets / "b.py", source / "a.py")
        os.rename(source / "lib", tmp_path / "old")
        os.symlink(secrets, source / "lib")
        (source / "gone.py").unlink()
        (source / "link").unlink()
        (source / "link").mkdir()
        (source / "shut").chmod(0o700)

    monkeypatch.setattr(code, "_files", swap)
    copied = copy_code(source, tmp_path / "copy", reader=STRANGER)
    assert _names(tmp_path / "copy") == ["stays.py"]
    assert copied.files == 1


def test_what_grows_meanwhile_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _tree(tmp_path / "project", **{"a.py": "1"})
    look = code._files

    def grow(tree: Any) -> Iterator[Any]:
        yield from list(look(tree))
        os.truncate(source / "a.py", 1 << 40)

    monkeypatch.setattr(code, "_files", grow)
    assert "holds more than" in str(copy_code(source, tmp_path / "copy", most_bytes=1000))
    assert not (tmp_path / "copy").exists()


def test_rules_are_not_read_through_a_link(tmp_path: Path) -> None:
    source = _tree(tmp_path / "project", **{"train.py": "1"})
    _tree(tmp_path, rules="train.py")
    os.symlink(tmp_path / "rules", source / ".gitignore")
    os.mkfifo(source / ".dockerignore")
    copy_code(source, tmp_path / "copy")
    assert "train.py" in _names(tmp_path / "copy")


def _git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    settings += ["-c", "core.excludesFile=/dev/null"]
    argv = ["git", *settings, *words]
    return subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_commits_are_found_however_git_keeps_them(tmp_path: Path) -> None:
    repository = _tree(tmp_path / "repository", **{"src/train.py": "1"})
    assert commit_of(repository) == ""
    _git(repository, "init", "--quiet")
    assert commit_of(repository / "src") == ""
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "-m", "one")
    head = _git(repository, "rev-parse", "HEAD")
    assert commit_of(repository / "src") == head
    _git(repository, "pack-refs", "--all")
    assert commit_of(repository) == head
    _git(repository, "worktree", "add", "--quiet", str(tmp_path / "tree"), "-b", "other")
    assert commit_of(tmp_path / "tree" / "src") == head
    _git(repository, "checkout", "--quiet", head)
    assert commit_of(repository) == head


@pytest.mark.parametrize("text", ["ref: ../../secret\n", "ref: /etc/hostname\n", "not a hash\n", "\0"])
def test_a_hostile_repository_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text("a word that is no hash\n")
    _tree(tmp_path / "repository/.git", HEAD=text)
    assert commit_of(tmp_path / "repository") == ""
