"""Shares of file servers: what Docker mounts for a container, and what the host has to have mounted.

Docker's own CIFS volumes show the password to whoever may ask it, so a CIFS share is the host's: one that is mounted is
bound like any folder.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from .errors import Denied, InvalidRequest
from .i18n import _
from .resources import Mount, Share
from .spec import Identity

_MOUNTS = Path("/proc/self/mountinfo")
_CREDENTIALS = "/etc/cifs-{share}.cred"


def mounted_here(mounts: Sequence[Mount], who: Identity, *, nfs_allowed: bool) -> tuple[Mount, ...]:
    """Return the mounts of one container with each CIFS share as the folder where the host has it.

    Args:
        who: Whose files the container writes.
        nfs_allowed: What the administrator set.

    Raises:
        InvalidRequest: A CIFS share is not mounted; the hint mounts it.
        Denied: NFS shares are not allowed.
    """
    shares = [mount for mount in mounts if isinstance(mount, Share)]
    if not nfs_allowed and any(share.kind == "nfs" for share in shares):
        raise Denied(
            _("NFS shares may not be mounted into containers here (rule: c.DLEnv.allow_nfs_mounts)."),
            hint=_("Ask for the share to be mounted on this host, and mount that folder."),
        )
    table = _MOUNTS.read_text(errors="surrogateescape") if any(share.kind == "cifs" for share in shares) else ""
    return tuple(
        cifs_folder(mount, table, who) if isinstance(mount, Share) and mount.kind == "cifs" else mount
        for mount in mounts
    )


def cifs_folder(share: Share, table: str, who: Identity) -> Mount:
    """Return a CIFS share as the folder of the host where it is mounted.

    Args:
        table: The text of ``/proc/self/mountinfo``.

    Raises:
        InvalidRequest: It is not mounted.
    """
    for source, where, options in reversed(cifs_mounts(table)):  # of two on one folder the last one is seen
        rest = _below(share, source, options)
        if rest is not None:
            return Mount(where.rstrip("/") + "/" + rest if rest else where, share.target, share.read_only)
    name = share.path.split("/")[1]
    raise InvalidRequest(
        _("The share //{host}{path} is not mounted on this host.").format(host=share.host, path=share.path),
        hint=_("Write user and password into {file} (mode 0600: username=…, password=…), add to /etc/fstab:").format(
            file=_CREDENTIALS.format(share=_plain(name))
        )
        + f"\n{fstab_line(share, who)}\n"
        + _("and run:")
        + f" sudo mkdir -p {_folder(name)} && sudo mount {_folder(name)}",
    )


def cifs_mounts(table: str) -> list[tuple[str, str, str]]:
    """Return the CIFS file systems of a mount table: source, mount point, options; only those seen from their root."""
    found = []
    for line in table.splitlines():
        place, _dash, about = line.partition(" - ")
        words, kind = place.split(" "), about.split(" ")
        if len(words) > 5 and len(kind) > 2 and kind[0] in ("cifs", "smb3"):
            root, where = _unescaped(words[3]), _unescaped(words[4])
            source = _unescaped(kind[1]).replace("\\", "/").rstrip("/")
            found.append((source + root.rstrip("/"), where, kind[2]))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(share: Share, source: str, options: str) -> str | None:
    """Return where in a mounted share the wanted folder is, None when it is another share."""
    _none, _empty, host, *parts = source.split("/") if source.startswith("//") else ("", "", "")
    wanted = [part for part in share.path.split("/") if part]
    address = next((option[5:] for option in options.split(",") if option.startswith("addr=")), "")
    same_host = _canonical(share.host) in (_canonical(host), _canonical(address))
    same = [part.casefold() for part in parts] == [part.casefold() for part in wanted[: len(parts)]]
    return "/".join(wanted[len(parts) :]) if parts and same_host and same else None


def _canonical(host: str) -> str:
    """Return a server's name so that two ways to write it are equal."""
    name = host.strip("[]").casefold()
    if name.endswith(".ipv6-literal.net"):
        name = name[: -len(".ipv6-literal.net")].replace("-", ":").replace("s", "%")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _folder(name: str) -> str:
    return f"/mnt/{_plain(name)}"


def fstab_line(share: Share, who: Identity) -> str:
    """Return the line of ``/etc/fstab`` that mounts a CIFS share for one account."""
    name = share.path.split("/")[1]
    host, more = share.host, []
    if ":" in host:  # no name of a share holds colons: the address is said beside it
        more = [f"ip={host}"]
        host = host.replace(":", "-").replace("%", "s") + ".ipv6-literal.net"
    more += [f"port={share.port}"] if share.port else []
    options = [
        f"credentials={_CREDENTIALS.format(share=_plain(name))}",
        "vers=3.1.1",
        f"uid={who.uid}",
        f"gid={who.gid}",
        "file_mode=0640",
        "dir_mode=0750",
        "nosuid",
        "nodev",
        "_netdev",
        "nofail",
    ]
    source = f"//{host}/{name}".replace("\\", "\\134").replace(" ", "\\040")
    return f"{source} {_folder(name)} cifs {','.join([*more, *options])} 0 0"
