"""What a container is given: memory, GPUs, and folders of the host; and how people write these down.

Standard library only and Python 3.8 syntax, because the same module is imported inside a user's container.
"""

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import List, Mapping, Optional, Tuple
from urllib.parse import unquote

from .errors import InvalidRequest
from .i18n import _

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_GPU_NAME = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+|[0-9]{1,4}(:[0-9]{1,2})?")
_CAPABILITY = re.compile(r"cc([0-9]{1,2})(?:\.([0-9]))?")


@dataclass(frozen=True)
class Mount:
    """A host folder seen inside the container; :class:`Share` is a folder of a file server.

    Attributes:
        source: Absolute path on the host.
        target: Absolute path in the container.
        read_only: Whether the container may not write it.
    """

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            if not path.startswith("/") or "\0" in path or "\n" in path or len(path) > 4096:
                raise InvalidRequest(_("A mount needs absolute paths, not {path!r}.").format(path=_masked(path)))


_SHARE = re.compile(
    r"(?P<kind>nfs|cifs)://(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>/[^\0-\x1f]*)"
)
_SHARE_TEXT = re.compile(
    r"(?P<source>\w+://(?:\[[^]/]*\]|[^/:]*)(?::\d+)?/[^:?]*)(?:\?(?P<options>[^:]*))?:(?P<target>/[^:]*)(?P<ro>:ro)?"
)
_NFS_OPTIONS = re.compile(
    r"vers=(?:3|4|4\.[012])|proto=(?:tcp6?|rdma6?)|sec=(?:sys|krb5[ip]?)|lookupcache=(?:all|none|pos(?:itive)?)"
    r"|(?:timeo|retrans|[rw]size|nconnect|max_connect|actimeo|ac(?:reg|dir)(?:min|max))=[0-9]{1,7}"
    r"|hard|soft|softerr|noatime|nodiratime|nolock|ac|noac|cto|nocto|fsc|(?:no)?rdirplus|(?:no)?resvport|(?:no)?sharecache"
)


@dataclass(frozen=True)
class Share(Mount):
    """A folder of a file server seen inside the container; ``source`` is its address, such as ``nfs://nas/data``.

    Attributes:
        options: How it is mounted; for NFS only.
    """

    options: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Mount("/", self.target)
        parts = _SHARE.fullmatch(self.source)
        if not parts or len(self.source) > 4096 or (parts["kind"] == "cifs" and not parts["path"].strip("/")):
            raise _not_a_share(self.source)
        if int(parts["port"] or 1) > 65535 or "/../" in parts["path"] + "/":
            raise _not_a_share(self.source)
        allowed = _NFS_OPTIONS if self.kind == "nfs" else re.compile("")
        for option in self.options:
            if not allowed.fullmatch(option):
                raise InvalidRequest(
                    _("{option!r} is no option of a share.").format(option=_masked(option)[:80]),
                    hint=_remedy(option, "nfs://HOST/EXPORT?vers=4.2,soft,timeo=100:/TARGET:ro"),
                )

    def _part(self, name: str) -> str:
        parts = _SHARE.fullmatch(self.source)
        return (parts[name] or "") if parts else ""

    @property
    def kind(self) -> str:
        """``nfs`` or ``cifs``."""
        return self._part("kind")

    @property
    def host(self) -> str:
        """The server's name or address, an IPv6 address without brackets."""
        return self._part("host").strip("[]")

    @property
    def port(self) -> str:
        """The server's port, empty for the usual one."""
        return self._part("port")

    @property
    def path(self) -> str:
        """The folder on the server: what it exports, or the share's name and what is below it."""
        return self._part("path")


_SECRET = re.compile(r"(//).*(?:@|%40)|((?:pass|user|cred)\w*=).*", re.IGNORECASE | re.DOTALL)


def _masked(text: str) -> str:
    """Return an address as it may be shown: without user and password, which belong nowhere in it."""
    return _SECRET.sub(lambda found: "//***@" if found.group(1) else f"{found.group(2)}***", text)


def _remedy(text: str, otherwise: str) -> str:
    """Return the hint for what cannot be read: where user and password belong if it has them."""
    if _masked(text) == text:
        return otherwise
    return _(
        "Leave out user and password. Those of a CIFS share belong into a file on this host that only root reads; "
        "/etc/fstab names it: credentials=/etc/cifs-SHARE.cred"
    )


