"""What is known of an image's Python, learnt by running it once.

:data:`FIND_PYTHON` finds the interpreter, ``probe_script.py`` (run by it) prints one JSON line, :func:`parse_facts`
reads that line. Running the containers is the engine's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UnusableImage
from ..i18n import _
from ..spec import from_json

PROBE_SCRIPT = Path(__file__).with_name("probe_script.py")
"""Python 2.7 and 3 alike; to be fed to the interpreter's standard input."""

MARK = "dlenv_facts"
"""The key that tells the probe's line from banners that an image prints."""

CANDIDATES = (
    "python3",
    "python",
    "/opt/conda/bin/python",
    "/usr/local/bin/python3",
    "/opt/venv/bin/python",
    "/venv/bin/python",
    "/usr/bin/python3",
)
"""Where interpreters are looked for, the first that runs counts."""

FIND_PYTHON = rf"""
older=
for name in {" ".join(CANDIDATES)}; do
    found=$(command -v "$name" 2>/dev/null) || continue
    major=$("$found" -c 'import sys; sys.stdout.write(str(sys.version_info[0]))' 2>/dev/null </dev/null) || continue
    if [ "$major" = 3 ]; then
        printf '%s\n' "$found"
        exit 0
    fi
    older=${{older:-$found}}
done
[ -n "$older" ] || exit 127
printf '%s\n' "$older"
"""
"""A POSIX shell script that prints where the image's interpreter is, or exits with 127 and prints nothing.

A Python 2 is named only where there is no Python 3, so that the refusal can say what it found.
"""

HARMFUL = "DLENV_HARMFUL"
"""Carries the names of :attr:`ImageFacts.harmful` to the probe's script."""

PROBE_COMMAND = rf"""
find_python() {{
    python="$({FIND_PYTHON})"
}}
find_python
for name in PYTHONHOME PYTHONPATH; do
    eval "value=\${{$name:-}}"
    [ -z "$python" ] && [ -n "$value" ] || continue
    unset "$name"
    {HARMFUL}="${{{HARMFUL}:-}}${{{HARMFUL}:+ }}$name"
    export {HARMFUL}
    find_python
done
[ -n "$python" ] || exit 127
exec "$python" "$0"
"""
"""A POSIX shell script that runs the probe's script, its ``$0``, or exits with 127.

Where no Python starts with the image's PYTHONHOME, nor without it with its PYTHONPATH, they are taken away.
"""


@dataclass(frozen=True)
class ImageFacts:
    """One image's Python and system.

    Attributes:
        python: Absolute path of the interpreter.
        version: (major, minor, micro).
        implementation: ``CPython``, ``PyPy``, ...
        free_threaded: Whether the interpreter was built without the global lock, which needs wheels of its own.
        machine: As ``uname -m`` says it.
        libc: ``glibc`` or ``musl``, empty when it is neither.
        libc_version: (major, minor), (0, 0) when unknown.
        site_packages: Where the image keeps its packages, the one that pip writes first.
        user_site: Whether the interpreter looks into a per-user packages folder at all; one in a venv does not.
        pip: Whether pip is installed.
        externally_managed: Whether pip refuses to install (PEP 668).
        uid, gid: Whom the image runs as.
        frameworks: Version of each deep-learning framework found, by its distribution's usual name.
        cuda: CUDA version the image brings, empty when none was found.
        passwd, group: The image's account files.
        harmful: Variables of the image that its own Python does not start with, so they must be unset first.
    """

    python: str
    version: tuple[int, int, int]
    implementation: str
    machine: str
    libc: str
    libc_version: tuple[int, int]
    free_threaded: bool = False
    prefix: str = ""
    base_prefix: str = ""
    is_venv: bool = False
    site_packages: tuple[str, ...] = ()
    user_site: bool = False
    pip: bool = False
    externally_managed: bool = False
    uid: int = 0
    gid: int = 0
    frameworks: Mapping[str, str] = field(default_factory=dict)
    cuda: str = ""
    passwd: str = ""
    group: str = ""
    harmful: tuple[str, ...] = ()

    @property
    def minor(self) -> str:
        """The Python minor as people write it: ``3.11``."""
        return f"{self.version[0]}.{self.version[1]}"


def facts_to_text(facts: ImageFacts) -> str:
    """Return a JSON text that :func:`facts_from_text` reads."""
    return json.dumps(asdict(facts), ensure_ascii=False, sort_keys=True)


def facts_from_text(text: str) -> ImageFacts:
    """Return the facts that :func:`facts_to_text` wrote.

    Raises:
        InvalidRequest: A key is unknown or missing.
    """
    return _from_data(json.loads(text))


def _from_data(data: Mapping[str, Any]) -> ImageFacts:
    tuples = {key: tuple(data[key]) for key in ("version", "libc_version", "site_packages", "harmful") if key in data}
    return from_json(ImageFacts, {**data, **tuples})


def parse_facts(text: str) -> ImageFacts:
    """Return the facts in the probe's output, whatever else the image printed around them.

    Raises:
        UnusableImage: The probe's line is not there.
    """
    for line in reversed(text.splitlines()):
        if MARK in line and line.startswith("{"):
            data = json.loads(line)
            del data[MARK]
            return _from_data(data)
    last = "\n".join(text.strip().splitlines()[-5:])
    raise UnusableImage(_("The image's Python did not say what it is. It printed:\n{lines}").format(lines=last))
