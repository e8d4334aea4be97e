"""Whose files a container writes."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from .errors import Denied, InvalidRequest
from .i18n import _
from .spec import Identity

_POWERFUL_GROUPS = ("root", "docker", "sudo", "wheel", "admin", "adm", "disk", "lxd", "kmem", "shadow")
"""Groups that stand for root on a host; no container gets them."""


def identity(security_options: Iterable[str], caller: Identity) -> Identity:
    """Return who a replica is on an engine in this mode: rootful, the caller; rootless, 0:0, which is the caller.

    Raises:
        Denied: The daemon remaps users, so files would belong to nobody.
    """
    options = set(security_options)
    if "rootless" in options:
        return Identity(0, 0, (), caller.user)
    if "userns" in options:
        raise Denied(
            _("This Docker daemon remaps users (userns-remap), so files in your folder would belong to nobody."),
            hint=_("Remove userns-remap from daemon.json, or use rootless Docker."),
        )
    return caller


def caller_identity(folder: Path, run_as: str = "") -> Identity:
    """Return the account that this process starts containers for.

    A process that is not root acts for itself. Root acts for ``run_as``, else for the folder's owner: with all
    capabilities dropped root could not even enter a user's 0700 folder.
    """
    if os.geteuid() != 0:
        account = _account(os.geteuid())
        groups = os.getgroups()
        gid = os.getegid()
    else:
        account = _named(run_as) if run_as else _account(folder.stat().st_uid)
        gid = account.pw_gid if account else folder.stat().st_gid
        groups = os.getgrouplist(account.pw_name, gid) if account and account.pw_uid else []
    uid = account.pw_uid if account else (os.geteuid() or folder.stat().st_uid)
    return Identity(uid, gid, harmless_groups(groups, gid), account.pw_name if account else "dlenv")


def harmless_groups(groups: Iterable[int], primary: int) -> tuple[int, ...]:
    """Return the supplementary groups less those that stand for root on a host."""
    return tuple(sorted({gid for gid in groups if gid not in (0, primary) and _group(gid) not in _POWERFUL_GROUPS}))


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _account(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _named(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        message = _("c.DLEnv.run_as: there is no account {name!r} on this host.")
        raise InvalidRequest(message.format(name=name)) from None


def passwd_text(image_passwd: str, who: Identity, home: str) -> str | None:
    """Return the image's passwd with a line for the identity, None when the image knows the number already."""
    lines = [line for line in image_passwd.splitlines() if line.count(":") == 6]
    if any(line.split(":")[2] == str(who.uid) for line in lines):
        return None
    name = who.user if all(not line.startswith(f"{who.user}:") for line in lines) else f"dlenv{who.uid}"
    return "\n".join([*lines, f"{name}:x:{who.uid}:{who.gid}::{home}:/bin/sh", ""])
