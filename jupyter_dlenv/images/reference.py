"""Image references: ``[registry/]repository[:tag][@digest]``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..i18n import _

_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<repository>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)
_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


@dataclass(frozen=True)
class Reference:
    """A parsed reference; ``tag`` is ``latest`` where neither tag nor digest was given."""

    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """Read a reference.

    Raises:
        InvalidRequest: The text is none.
    """
    match = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
    if match is None:
        raise InvalidRequest(
            _("{text!r} is not an image reference.").format(text=text[:80]),
            hint=_("Write it as REPOSITORY:TAG, in lower case: pytorch/pytorch:latest"),
        )
    return Reference(match["repository"], match["tag"] or ("" if match["digest"] else "latest"), match["digest"] or "")


def require_image(text: str) -> str:
    """Return the text when it names an image: a reference, or an ID of this host.

    Raises:
        InvalidRequest: It is neither.
    """
    if not _ID.fullmatch(text):
        parse_reference(text)
    return text