def _not_a_share(text: str) -> InvalidRequest:
    message = _("{text!r} is not the address of a share.")
    hint = _("Write nfs://HOST/EXPORT:/TARGET[:ro] or cifs://SERVER/SHARE:/TARGET[:ro], an IPv6 address in brackets.")
    return InvalidRequest(message.format(text=_masked(text)[:200]), hint=_remedy(text, hint))


def _parse_share(text: str) -> Share:
    parts = _SHARE_TEXT.fullmatch(text)
    if not parts:
        raise _not_a_share(text)
    options = tuple(filter(None, (parts["options"] or "").split(",")))
    return Share(unquote(parts["source"]), parts["target"], bool(parts["ro"]), options)


@dataclass(frozen=True)
class GpuRequest:
    """Which GPUs are asked for, per node: a number, all of them, or named ones; and what each must have.

    Attributes:
        names: UUIDs of GPUs or MIG devices, or indices as ``jupyter dlenv gpus`` shows them (``0``, ``0:1`` for MIG).
        busy: Whether GPUs will do that somebody else's processes use already.
        shared: Whether others may hold the same GPUs, if they ask for that too.
        min_memory_bytes: Least memory of each GPU, 0 for any.
        min_capability: Least compute capability as (major, minor).
    """

    count: int = 0
    every: bool = False
    names: Tuple[str, ...] = ()
    busy: bool = False
    shared: bool = False
    min_memory_bytes: int = 0
    min_capability: Tuple[int, int] = (0, 0)

    @classmethod
    def parse(cls, text: str, *, memory: str = "", shared: bool = False) -> "GpuRequest":
        """Read ``2``, ``all``, ``GPU-…,MIG-…`` or ``0,1``, each with ``+busy`` and ``+cc8.0`` behind it.

        Args:
            memory: Least memory of each GPU, as a size.

        Raises:
            InvalidRequest: The text is none of these.
        """
        what, *qualifiers = text.split("+")
        busy, capability = _qualified(text, qualifiers)
        least = parse_size(memory) if memory else 0
        if what == "all":
            return cls(0, True, (), busy, shared, least, capability)
        if what.isascii() and what.isdigit() and len(what) < 5:
            return cls(int(what), False, (), busy, shared, least, capability)
        names = tuple(part.strip() for part in what.rstrip(",").split(","))
        if not all(map(_GPU_NAME.fullmatch, names)) or len(set(names)) != len(names):
            raise _not_gpus(text)
        return cls(len(names), False, names, busy, shared, least, capability)

    @classmethod
    def typed(cls, gpus: str, memory: str, *, shared: bool) -> "GpuRequest":
        """Read what a person typed in three places; nothing asks for no GPU.

        Raises:
            InvalidRequest: One of them cannot be read, or goes with no GPU.
        """
        if gpus:
            return cls.parse(gpus, memory=memory, shared=shared)
        for flag, given in (("--gpu-memory", memory), ("--shared", shared)):
            if given:
                raise InvalidRequest(_("{flag} goes with --gpus.").format(flag=flag), hint=_("Example: --gpus 2"))
        return cls()

    def for_replicas(self, replicas: int) -> "GpuRequest":
        """Return what several replicas need together, each of which asks for this; names and ``all`` are shared out.

        Raises:
            InvalidRequest: So many named GPUs cannot be shared out evenly.
        """
        if self.names and len(self.names) % replicas:
            message = _("{count} named GPUs cannot be shared out evenly to {nodes} nodes.")
            raise InvalidRequest(message.format(count=len(self.names), nodes=replicas), hint=_("Example: --gpus 2"))
        return self if self.every or self.names else replace(self, count=self.count * replicas)

    @property
    def wanted(self) -> bool:
        """True when any GPU is asked for."""
        return self.every or self.count > 0

    def __str__(self) -> str:
        alone = "," if len(self.names) == 1 and self.names[0].isdigit() else ""  # or it would be a number of GPUs
        what = "all" if self.every else ",".join(self.names) + alone or str(self.count)
        major, minor = self.min_capability
        return what + "+busy" * self.busy + f"+cc{major}.{minor}" * bool(major)


