"""NFS shares as Docker mounts them: a volume of the local driver that belongs to one container. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import StartFailed
from ...i18n import _
from ...resources import Share

_FLAGS = ("nodev", "nosuid")
_VERSION = "vers=4"
_FAILED = re.compile(
    r"failed to mount local volume: mount :(/.*):/[^,]*, (?:flags: \w+, )?data: (?:.*,)?addr=([^,]+).*: ([^:]+)$", re.M
)
_UNKNOWN = re.compile(r"error resolving passed in network volume address: lookup (\S+?)(?: on \S+)?: ([^:]+)$", re.M)


def _options(share: Share) -> dict[str, str]:
    """Return what the local driver is told; it resolves the address, and hands the rest to the kernel."""
    words = [f"addr={share.host}", *([f"port={share.port}"] if share.port else [])]
    words += [] if any(option.startswith("vers=") for option in share.options) else [_VERSION]
    words += [*share.options, *_FLAGS, *(["ro"] if share.read_only else [])]
    return {"type": "nfs", "o": ",".join(words), "device": f":{share.path}"}


def nfs_body(share: Share) -> dict[str, Any]:
    """Return the share as part of a create body: a volume without a name, which goes with its container."""
    return {
        "Type": "volume",
        "Target": share.target,
        "ReadOnly": False,  # Docker refuses it of a volume without a name; the file system itself is mounted read-only
        # Without it Docker would copy what the image has at the target onto the server.
        "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "local", "Options": _options(share)}},
    }


def nfs_words(share: Share) -> list[str]:
    """Return the same as values of ``docker run --mount``."""
    options = [f"volume-opt={key}={value}" for key, value in _options(share).items()]
    return ["type=volume", f"target={share.target}", "volume-driver=local", "volume-nocopy", *options]


def is_share(mount: Mapping[str, Any]) -> bool:
    """True for an NFS share exactly as :func:`nfs_body` writes it, and for no other volume."""
    try:
        return any(nfs_body(share) == dict(mount) for share in _candidates(mount))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def _candidates(mount: Mapping[str, Any]) -> list[Share]:
    """Return the shares of which a part of a create body may be made."""
    options = mount["VolumeOptions"]["DriverConfig"]["Options"]
    words = options["o"].split(",")
    address = words[0].partition("=")[2]
    port = next((word.partition("=")[2] for word in words[1:] if word.startswith("port=")), "")
    host = f"[{address}]" if ":" in address else address
    own = [word for word in words[1:] if word not in (*_FLAGS, "ro") and not word.startswith("port=")]
    source = f"nfs://{host}" + f":{port}" * bool(port) + options["device"][1:]
    plain = [word for word in own if word != _VERSION]
    return [Share(source, mount["Target"], "ro" in words, tuple(chosen)) for chosen in (own, plain)]


def share_failure(text: str) -> StartFailed | None:
    """Return the error for a share that could not be mounted, None when the text says something else."""
    failed = _FAILED.search(text)
    if failed:
        export, address, why = failed.groups()
        return _cannot_mount(f"{address}:{export}", address, why.strip())
    unknown = _UNKNOWN.search(text)
    return _cannot_mount(unknown[1], unknown[1], unknown[2].strip()) if unknown else None


def _cannot_mount(share: str, host: str, why: str) -> StartFailed:
    remedies = {
        "no such device": "sudo apt-get install nfs-common && sudo modprobe nfs",
        "protocol not supported": _("Name another version: nfs://HOST/EXPORT?vers=3,nolock:/TARGET"),
        "no such host": f"getent hosts {host}",
    }
    return StartFailed(
        _("The share {share} cannot be mounted: {why}.").format(share=share, why=why),
        hint=remedies.get(why, f"showmount -e {host}"),
    )
