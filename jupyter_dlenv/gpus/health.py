"""What a driver's signs say about a GPU: healthy, in need of a reset, or gone. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..i18n import _
from .model import Health

FALLEN_OFF = 79
"""The Xid of a GPU that has fallen off the bus."""

RESET_XIDS = frozenset((46, 48, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158))
"""Xids after which NVIDIA's catalog asks for a reset of the GPU.

Errors of applications (13, 31, 43, 45, 68, 69 and the like) are not among them, nor what the driver contains by itself:
after 63 and 94 it is the pending remapping of a row that tells whether a reset is needed.
"""

_RESETS = frozenset((1, 4, 6))
_REBOOTS = frozenset((2, 7))
"""Recovery actions of NVML: of the GPU, and of the host. The others ask for nothing that keeps work from it."""


@dataclass(frozen=True)
class Signs:
    """What is known of a GPU's health.

    Attributes:
        lost: NVML calls it lost.
        reset_required: NVML refused an answer until it is reset.
        recovery: The recovery action that NVML asks for, None where it does not tell.
        rows_pending, pages_pending: Bad memory waits for a reset to be taken out of use.
        rows_failed: Bad memory could not be taken out of use.
        unreadable: Why the driver gives no access to it, in its own words.
    """

    xids: tuple[int, ...] = ()
    lost: bool = False
    reset_required: bool = False
    recovery: int | None = None
    rows_pending: bool = False
    rows_failed: bool = False
    pages_pending: bool = False
    unreadable: str = ""


def judge(signs: Signs) -> tuple[Health, str]:
    """Return a GPU's health, and what a person should know of it."""
    if signs.lost or FALLEN_OFF in signs.xids:
        return Health.LOST, _("It has fallen off the bus. Restart the host.")
    problem = _problem(signs)
    return (Health.FAULTY if problem else Health.OK), problem


def _problem(signs: Signs) -> str:
    serious = [xid for xid in signs.xids if xid in RESET_XIDS]
    if signs.recovery in _REBOOTS:
        return _("The driver asks for a restart of the host.")
    if serious:
        return _("It reported Xid {xid} and needs a reset.").format(xid=serious[0])
    if signs.reset_required or signs.recovery in _RESETS:
        return _("The driver asks for a reset of this GPU.")
    if signs.rows_failed:
        return _("Bad memory could not be taken out of use. Replace this GPU.")
    if signs.rows_pending or signs.pages_pending:
        return _("Bad memory is taken out of use by the next reset.")
    if signs.unreadable:
        return _("The driver gives no access to it: {reason}").format(reason=signs.unreadable)
    return ""
