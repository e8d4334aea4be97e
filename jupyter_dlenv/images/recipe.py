"""What the starter image is made of and by which commands. Pure: nothing is run or read here but the recipe file.

The first half of debootstrap (``--foreign``) only downloads and unpacks, which fakeroot is enough for; the second half
runs in a container. So an air-gapped user who may use Docker needs no root on the host, and no maintainer script of a
Debian package ever runs there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DLEnvError, InvalidRequest, UnusableImage
from ..i18n import _

REPOSITORY = "jupyter-dlenv/starter"
LABEL = "io.jupyter-dlenv.starter"
BASE_LABEL = "io.jupyter-dlenv.starter-base"
WHEELS = "/mnt"
"""Where the build container sees what pip downloaded on the host: a folder that is there, so that none is left over."""

UNPACK = r"""
set -eu
umask 022
target=$1
shift
trap 'rm -rf "$target"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$@" >&2 || {
    status=$?
    tail -n 20 "$target/debootstrap/debootstrap.log" >&2 2>/dev/null || :
    exit "$status"
}
tar -C "$target" --numeric-owner --exclude='./dev/*' --exclude=./etc/hostname --exclude=./etc/resolv.conf -c .
"""
"""Runs debootstrap's first half, then writes the tree to standard output.

The host's name and resolver stay out of the image. The trap removes the tree because under sudo it is root's.
"""

SET_UP = r"""
set -eu
mkdir -p /etc/dpkg/dpkg.cfg.d
printf 'path-%s\n' 'exclude=/usr/share/doc/*' 'include=/usr/share/doc/*/copyright' \
    'exclude=/usr/share/man/*' 'exclude=/usr/share/locale/*' >/etc/dpkg/dpkg.cfg.d/starter
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io
/debootstrap/debootstrap --second-stage || {
    status=$?
    tail -n 20 /debootstrap/debootstrap.log || :
    exit "$status"
}
apt-get clean
rm -rf /etc/dpkg/dpkg.cfg.d/unsafe-io /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
"""
"""Runs debootstrap's second half inside the image.

The last line lets users pip-install: a container is not the shared system that PEP 668 protects.
"""

ASK_PYTHON = (
    "import json, platform, sys; print(json.dumps({'python': sys.version_info[:2], 'implementation': "
    "sys.implementation.name, 'libc': platform.libc_ver(), 'machine': platform.machine()}))"
)

_ENV = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV LANG=C.UTF-8")
_SUITE = re.compile(r"[a-z][a-z0-9.-]{0,39}")
_COMPONENTS = ("main", "universe")  # where Debian and Ubuntu keep python3-pip


@dataclass(frozen=True)
class Recipe:
    """The content of ``starter.json``.

    Attributes:
        version: Tag of the image that is built.
        reference: The image that is pulled instead where a registry answers.
        suite: Debian release to use where the host does not name one.
        system: Debian packages.
        python: Requirements for pip.
    """

    version: str
    reference: str
    suite: str
    system: tuple[str, ...]
    python: tuple[str, ...]

    @property
    def image(self) -> str:
        """The name of the image that is built."""
        return f"{REPOSITORY}:{self.version}"

    def digest(self, suite: str) -> str:
        """Return what tells two builds of different content apart: a hex SHA-256 of all that decides it."""
        text = json.dumps([asdict(self), suite, UNPACK, SET_UP, _ENV], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def base_digest(self, suite: str) -> str:
        """Return the same for the image before pip, so that a failed download does not cost a new base."""
        text = json.dumps([self.system, suite, UNPACK, SET_UP, _ENV])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """Where Debian packages come from; an empty field is debootstrap's own choice."""

    suite: str
    mirror: str = ""
    keyring: str = ""
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The Python that pip downloads for, when it is not its own.

    Attributes:
        python: (major, minor).
        glibc: (major, minor).
        machine: As ``uname -m`` says it.
    """

    python: tuple[int, int]
    glibc: tuple[int, int]
    machine: str


def load_recipe() -> Recipe:
    """Return the recipe that ships with the package."""
    data = json.loads(Path(__file__).with_name("starter.json").read_text(encoding="utf-8"))
    return Recipe(**{**data, "system": tuple(data["system"]), "python": tuple(data["python"])})


def parse_index_targets(text: str, codename: str) -> Source:
    """Return the release's own archive from ``apt-get indextargets``; its mirror is empty when none can be used.

    A mirror whose address holds a password is not used: debootstrap writes the address into the image.
    """
    stanzas = [dict(re.findall(r"^([\w-]+): *(.*)$", stanza, re.MULTILINE)) for stanza in text.split("\n\n")]
    own = [stanza for stanza in stanzas if stanza.get("Release") == codename and _usable(stanza.get("Repo-URI", ""))]
    if not codename or not own:
        return Source(codename)
    mirror = own[0]["Repo-URI"]
    offered = {stanza.get("Component") for stanza in own if stanza["Repo-URI"] == mirror}
    keyring = own[0].get("Signed-By", "")
    return Source(
        codename,
        mirror,
        keyring if re.fullmatch(r"/\S+\.(gpg|asc)", keyring) else "",
        tuple(name for name in _COMPONENTS if name in offered),
    )


def _usable(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.scheme in ("http", "https", "file") and "@" not in parts.netloc


def choose_source(
    recipe: Recipe, host: Source, known: Callable[[str], bool], *, suite: str | None = None, mirror: str | None = None
) -> Source:
    """Return the archive to use: what the caller names, else the host's own, else debootstrap's default.

    Args:
        recipe: Names the release for hosts that are no Debian.
        host: The host's release and archive, an empty suite when it has none.
        known: Whether debootstrap has a script for a release.
        suite: The caller's release.
        mirror: The caller's archive.

    Raises:
        InvalidRequest: debootstrap does not know the release, or the mirror is no address it can use.
    """
    if suite is not None and not (_SUITE.fullmatch(suite) and known(suite)):
        raise InvalidRequest(
            _("debootstrap knows no release {suite!r}.").format(suite=suite[:80]),
            hint="ls /usr/share/debootstrap/scripts",
        )
    if mirror is not None and not _usable(mirror):
        raise InvalidRequest(
            _("{mirror!r} cannot be the mirror.").format(mirror=re.sub(r"//[^/]*@", "//…@", mirror)),
            hint=_("Write http://HOST/PATH, https://HOST/PATH or file:///PATH; put a password into ~/.netrc."),
        )
    wanted = suite or (host.suite if host.suite and known(host.suite) else recipe.suite)
    found = host if wanted == host.suite else Source(wanted)
    return Source(wanted, mirror, found.keyring, found.components) if mirror else found


def debootstrap_argv(recipe: Recipe, source: Source, target: str) -> list[str]:
    """Return the command of the first half."""
    return [
        "debootstrap",
        "--foreign",
        "--variant=minbase",
        "--include=" + ",".join(recipe.system),
        *(["--components=" + ",".join(source.components)] if source.components else []),
        *(["--keyring=" + source.keyring] if source.keyring else []),
        source.suite,
        target,
        *([source.mirror] if source.mirror else []),
    ]


def unpack_argv(prefix: Sequence[str], target: str, debootstrap: Sequence[str]) -> list[str]:
    """Return the command whose standard output is the unpacked tree as a tar archive."""
    return [*prefix, "sh", "-c", UNPACK, "unpack", target, *debootstrap]


def privilege(uid: int, has: Callable[[str], bool], may_sudo: Callable[[], bool]) -> tuple[str, ...] | None:
    """Return what to put before a command that must own files as root, None when nothing here can."""
    if uid == 0:
        return ()
    if has("fakeroot"):
        return ("fakeroot",)
    return ("sudo", "-n") if may_sudo() else None


def install_command(packages: Iterable[str], uid: int) -> list[str]:
    """Return the command that installs Debian packages, the one that is shown and the one that is run."""
    return [*(() if uid == 0 else ("sudo",)), "apt-get", "install", "-y", "--no-install-recommends", *packages]


def changes(labels: Mapping[str, str]) -> list[str]:
    """Return the image's configuration as Dockerfile instructions. No USER: a kernel runs as its caller."""
    return [*_ENV, 'CMD ["python3"]', *(f'LABEL {key}="{value}"' for key, value in labels.items())]


