"""The folder that a Dockerfile may copy from, as it is sent to the builder: .dockerignore respected, size limited.

It is packed where the person's code runs, so that a container sends only what it sees. Standard library only, Python
3.8 syntax.
"""

import base64
import io
import os
import re
import tarfile
from typing import Iterator, List, Tuple

from ..dockerignore import Rule, closed, ignored, lines, rule
from ..errors import InvalidRequest
from ..i18n import _

LIMIT = 16 << 20
"""Most bytes of the packed folder."""

_IGNORE = ".dockerignore"
_NAMED = 5


def rules(text: str) -> List[Rule]:
    """Return the rules in the text of a .dockerignore.

    Raises:
        InvalidRequest: A line is no pattern.
    """
    found = []
    for line in lines(text):
        try:
            found.append(rule(line))
        except re.error:
            raise InvalidRequest(_("{line!r} in .dockerignore is no pattern.").format(line=line)) from None
    return [each for each in found if each]


def walk(folder: str, known: List[Rule]) -> Iterator[Tuple[str, str]]:
    """Yield where each file, link and folder lies that is to be sent, with its name below the folder."""
    for base, folders, files in os.walk(folder):
        below = os.path.relpath(base, folder)
        named = [(name, os.path.normpath(os.path.join(below, name))) for name in sorted(folders + files)]
        shut = {name for name, path in named if closed(path, known)}
        folders[:] = [name for name in folders if name not in shut]
        yield from ((os.path.join(base, name), path) for name, path in named if not ignored(path, known))


class _Limited(io.BytesIO):
    """A buffer that refuses to grow beyond the limit."""

    def write(self, data: "bytes") -> int:  # type: ignore[override]  # gzip writes bytes only
        if self.tell() + len(data) > LIMIT:
            raise OverflowError
        return super().write(data)


def packed(folder: str) -> str:
    """Return a folder for a build request: a gzipped tar archive in base64.

    Raises:
        InvalidRequest: It is no folder, or too large.
    """
    if not os.path.isdir(folder):
        raise InvalidRequest(_("The context {path} is not a folder.").format(path=folder), hint=f"ls -ld '{folder}'")
    found = list(walk(folder, _rules_of(folder)))
    target = _Limited()
    try:
        with tarfile.open(fileobj=target, mode="w:gz", compresslevel=6) as tar:
            for path, name in found:
                tar.add(path, name, recursive=False)
    except OverflowError:
        raise _too_large(folder, found) from None
    except OSError as error:
        raise InvalidRequest(_("The context cannot be read: {error}.").format(error=error)) from error
    return base64.b64encode(target.getvalue()).decode()


def _rules_of(folder: str) -> List[Rule]:
    path = os.path.join(folder, _IGNORE)
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        return rules(file.read())


def _too_large(folder: str, found: List[Tuple[str, str]]) -> InvalidRequest:
    sizes = sorted(((os.lstat(path).st_size, name) for path, name in found), reverse=True)[:_NAMED]
    names = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for size, name in sizes)
    return InvalidRequest(
        _("The folder {path} is larger than {size} MiB when it is packed; its largest files: {names}.").format(
            path=folder, size=LIMIT >> 20, names=names
        ),
        hint=_("Leave them out in .dockerignore, or name a smaller folder; kernels see data by mounts."),
    )
