"""The code of a job: which commit it is, and a copy of it for a job that starts later than it was submitted."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ..i18n import _
from ..resources import format_size
from ..spec import Identity

MOST_BYTES = 64 << 20
MOST_FILES = 5000
_IGNORED_ALWAYS = (".git", "__pycache__", ".ipynb_checkpoints", ".venv", "node_modules")
_IGNORE_FILES = (".gitignore", ".dockerignore")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF_BYTES = 1 << 20


@dataclass(frozen=True)
class Copied:
    """What a copy of a folder's code holds.

    Attributes:
        refused: Why nothing was copied, empty when it was.
    """

    files: int = 0
    size_bytes: int = 0
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return self.refused
        message = _("Runs the code as it was submitted: {files} files, {size}.")
        return message.format(files=self.files, size=format_size(self.size_bytes))


def copy_code(
    folder: Path,
    into: Path,
    *,
    always: Path | None = None,
    reader: Identity | None = None,
    most_bytes: int = MOST_BYTES,
    most_files: int = MOST_FILES,
) -> Copied:
    """Copy a folder's files, less what its .gitignore and .dockerignore leave out; nothing where they are too many.

    Links are copied as links, and what is no regular file stays out.

    Args:
        always: A file of the folder that no rule leaves out.
        reader: Who must be able to read them, for a server that runs as root; None for this process's own account.
    """
    found: list[Path] = []
    size = 0
    for path, info in _files(folder, []):
        if reader is not None and not _may_read(reader, info):
            continue
        found.append(path)
        size += info.st_size
        if len(found) > most_files or size > most_bytes:
            message = _("Runs the code that it finds when it starts: {folder} holds more than {files} files or {size}.")
            limit = format_size(most_bytes)
            return Copied(refused=message.format(folder=folder, files=most_files, size=limit))
    for path in found if always is None or always in found else [*found, always]:
        target = into / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    return Copied(len(found), size)


def _may_read(reader: Identity, info: os.stat_result) -> bool:
    if info.st_uid == reader.uid:
        return bool(info.st_mode & stat.S_IRUSR)
    grouped = info.st_gid in (reader.gid, *reader.groups)
    return bool(info.st_mode & (stat.S_IRGRP if grouped else stat.S_IROTH))


def _files(folder: Path, rules: Sequence[tuple[Path, GitIgnoreSpec]]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files below a folder that no rule leaves out, each with its own ``lstat``."""
    rules = [*rules, *_rules_in(folder)]
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = Path(entry.path)
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name in _IGNORED_ALWAYS or _is_ignored(path, is_folder, rules):
                continue
            if is_folder:
                if os.access(path, os.R_OK | os.X_OK):
                    yield from _files(path, rules)
                continue
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode) or (stat.S_ISREG(info.st_mode) and os.access(path, os.R_OK)):
                yield path, info


def _rules_in(folder: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    files = [folder / name for name in _IGNORE_FILES]
    texts = [path.read_text(errors="replace") for path in files if path.is_file() and os.access(path, os.R_OK)]
    return [(folder, GitIgnoreSpec.from_lines(text.splitlines())) for text in texts]


def _is_ignored(path: Path, is_folder: bool, rules: Sequence[tuple[Path, GitIgnoreSpec]]) -> bool:
    """Return what the last rule says that says anything: a deeper file may take back what an upper one leaves out."""
    said = [spec.check_file(str(path.relative_to(base)) + "/" * is_folder).include for base, spec in rules]
    return next((bool(word) for word in reversed(said) if word is not None), False)


def commit_of(folder: Path) -> str:
    """Return the Git commit that is checked out around a folder, empty where there is none.

    Git itself is not asked: a repository's settings can make it run programs, and its files are the job's to write.
    """
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.exists():
            return _head(_git_dir(git))
    return ""


def _git_dir(git: Path) -> Path:
    """Return where a repository keeps its state; in a worktree or submodule ``.git`` is a file that names it."""
    if git.is_file():
        return git.parent / _read(git).partition("gitdir:")[2].strip()
    return git


def _head(git_dir: Path) -> str:
    head = _read(git_dir / "HEAD").strip()
    if not head.startswith("ref:"):
        return head if _HASH.fullmatch(head) else ""
    ref = head[4:].strip()
    common = git_dir / (_read(git_dir / "commondir").strip() or ".")
    found = [_read(base / ref).strip() for base in (git_dir, common)]
    packed = [line.split(" ")[0] for line in _read(common / "packed-refs").splitlines() if line.endswith(f" {ref}")]
    return next((text for text in [*found, *packed] if _HASH.fullmatch(text)), "")


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_REF_BYTES)
    except (OSError, ValueError):
        return ""
