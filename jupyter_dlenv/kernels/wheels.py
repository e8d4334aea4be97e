"""The wheels of the kernel runtime: which ones a target takes, and how they are fetched.

A target is a CPython minor, a C library and a machine. Its lock names every wheel by version and SHA-256, so that what
is mounted into everybody's kernels is the same on every host, whichever mirror pip is configured to ask.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DLEnvError, UnusableImage
from ..i18n import _

LOCKS = Path(__file__).with_name("locks")

MACHINES = ("x86_64", "aarch64")
"""The machines whose wheels the locks hold."""

_LEGACY_ALIASES = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_FLOOR = re.compile(r"^# needs: (?:glibc|musl) (\d+)\.(\d+)$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Target:
    """What decides which wheels fit.

    Attributes:
        python: CPython's (major, minor).
        libc: ``glibc`` or ``musl``.
        machine: As ``uname -m`` says it.
    """

    python: tuple[int, int]
    libc: str
    machine: str

    @property
    def minor(self) -> str:
        """The Python minor as people write it: ``3.11``."""
        return f"{self.python[0]}.{self.python[1]}"

    @property
    def lock(self) -> Path:
        """Where this target's lock lies, whether it exists or not."""
        return LOCKS / f"cp{self.python[0]}{self.python[1]}-{self.libc}.txt"

    def markers(self) -> dict[str, str]:
        """Return the values of environment markers (PEP 508) in the target."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.minor}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.minor}.0",
            "python_version": self.minor,
            "sys_platform": "linux",
            "extra": "",
        }


def floor(lock_text: str) -> tuple[int, int]:
    """Return the oldest version of the C library that a lock's wheels run on."""
    found = _FLOOR.search(lock_text)
    if not found:
        raise ValueError("a lock says which C library it needs")
    return int(found[1]), int(found[2])


def platform_tags(libc: str, version: tuple[int, int], machine: str) -> list[str]:
    """Return the platform tags (PEP 600, PEP 656) that such a system can load, the newest first."""
    return [f"{tag}_{machine}" for tag in _bare_tags(libc, version, machine)]


def _bare_tags(libc: str, version: tuple[int, int], machine: str) -> Iterator[str]:
    major, newest = version
    if libc == "musl":
        yield from (f"musllinux_{major}_{minor}" for minor in range(newest, -1, -1))
        return
    for minor in range(newest, _OLDEST_GLIBC.get(machine, 17) - 1, -1):
        yield f"manylinux_{major}_{minor}"
        if (major, minor) in _LEGACY_ALIASES:
            yield _LEGACY_ALIASES[major, minor]


def selection(target: Target, libc_version: tuple[int, int]) -> list[str]:
    """Return the pip options that choose wheels for a target instead of for the Python that runs pip."""
    tags = platform_tags(target.libc, libc_version, target.machine)
    platforms = [part for tag in tags for part in ("--platform", tag)]
    return ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", target.minor, *platforms]


def lock_for(target: Target, libc_version: tuple[int, int]) -> str:
    """Return the text of the target's lock.

    Raises:
        UnusableImage: No lock serves this Python, machine or C library; the message says which.
    """
    if target.machine not in MACHINES or not target.lock.is_file():
        raise UnusableImage(
            _("There is no kernel runtime for Python {minor} with {libc} on {machine}.").format(
                minor=target.minor, libc=target.libc, machine=target.machine
            ),
            hint=_("Kernels run in images with CPython {minors}, on {machines}.").format(
                minors=", ".join(known_minors()), machines=", ".join(MACHINES)
            ),
        )
    text = target.lock.read_text(encoding="utf-8")
    if libc_version < floor(text):
        raise UnusableImage(
            _("The image has {libc} {version}; the kernel runtime for Python {minor} needs {floor} or newer.").format(
                libc=target.libc,
                version="{}.{}".format(*libc_version),
                minor=target.minor,
                floor="{}.{}".format(*floor(text)),
            ),
            hint=_("Choose a newer tag of the image."),
        )
    return text


def known_minors() -> list[str]:
    """Return the Python minors that have a lock, in order."""
    found = {(int(path.name[2]), int(path.name[3 : path.name.index("-")])) for path in LOCKS.glob("cp3*-*.txt")}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def download_argv(target: Target, site: Path) -> list[str]:
    """Return the pip command that puts the lock's wheels into a folder; pip's own configuration names the index."""
    oldest = floor(target.lock.read_text(encoding="utf-8"))
    manners = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-user", "--no-compile", "--require-hashes"]
    what = [*selection(target, oldest), "--target", str(site), "-r", str(target.lock)]
    return [sys.executable, "-m", "pip", "install", *manners, *what]


def download(target: Target, site: Path) -> None:
    """Fill a folder with the wheels of the target's lock.

    Raises:
        DLEnvError: pip is missing or failed; its own last lines are the message.
    """
    environ = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    argv = download_argv(target, site)
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        message = _("Preparing a kernel runtime needs pip, which {python} does not have.").format(python=sys.executable)
        raise DLEnvError(message, hint=f"{sys.executable} -m ensurepip")
    last = "\n".join(done.stderr.strip().splitlines()[-6:])
    raise DLEnvError(
        _("pip could not fetch the kernel runtime for Python {minor}:\n{lines}").format(minor=target.minor, lines=last),
        hint=_("Check the package index that `{command}` shows; behind a mirror, set PIP_INDEX_URL.").format(
            command=f"{sys.executable} -m pip config list"
        ),
    )


def digest(text: str) -> str:
    """Return the hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
