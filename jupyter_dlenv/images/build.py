"""Images of a person's own: what a build is asked for, what it may be called, and what is sent to the builder.

The builder is the engine's; ``engines/docker/images.py`` has it. Nothing here asks or starts anything.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, Protocol

from ..errors import Conflict, Denied, InvalidRequest, UnusableImage
from ..i18n import _
from ..spec import from_json, require_name
from .reference import parse_reference

REPOSITORY = "dlenv-built"
DOCKERFILE = ".dlenv.Dockerfile"
OWNER_LABEL = "io.jupyter-dlenv.build.owner"
ENVIRONMENT_LABEL = "io.jupyter-dlenv.build.environment"
APT_LABEL = "io.jupyter-dlenv.build.apt"
OWN_IMAGE = "DLENV_IMAGE"
"""The build argument that names the image of the environment that a kernel runs in."""

CONTEXT_LIMIT = 16 << 20
"""Most bytes of a context as it travels, compressed: it is held in memory on its way."""

_UNPACKED_LIMIT = 256 << 20
_DOCKERFILE_LIMIT = 1 << 20
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*[a-z0-9+.](:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?", re.ASCII)
_PACKAGES_LIMIT = 200

FIND_INSTALLER = "for name in apt-get apk dnf microdnf yum zypper pacman; do command -v $name && exit; done; exit 0"
"""A POSIX shell script that prints where the image's package tool is, nothing when it has none."""


@dataclass(frozen=True)
class BuildRequest:
    """What a person asks for: a Dockerfile, or Debian packages for an environment.

    Attributes:
        tag: A name, which becomes ``dlenv-built/NAME:latest``, or a whole reference.
        environment: What uses the image afterwards, written where there is none of that name.
        context: The files that COPY and ADD see: a gzipped tar archive, in base64.
    """

    dockerfile: str = ""
    apt: tuple[str, ...] = ()
    tag: str = ""
    environment: str = ""
    context: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False

    def __post_init__(self) -> None:
        if bool(self.dockerfile.strip()) == bool(self.apt):
            raise InvalidRequest(_("A build needs a Dockerfile or packages, and not both."), hint="%%dlbuild --help")
        if len(self.dockerfile) > _DOCKERFILE_LIMIT:
            raise InvalidRequest(_("A Dockerfile of more than 1 MiB is none."))
        if self.environment:
            require_name(self.environment)
        require_packages(self.apt)
        for name in self.build_args:
            if not _VARIABLE.fullmatch(name):
                raise InvalidRequest(_("{name!r} cannot be a build argument's name.").format(name=name[:80]))


def build_request_from_json(data: Any) -> BuildRequest:
    """Build a request from an API body.

    Raises:
        InvalidRequest: A field is unknown or cannot be right.
    """
    if not isinstance(data, dict):
        raise InvalidRequest(_("A build request is a JSON object."))
    for key, value in data.items():
        listed = isinstance(value, list) and all(isinstance(item, str) for item in value)
        table = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        good = {"apt": listed, "build_args": table, "no_cache": isinstance(value, bool)}
        if not good.get(key, isinstance(value, str)):
            raise InvalidRequest(_("Field {key!r} of a build request has the wrong type.").format(key=key))
    return from_json(BuildRequest, {**data, "apt": tuple(data.get("apt", ()))})


def require_packages(names: Iterable[str]) -> None:
    """Refuse what apt would take for an option, a removal or a file.

    Raises:
        InvalidRequest: Names the word.
    """
    words = list(names)
    if len(words) > _PACKAGES_LIMIT:
        raise InvalidRequest(_("That is too many packages for one image."))
    for word in words:
        if not _PACKAGE.fullmatch(word):
            raise InvalidRequest(
                _("{word!r} is not the name of a Debian package.").format(word=word[:80]),
                hint=_("Write names as apt knows them, NAME or NAME=VERSION: %dlapt ffmpeg libgl1"),
            )


