"""The folder that a Dockerfile may copy from, as it is sent to the builder: .dockerignore respected, size limited.

It is packed where the person's code runs, so that a container sends only what it sees. Standard library only, Python
3.8 syntax.
"""

import base64
import io
import os
import re
import tarfile
from typing import Iterator, List, NamedTuple, Tuple

from ..errors import InvalidRequest
from ..i18n import _

LIMIT = 16 << 20
"""Most bytes of the packed folder."""

_IGNORE = ".dockerignore"
_NAMED = 5


class Rule(NamedTuple):
    """A line of .dockerignore; the last that matches a path decides."""

    matches: "re.Pattern[str]"
    keep: bool


def rules(text: str) -> List[Rule]:
    """Return the rules in the text of a .dockerignore.

    Raises:
        InvalidRequest: A line is no pattern.
    """
    found = []
    for line in text.splitlines():
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        keep = words.startswith("!")
        pattern = os.path.normpath(words[1:].strip() if keep else words).lstrip("/")
        if pattern in (".", ""):
            continue
        try:
            found.append(Rule(re.compile(_expression(pattern) + r"(/.*)?"), keep))
        except re.error:
            raise InvalidRequest(_("{line!r} in .dockerignore is no pattern.").format(line=line)) from None
    return found


def _expression(pattern: str) -> str:
    """Return a regular expression for a pattern of Docker's: ``*`` and ``?`` stay within a folder, ``**`` does not."""
    text, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 3 if pattern.startswith("**/", at) else 2
            text += "(.*/)?" if pattern[at - 1] == "/" else ".*"
            continue
        if char == "[" and "]" in pattern[at:]:
            end = pattern.index("]", at)
            text += pattern[at : end + 1]
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            text += re.escape(pattern[at])
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return text


def ignored(path: str, known: List[Rule]) -> bool:
    """True when a path below the folder, with slashes, is not to be sent."""
    last = next((rule for rule in reversed(known) if rule.matches.fullmatch(path)), None)
    return last is not None and not last.keep


def walk(folder: str, known: List[Rule]) -> Iterator[Tuple[str, str]]:
    """Yield where each file, link and folder lies that is to be sent, with its name below the folder."""
    excepted = any(rule.keep for rule in known)
    for base, folders, files in os.walk(folder):
        below = os.path.relpath(base, folder)
        named = [(name, os.path.normpath(os.path.join(below, name))) for name in sorted(folders + files)]
        sent = [(name, path) for name, path in named if not ignored(path, known)]
        kept = {name for name, _path in sent}
        # An exception may lie in a folder that is left out; without any, there is no need to look.
        folders[:] = [name for name in folders if name in kept or excepted]
        yield from ((os.path.join(base, name), path) for name, path in sent)


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
