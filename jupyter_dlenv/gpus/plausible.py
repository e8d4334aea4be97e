"""What a driver says, as far as it can be true; anything else counts as not told. Pure."""

from __future__ import annotations

import re
from typing import Any

MOST_GPUS = 256
MOST_BYTES = 1 << 50
MOST_PID = 1 << 22
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,90}")
_MIG_PROFILE = re.compile(r"\bMIG (\S+)$")


def within(value: Any, most: int) -> int | None:
    """Return a number from 0 to ``most``, None for any other."""
    return int(value) if value is not None and 0 <= value <= most else None


def text(value: Any) -> str:
    """Return a text without what would disturb a terminal, empty for none."""
    found = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return "".join(character for character in found if character.isprintable())


def uuid(value: Any) -> str:
    """Return the UUID of a GPU or MIG device, empty for anything else."""
    found = text(value)
    return found if _UUID.fullmatch(found) else ""


def profile(name: Any) -> str:
    """Return the profile in a MIG device's name: ``1g.10gb`` of ``NVIDIA H100 80GB HBM3 MIG 1g.10gb``."""
    found = _MIG_PROFILE.search(text(name))
    return found.group(1) if found else ""


def cuda(version: Any) -> str:
    """Return ``12.4`` for 12040."""
    known = within(version, 10**6)
    return f"{known // 1000}.{known % 1000 // 10}" if known else ""


def capability(pair: Any) -> tuple[int, int] | None:
    """Return a compute capability as (major, minor)."""
    return (pair[0], pair[1]) if pair and 0 < pair[0] < 100 and 0 <= pair[1] < 100 else None