# Names ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageAbout:
    """What a build must know of an image that is there.

    Attributes:
        layers: Digests of its file system, the lowest first.
        user: Whom it runs as; empty for root.
    """

    id: str
    labels: Mapping[str, str]
    layers: tuple[str, ...]
    user: str

    def derived_from(self, base: ImageAbout) -> bool:
        """True when everything of the other image lies below this one."""
        return bool(base.layers) and self.layers[: len(base.layers)] == base.layers


def repository_of(name: str) -> str:
    """Return a repository's name that Docker takes, made from an environment's."""
    return f"{REPOSITORY}/{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'image'}"


def build_tag(text: str, default: str) -> str:
    """Return the full name of what is built.

    Args:
        text: As typed: a whole reference, a name, or nothing.
        default: The name to use for nothing.

    Raises:
        InvalidRequest: It is no reference, or names a digest, which nobody can choose.
    """
    if not text or not re.search(r"[/:@]", text):
        if text:
            parse_reference(text)
        return f"{repository_of(text or default or 'image')}:latest"
    parsed = parse_reference(text)
    if parsed.digest:
        raise InvalidRequest(_("A build's name has a tag, not a digest."), hint=f"-t {parsed.repository}:1")
    return str(parsed)


def apt_tag(environment: str, base: ImageAbout, packages: Sequence[str]) -> str:
    """Return the name of an image with packages: the same for the same base and packages, whatever their order."""
    digest = hashlib.sha256("\0".join([base.id, *sorted(packages)]).encode()).hexdigest()[:12]
    return f"{repository_of(environment)}:apt-{digest}"


def require_free_tag(tag: str, there: ImageAbout | None, owner: str, kernel_environment: str | None) -> None:
    """Refuse a name that stands for something of somebody else.

    Args:
        there: The image of that name, None when there is none.
        kernel_environment: The environment of the kernel that asks; None when a person does.

    Raises:
        Conflict: Another owner built what has that name.
        Denied: A kernel asks for a name that is not its environment's.
    """
    labels = there.labels if there else {}
    if OWNER_LABEL in labels and labels[OWNER_LABEL] != owner:
        raise Conflict(
            _("{tag} was built by {owner}.").format(tag=tag, owner=labels[OWNER_LABEL]), hint=_("Choose another name.")
        )
    if kernel_environment is None:
        return
    own = labels.get(ENVIRONMENT_LABEL) == kernel_environment
    if not tag.startswith(f"{REPOSITORY}/") or (there is not None and not own):
        raise Denied(
            _("A kernel may not give the name {tag}: other environments could start it (rule: image name).").format(
                tag=tag
            ),
            hint=_(
                "Use a new name without '/' and ':', or build at a terminal: jupyter dlenv build DOCKERFILE -t NAME"
            ),
        )


# Debian packages ------------------------------------------------------------------------------------------------------


def installed_by_us(base: ImageAbout) -> tuple[str, ...]:
    """Return the packages that earlier builds put into an image."""
    return tuple(base.labels.get(APT_LABEL, "").split())


def require_apt(image: str, found: str) -> None:
    """Refuse an image whose packages are not Debian's.

    Args:
        found: What :data:`FIND_INSTALLER` printed.

    Raises:
        UnusableImage: The hint is the Dockerfile that does the same.
    """
    tool = PurePosixPath(found.strip().partition("\n")[0]).name
    if tool == "apt-get":
        return
    there = _("it has {tool}").format(tool=tool) if tool else _("it has no package tool that is known here")
    steps = {"apk": "apk add", "pacman": "pacman -Sy --noconfirm", "zypper": "zypper install -y"}
    step = steps.get(tool, f"{tool or 'TOOL'} install -y")
    raise UnusableImage(
        _("%dlapt needs apt-get in the image {image}: {there}.").format(image=image, there=there),
        hint=_("Write the steps yourself:") + f"\n%%dlbuild\nARG {OWN_IMAGE}\nFROM ${OWN_IMAGE}\nRUN {step} PACKAGE",
    )


