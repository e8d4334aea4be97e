"""Shares of file servers: what Docker mounts for a container, and what the host has to have mounted.

Docker's own CIFS volumes show the password to whoever may ask it, so a CIFS share is the host's: one that is mounted is
bound like any folder.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import Denied, InvalidRequest
from .i18n import _
from .resources import Mount, Share
from .spec import Identity

_MOUNTS = Path("/proc/self/mountinfo")
_CREDENTIALS = "/etc/cifs-{share}.cred"
_RESOLVE_S = 3.0


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
    table = (
        _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        if any(share.kind == "cifs" for share in shares)
        else ""
    )
    return tuple(
        cifs_folder(mount, table, who) if isinstance(mount, Share) and mount.kind == "cifs" else mount
        for mount in mounts
    )


def addresses_of(host: str) -> list[str]:
    """Return a server's addresses, none where its name is unknown or nobody answers in time."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError, UnicodeError):  # unknown, or no name that a server can have
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))

    asking = threading.Thread(target=ask, daemon=True)  # a resolver may wait much longer, and cannot be called off
    asking.start()
    asking.join(_RESOLVE_S)
    return list(found)


def cifs_folder(
    share: Share, table: str, who: Identity, resolve: Callable[[str], Iterable[str]] = addresses_of
) -> Mount:
    """Return a CIFS share as the folder of the host where it is mounted.

    Args:
        table: The text of ``/proc/self/mountinfo``.
        resolve: Returns the addresses of a server.

    Raises:
        InvalidRequest: It is not mounted.
    """
    folder = _mounted_at(share, table, resolve)
    if folder is not None:
        return Mount(folder, share.target, share.read_only)
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


def _mounted_at(share: Share, table: str, resolve: Callable[[str], Iterable[str]]) -> str | None:
    """Return where a share is mounted: by its server's name, else by a short form of that, else by its address."""
    places = [
        (_hosts(source, options), where.rstrip("/") + "/" + rest if rest else where)
        for source, where, options in reversed(cifs_mounts(table))  # of several mounts the newest
        if (rest := _below(share, source)) is not None
    ]
    wanted = _canonical(share.host)
    named = [folder for hosts, folder in places if wanted in hosts]
    short = [folder for hosts, folder in places if any(_short_form(wanted, host) for host in hosts)]
    if named or short or not places:
        return next(iter(named + short), None)
    addresses = set(map(_canonical, resolve(share.host)))
    return next((folder for hosts, folder in places if addresses & hosts), None)


def cifs_mounts(table: str) -> list[tuple[str, str, str]]:
    """Return the CIFS file systems of a mount table: what of which share is seen, mount point, options.

    What another file system is mounted over is left out.
    """
    halves = [line.partition(" - ")[::2] for line in table.splitlines()]
    rows = [(place.split(" "), about.split(" ")) for place, about in halves]
    rows = [(words, kind) for words, kind in rows if len(words) > 5 and len(kind) > 2]
    covered = {(words[1], words[4]) for words, _kind in rows}
    roots = {(words[2], kind[1]) for words, kind in rows if words[3] == "/"}
    return [
        (_seen(kind[1], words[3], at_root=(words[2], kind[1]) in roots), _unescaped(words[4]), kind[2])
        for words, kind in rows
        if kind[0] in ("cifs", "smb3") and (words[0], words[4]) not in covered
    ]


def _seen(source: str, root: str, *, at_root: bool) -> str:
    """Return the address of what a mount shows.

    Of a mounted folder below a share, the source names the folder; the root is counted from there or, where the kernel
    keeps one file system for the share, from the share, so that it begins with the folder once more.

    Args:
        at_root: Whether the same is mounted with ``/`` for its root, so that roots are not counted from the share.
    """
    whole, below = _unescaped(source).replace("\\", "/").rstrip("/"), _unescaped(root).rstrip("/")
    parts = whole.split("/")
    folder = "/".join(["", *parts[4:], ""]).casefold()
    again = len(parts) > 4 and not at_root and f"{below}/".casefold().startswith(folder)
    return ("/".join(parts[:4]) if again else whole) + below


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _below(share: Share, source: str) -> str | None:
    """Return where in a mounted share the wanted folder is, None when it is another share; servers are not compared."""
    _none, _empty, _host, *parts = source.split("/") if source.startswith("//") else ("", "", "")
    wanted = [part for part in share.path.split("/") if part]
    same = [part.casefold() for part in parts] == [part.casefold() for part in wanted[: len(parts)]]
    return "/".join(wanted[len(parts) :]) if parts and same else None


def _hosts(source: str, options: str) -> set[str]:
    """Return what the server of a mount is called, and its address."""
    address = next((option[5:] for option in options.split(",") if option.startswith("addr=")), "")
    return {_canonical(source.split("/")[2]), _canonical(address)} - {""}


def _short_form(one: str, other: str) -> bool:
    """True where one of two names is the first label of the other; the numbers of an address are no labels."""
    short, long = sorted((one, other), key=len)
    return "." not in short and long.startswith(f"{short}.") and not long.replace(".", "").isdigit()


def _canonical(host: str) -> str:
    """Return a server's name so that two ways to write it are equal."""
    name = host.strip("[]").rstrip(".").casefold()
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