def _qualified(text: str, qualifiers: List[str]) -> Tuple[bool, Tuple[int, int]]:
    capability = (0, 0)
    for word in qualifiers:
        found = _CAPABILITY.fullmatch(word)
        if found:
            capability = (int(found.group(1)), int(found.group(2) or 0))
        elif word != "busy":
            raise _not_gpus(text)
    return "busy" in qualifiers, capability


def _not_gpus(text: str) -> InvalidRequest:
    message = _("--gpus takes a number, 'all', indices or GPU UUIDs, not {text!r}.")
    return InvalidRequest(message.format(text=text[:80]), hint=_("Examples: --gpus 2, --gpus 0,1, --gpus 1+cc8.0"))


class GpuAccess(str, Enum):
    """How a container gets its GPUs; ``HOST`` is for plain processes, which see them all."""

    TOOLKIT = "toolkit"
    CDI = "cdi"
    DEVICES = "devices"
    HOST = "host"


@dataclass(frozen=True)
class GpuGrant:
    """Leased GPUs, and what a container needs to reach them.

    Attributes:
        uuids: What is leased.
        devices: What Docker is asked for: UUIDs for the toolkit, qualified names for CDI.
        nodes: Device nodes of the host, for plain device nodes.
        libraries: Files of the driver, for plain device nodes.
        env: Variables that go with them.
        shared: Whether others may hold the same GPUs.
        shares: What each of several replicas is given of it, empty for a single one.
    """

    uuids: Tuple[str, ...] = ()
    access: GpuAccess = GpuAccess.TOOLKIT
    devices: Tuple[str, ...] = ()
    nodes: Tuple[str, ...] = ()
    libraries: Tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    shared: bool = False
    shares: Tuple["GpuGrant", ...] = ()

    def of_replica(self, index: int) -> "GpuGrant":
        """Return the share of one replica."""
        return self.shares[index] if self.shares else self


@dataclass(frozen=True)
class Resources:
    """What one node (container) may use.

    Attributes:
        gpus: GPUs to lease.
        cpus: Number of CPU cores, None for no limit.
        memory_bytes: Memory limit, None for no limit.
        shm_bytes: Size of /dev/shm, None for a size chosen from the memory.
    """

    gpus: GpuRequest = GpuRequest()
    cpus: Optional[float] = None
    memory_bytes: Optional[int] = None
    shm_bytes: Optional[int] = None


def parse_size(text: str) -> int:
    """Return bytes for ``8g``, ``512m``, ``1.5GiB`` or a plain number; units are powers of 1024.

    Raises:
        InvalidRequest: The text is not a size, or not above zero.
    """
    match = _SIZE.fullmatch(text.strip()) if text.isascii() and len(text) < 32 else None
    scale = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    size = int(float(match.group(1)) * scale[match.group(2).lower()]) if match else 0
    if not 0 < size < 1 << 60:
        raise InvalidRequest(_("{text!r} is not a size.").format(text=text[:80]), hint=_("Examples: 512m, 8g, 1.5g"))
    return size


def format_size(size: float) -> str:
    """Return a size for people: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def parse_mount(text: str) -> Mount:
    """Read ``SRC:DST[:ro]``, ``src=…,dst=…[,ro]`` or the address of a share and where it is seen.

    The second form takes paths that hold colons; in an address a colon is ``%3A``.

    Raises:
        InvalidRequest: The text is none of them.
    """
    if re.match(r"\w+://", text):
        return _parse_share(text)
    if text.startswith(("src=", "dst=")):
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        if set(parts) <= {"src", "dst", "ro"} and "src" in parts:
            return Mount(parts["src"], parts.get("dst", parts["src"]), "ro" in parts)
    else:
        pieces = text.split(":")
        read_only = len(pieces) == 3 and pieces[2] == "ro"
        if len(pieces) == 2 or read_only:
            return Mount(pieces[0], pieces[1], read_only)
    raise InvalidRequest(
        _("{text!r} is not a mount.").format(text=_masked(text)),
        hint=_("Write SRC:DST[:ro], src=…,dst=…[,ro] where a path holds ':', or nfs://HOST/EXPORT:DST[:ro]."),
    )