def apt_dockerfile(base: ImageAbout, packages: Sequence[str]) -> str:
    """Return the Dockerfile that adds packages to an image and leaves everything else of it as it was.

    The step names its shell, because an image may have set another for RUN, and the system's folders, because it may
    have forgotten them.
    """
    script = (
        "export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive; "
        f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)} "
        "&& rm -rf /var/lib/apt/lists/*"
    )
    as_root = base.user in ("", "root", "0", "0:0")
    lines = [f"FROM {base.id}", *([] if as_root else ["USER 0"]), f'RUN ["/bin/sh", "-c", "{script}"]']
    return "\n".join([*lines, *([] if as_root else [f"USER {base.user}"]), ""])


# What the builder gets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildPlan:
    """One build, decided; what it makes is named afterwards, when it is known what it is made from."""

    dockerfile: str
    labels: Mapping[str, str]
    build_args: Mapping[str, str]
    context: str = ""
    no_cache: bool = False


def labels_of(owner: str, environment: str, packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the labels of what is built; each is set, so that none is inherited from an image below."""
    return {OWNER_LABEL: owner, ENVIRONMENT_LABEL: environment, APT_LABEL: " ".join(packages)}


def build_args(dockerfile: str, own_image: str, asked: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the build arguments: the host's proxies, which Docker keeps out of the image, and what was asked for."""
    proxies = {name: environ[name] for name in _PROXIES if environ.get(name)}
    own = {OWN_IMAGE: own_image} if own_image and OWN_IMAGE in dockerfile else {}
    return {**proxies, **own, **asked}


def archive(plan: BuildPlan) -> IO[bytes]:
    """Return what is sent to the builder: the Dockerfile and the caller's files, as an open temporary file.

    Raises:
        InvalidRequest: The context is too large, no archive, or holds something that a folder of files does not.
    """
    target = tempfile.TemporaryFile(prefix="dlenv-build-")  # noqa: SIM115 (the caller closes it)
    try:
        with tarfile.open(fileobj=target, mode="w") as tar:
            text = plan.dockerfile.encode()
            about = tarfile.TarInfo(DOCKERFILE)
            about.size = len(text)
            tar.addfile(about, io.BytesIO(text))
            _copy_context(plan.context, tar)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target


def _copy_context(text: str, tar: tarfile.TarFile) -> None:
    if not text:
        return
    try:
        packed = io.BytesIO(base64.b64decode(text, validate=True))
        if packed.getbuffer().nbytes > CONTEXT_LIMIT:
            raise InvalidRequest(_("The context is larger than {size} MiB.").format(size=CONTEXT_LIMIT >> 20))
        with tarfile.open(fileobj=_Unpacked(packed), mode="r|") as source:
            for member in source:
                _copy_member(source, member, tar)
    except (binascii.Error, tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InvalidRequest(_("The context is no archive: {error}.").format(error=error)) from None


class _Unpacked(gzip.GzipFile):
    """Unpacks no more than the limit: a few bytes can stand for very many."""

    def __init__(self, packed: io.BytesIO) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._left = _UNPACKED_LIMIT

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            InvalidRequest: They go beyond the limit.
        """
        data = super().read(min(self._left + 1, size) if size is not None and size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidRequest(_("The context is larger than {size} MiB.").format(size=_UNPACKED_LIMIT >> 20))
        return data


def _copy_member(source: tarfile.TarFile, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir() or member.issym()):
        raise InvalidRequest(_("{name} has no place in a context.").format(name=member.name[:200]))
    about = tarfile.TarInfo(str(path))
    about.type = tarfile.REGTYPE if member.isreg() else member.type
    about.mode, about.mtime, about.linkname, about.size = member.mode, member.mtime, member.linkname, member.size
    if str(path) != DOCKERFILE:
        tar.addfile(about, source.extractfile(member) if member.isreg() else None)


# The builder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildStep:
    """A piece of what a builder says.

    Attributes:
        text: Lines of the log.
        progress: A line that is replaced by the next, such as how much of an image has arrived.
        image: ID of what was built.
    """

    text: str = ""
    progress: str = ""
    image: str = ""


class Building(Protocol):
    """A build that is under way."""

    def steps(self) -> Iterator[BuildStep]:
        """Yield what the builder says, to the end.

        Raises:
            BuildFailed: A step failed; the message names it.
        """

    def stop(self) -> None:
        """End the build, from any thread; one that has ended stays as it is."""
