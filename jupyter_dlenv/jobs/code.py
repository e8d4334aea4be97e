"""The code of a job: which commit it is, and a copy of it for a job that starts later than it was submitted."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..engines.safe_files import DIRECTORY, FILE
from ..i18n import _
from ..resources import format_size
from ..spec import Identity
from .ignoring import Ignored

MOST_BYTES = 64 << 20
MOST_FILES = 5000
_IGNORED_ALWAYS = (".git", "__pycache__", ".ipynb_checkpoints", ".venv", "node_modules")
_NEVER_LINKED = ("__pycache__", ".ipynb_checkpoints")
_GIT_IGNORE = ".gitignore"
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF_BYTES, _RULES_BYTES, _CHUNK = 1 << 20, 1 << 20, 1 << 20
_DEEPEST = 100  # levels of folders; what is deeper is no code
_LEFT_OUT = frozenset(
    # EINVAL: no link any more. EAGAIN: somebody holds a lease on the file, which an ordinary open would wait for.
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EINVAL, errno.EAGAIN)
)
_Parts = tuple[str, ...]


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
    seen: str = "",
    most_bytes: int = MOST_BYTES,
    most_files: int = MOST_FILES,
) -> Copied:
    """Copy a folder's files, less what Git or its .dockerignore leaves out; nothing where they are too many.

    Links are copied as links, and what is no regular file stays out, as does what vanishes meanwhile.

    Args:
        always: A file in the folder that no rule leaves out; where it is a link, what it leads to is copied.
        reader: Who must be able to read them, for a server that runs as root; None for this process's own account.
        seen: The folder as the job sees it: what is left out is linked there, as modules that were built, or data.
    """
    tree = _Tree(os.path.realpath(folder), reader)
    found: dict[_Parts, os.stat_result] = {}
    left_out: list[_Parts] = []
    size = 0
    for parts, info in _files(tree):
        if info is None:
            left_out += [parts] if parts[-1] not in _NEVER_LINKED and parts != (always and (always.name,)) else []
            continue
        found[parts] = info
        size += info.st_size
        if len(found) > most_files or size > most_bytes:
            return _too_much(folder, most_files, most_bytes)
    files = size = 0
    if always is not None:
        found.pop((always.name,), None)
        copied = _copy_script(tree, always.name, into, most_bytes)
        if copied is None:
            message = _("Runs the code that it finds when it starts: the job's user may not read {path}.")
            return Copied(refused=message.format(path=always))
        files, size = 1, copied
    for parts, info in found.items():
        copy = tree.copy_link if stat.S_ISLNK(info.st_mode) else tree.copy_file
        copied = copy(parts, into.joinpath(*parts), most_bytes - size)
        files, size = files + (copied is not None), size + (copied or 0)
        if size > most_bytes:  # they have grown meanwhile
            shutil.rmtree(into)
            return _too_much(folder, most_files, most_bytes)
    if seen:
        _link(into, seen, left_out[:most_files])
    return Copied(files, size)


def link_around(folder: Path, names: _Parts, into: Path, seen: str, reader: Identity | None = None) -> None:
    """Link what lies beside a folder, and beside those above it, around its copy, so that ``..`` finds it there.

    Args:
        names: The last names of the folder's path; the copy lies below ``into`` under the same ones.
        seen: The folder as the job sees it.
    """
    for depth in range(len(names)):
        up = len(names) - depth
        beside, end = folder.parents[up - 1], str(PurePosixPath(seen).parents[up - 1])
        tree = _Tree(os.path.realpath(beside), reader)
        with tree.opened((), DIRECTORY, os.R_OK | os.X_OK) as opened:
            others = _entries(opened)[:MOST_FILES] if opened is not None else []
            _link(into.joinpath(*names[:depth]), end, [(each.name,) for each in others if each.name != names[depth]])


def _link(into: Path, seen: str, names: Sequence[_Parts]) -> None:
    for parts in names:
        into.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
        os.symlink(os.path.join(seen, *parts), into.joinpath(*parts))


def _too_much(folder: Path, most_files: int, most_bytes: int) -> Copied:
    message = _("Runs the code that it finds when it starts: {folder} holds more than {files} files or {size}.")
    return Copied(refused=message.format(folder=folder, files=most_files, size=format_size(most_bytes)))


def _copy_script(tree: _Tree, name: str, into: Path, most: int) -> int | None:
    """Copy the file that a script is or leads to: a link itself might lead nowhere in the copy."""
    end = Path(os.path.realpath(os.path.join(tree.root, name)))
    home = tree if end.is_relative_to(tree.root) else _Tree("/", tree.reader)
    return home.copy_file(end.relative_to(home.root).parts, into / name, most)


class _Tree:
    """A folder that its owner may change while it is read: each component is opened for itself and then looked at.

    Args:
        root: The folder. What lies above it is not looked at: a container gets it mounted.
        reader: Who must be able to read all of it, None for this process's own account.
    """

    def __init__(self, root: str, reader: Identity | None) -> None:
        self.root, self.reader = root, reader

    @contextmanager
    def opened(self, parts: _Parts, flags: int, needs: int) -> Iterator[int | None]:
        """Open a file, or with ``DIRECTORY`` a folder; None where none is that the reader has these rights to."""
        found = self._open(parts, flags, needs)
        try:
            yield found
        finally:
            if found is not None:
                os.close(found)

    def _open(self, parts: _Parts, flags: int, needs: int) -> int | None:
        found: int | None = None
        try:
            for depth, name in enumerate((self.root, *parts)):
                last = depth == len(parts)
                before, found = found, os.open(name, flags if last else DIRECTORY, dir_fd=found)
                if before is not None:
                    os.close(before)
                info = os.fstat(found)
                is_wanted = stat.S_ISREG if last and flags != DIRECTORY else stat.S_ISDIR
                if not (is_wanted(info.st_mode) and self.may(info, needs if last else os.X_OK)):
                    raise PermissionError(errno.EACCES, name)
        except OSError as error:
            if found is not None:
                os.close(found)
            if error.errno not in _LEFT_OUT:
                raise
            return None
        return found

    def may(self, info: os.stat_result, needs: int) -> bool:
        """Tell whether the reader has some rights to something; without a reader, to open it tells."""
        if self.reader is None or self.reader.uid == 0:
            return True
        if info.st_uid == self.reader.uid:
            return not needs & ~(info.st_mode >> 6)
        grouped = info.st_gid in (self.reader.gid, *self.reader.groups)
        return not needs & ~(info.st_mode >> 3 if grouped else info.st_mode)

    def copy_file(self, parts: _Parts, target: Path, most: int) -> int | None:
        """Copy a file, little more than ``most`` of it; return how much, None where there is none to read."""
        with self.opened(parts, FILE, os.R_OK) as file:
            if file is None:
                return None
            info, size = os.fstat(file), 0
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as copy:
                while size <= most and (data := os.read(file, _CHUNK)):
                    size += copy.write(data)
                os.fchmod(copy.fileno(), info.st_mode & 0o777 | stat.S_IRUSR)  # its owner will be the reader
            os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
        return size

    def copy_link(self, parts: _Parts, target: Path, most: int) -> int | None:
        """Make the same link; None where there is none any more."""
        with self.opened(parts[:-1], DIRECTORY, os.X_OK) as folder:
            if folder is None:
                return None
            try:
                end = os.readlink(parts[-1], dir_fd=folder)
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise
                return None
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(end, target)
        return 0


def _files(tree: _Tree) -> Iterator[tuple[_Parts, os.stat_result | None]]:
    """Yield the files that no rule leaves out, each with its own ``lstat``, and what one does, with None."""
    waiting: list[tuple[_Parts, Ignored]] = [((), _ignored_above(tree).with_docker(_text(tree, (".dockerignore",))))]
    while waiting:
        parts, ignored = waiting.pop()
        with tree.opened(parts, DIRECTORY, os.R_OK | os.X_OK) as folder:
            if folder is None:
                continue
            ignored = ignored.with_git(parts, _text(tree, (*parts, _GIT_IGNORE)))
            for entry in _entries(folder):
                each, is_folder = (*parts, entry.name), entry.is_dir(follow_symlinks=False)
                if entry.name in _IGNORED_ALWAYS or ignored.leaves_out(each, is_folder):
                    yield each, None
                elif not is_folder:
                    yield from _readable(tree, folder, each)
                elif len(each) < _DEEPEST:
                    waiting.append((each, ignored))


def _entries(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda each: each.name)


def _readable(tree: _Tree, folder: int, parts: _Parts) -> Iterator[tuple[_Parts, os.stat_result]]:
    """Yield a link or regular file in an open folder, if it is one that can be read."""
    try:
        info = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    regular = stat.S_ISREG(info.st_mode) and tree.may(info, os.R_OK) and os.access(parts[-1], os.R_OK, dir_fd=folder)
    if regular or stat.S_ISLNK(info.st_mode):
        yield parts, info


def _ignored_above(tree: _Tree) -> Ignored:
    """Return what the folders between a tree and the root of its repository say of it."""
    top = _repository(Path(tree.root))
    ignored = Ignored()
    if top is not None:
        repository, above = _Tree(str(top), tree.reader), Path(tree.root).relative_to(top).parts
        for depth, name in enumerate(above):
            text = _text(repository, (*above[:depth], _GIT_IGNORE))
            ignored = ignored.with_git((), text).below(name)
    return ignored


def _text(tree: _Tree, parts: _Parts) -> str:
    """Return the start of a file, empty where there is none."""
    with tree.opened(parts, FILE, os.R_OK) as file:
        return "" if file is None else os.pread(file, _RULES_BYTES, 0).decode("utf-8", "replace")


def commit_of(folder: Path) -> str:
    """Return the Git commit that is checked out around a folder, empty where there is none.

    Git itself is not asked: a repository's settings can make it run programs, and its files are the job's to write.
    """
    top = _repository(folder)
    return "" if top is None else _head(_git_dir(top / ".git"))


def _repository(folder: Path) -> Path | None:
    """Return the nearest folder, from one upwards, that is the root of a repository."""
    return next((each for each in (folder, *folder.parents) if os.path.exists(each / ".git")), None)


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
