"""What people installed into environments, as it lies on the host, and how it is emptied.

The folders are written by containers: names in them are anybody's, links in them are never followed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.registry import load_engine
from ..errors import Conflict, EngineUnavailable
from ..i18n import _
from ..paths import environment_dir
from ..resources import format_size

_PATTERN = "lib*/python*/site-packages/*.dist-info"
_SHOWN = 30


@dataclass(frozen=True)
class PackageFolder:
    """The packages of one environment, image and Python.

    Attributes:
        path: The folder, whose name begins with the image's ID.
        packages: ``NAME VERSION`` of each.
    """

    path: Path
    packages: tuple[str, ...]
    size_bytes: int

    def text(self) -> str:
        """Return one line that says what is in it."""
        names = ", ".join(self.packages[:_SHOWN]) or _("no packages")
        more = _(" and {count} more").format(count=len(self.packages) - _SHOWN)
        return f"{self.path.name}: {names}{more * (len(self.packages) > _SHOWN)} ({format_size(self.size_bytes)})"


def package_folders(environment: str) -> tuple[PackageFolder, ...]:
    """Return an environment's folders that hold something, of all its images and of everybody a server acts for."""
    own = environment_dir(environment)
    found = [path for place in ("packages/*", "uid-*/packages/*") for path in own.glob(place)]
    folders = [_look(path) for path in sorted(found) if path.is_dir() and not path.is_symlink()]
    return tuple(folder for folder in folders if folder.packages or folder.size_bytes)


def _look(path: Path) -> PackageFolder:
    names = {re.sub(r"[^\w.+ -]", "?", item.stem.replace("-", " ", 1)) for item in path.glob(_PATTERN)}
    files = [os.path.join(base, name) for base, _folders, names in os.walk(path) for name in names]
    return PackageFolder(path, tuple(sorted(names)), sum(os.lstat(file).st_size for file in files))


def empty(folder: PackageFolder) -> None:
    """Remove what is in a folder. The folder itself stays: a running container has it mounted."""
    for base, folders, _files in os.walk(folder.path):
        for name in folders:
            path = os.path.join(base, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)  # a folder that its owner may not write cannot be emptied
    for entry in list(os.scandir(folder.path)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def users_of(environment: str, owner: str) -> list[str]:
    """Return the kernels and jobs of an environment that run now, each as its role and id."""
    try:
        jobs = asyncio.run(load_engine("docker").list(owner))
    except EngineUnavailable:
        return []  # what nobody answers for has no container that could use them
    live = [job for job in jobs if job.environment == environment and not job.status.state.ended]
    return [f"{job.role.value} {job.id}" for job in live]


def refuse_while_used(environment: str, owner: str) -> None:
    """Refuse to take packages away from what runs.

    Raises:
        Conflict: Names what runs.
    """
    users = users_of(environment, owner)
    if users:
        raise Conflict(
            _("{name} is in use: {users}.").format(name=environment, users=", ".join(users)),
            hint=_("Shut it down first, or: jupyter dlenv env reset {name} --force").format(name=environment),
        )


def removed_text(folders: Sequence[PackageFolder]) -> str:
    """Return what was removed, as lines for a person."""
    count, size = sum(len(folder.packages) for folder in folders), sum(folder.size_bytes for folder in folders)
    lines = [_("removed {what}").format(what=folder.text()) for folder in folders]
    lines.append(_("{count} packages, {size}.").format(count=count, size=format_size(size)))
    lines.append(_("A kernel that runs keeps what it has imported until it is restarted."))
    return "\n".join(lines)