def parse_target(output: str) -> Target:
    """Read what :data:`ASK_PYTHON` printed.

    Raises:
        UnusableImage: It is not a CPython on glibc, so no wheel fits.
    """
    data = json.loads(output.strip().splitlines()[-1])
    libc, version = data["libc"]
    glibc = re.match(r"(\d+)\.(\d+)", version) if libc == "glibc" else None
    if glibc is None or data["implementation"] != "cpython":
        raise UnusableImage(_("The base image has no CPython on glibc: {data}").format(data=data))
    return Target(tuple(data["python"]), (int(glibc[1]), int(glibc[2])), data["machine"])


def platform_tags(target: Target) -> list[str]:
    """Return the wheel platforms that the target can load, the best first.

    pip given a platform derives none but the legacy names from it, so every version of the C library is spelled out.
    """
    oldest = 5 if target.machine in ("x86_64", "i686") else 17
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags = []
    for minor in range(target.glibc[1], oldest - 1, -1):
        tags.append(f"manylinux_2_{minor}_{target.machine}")
        if minor in legacy:
            tags.append(f"{legacy[minor]}_{target.machine}")
    return [*tags, f"linux_{target.machine}"]


def pip_download_argv(python: str, target: Target, requirements: Sequence[str], folder: str) -> list[str]:
    """Return the command that fetches wheels on the host, where the site's index, CA and credentials are configured."""
    platforms = [part for tag in platform_tags(target) for part in ("--platform", tag)]
    return [
        *(python, "-m", "pip", "download", "--dest", folder, "--progress-bar", "off", "--only-binary=:all:"),
        *("--implementation", "cp", "--python-version", ".".join(map(str, target.python)), *platforms),
        *requirements,
    ]


def pip_install_argv(requirements: Sequence[str]) -> list[str]:
    """Return the command that installs the wheels inside the image, with no index to ask."""
    quiet = ("env", "PIP_ROOT_USER_ACTION=ignore", "PIP_NO_CACHE_DIR=1", "PIP_DISABLE_PIP_VERSION_CHECK=1")
    return [*quiet, "python3", "-m", "pip", "install", "--no-index", "--find-links", WHEELS, *requirements]


def tool_failed(tool: str, status: int, output: str, hint: str = "") -> DLEnvError:
    """Return the error for a tool that ended badly, with the last lines it wrote."""
    last = "\n".join(output.strip().splitlines()[-15:])
    return DLEnvError(
        _("{tool} ended with exit code {status}:\n{last}").format(tool=tool, status=status, last=last), hint=hint
    )
