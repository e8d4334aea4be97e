"""``jupyter dlenv images bootstrap``: the starter image, for labs where no registry answers.

Debian's archive (the host's own mirror) and pip (the host's own configuration) are all it takes; both are asked from
the host, so that no address, certificate or password of the site has to enter the image.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ..errors import Conflict, DLEnvError
from ..i18n import _
from ..resources import Mount
from .recipe import (
    ASK_PYTHON,
    BASE_LABEL,
    LABEL,
    REPOSITORY,
    SET_UP,
    WHEELS,
    Recipe,
    Source,
    Target,
    changes,
    choose_source,
    debootstrap_argv,
    install_command,
    load_recipe,
    parse_index_targets,
    parse_target,
    pip_download_argv,
    pip_install_argv,
    privilege,
    tool_failed,
    unpack_argv,
)

Progress = Callable[[str], None]

_CHUNK = 1 << 20
_REGISTRY_TIMEOUT_S = 15
_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class BuildContainer:
    """A build container that has done its work.

    Attributes:
        id: The container, stopped.
        output: What it wrote.
    """

    id: str
    output: str


class ImageStore(Protocol):
    """What a build needs of an engine with images. ``engines/docker/images.py`` has it."""

    def has(self, ref: str) -> bool:
        """Return whether an image of that name is on this host."""

    def find(self, label: str, value: str) -> str | None:
        """Return the ID of the newest image with that label, None when there is none."""

    def tag(self, image: str, ref: str) -> None:
        """Give an image one more name."""

    def import_tar(self, chunks: Iterable[bytes], changes: Sequence[str]) -> str:
        """Return the ID of a new image of one layer."""

    def build_container(
        self, image: str, argv: Sequence[str], *, name: str, mounts: Sequence[Mount] = ()
    ) -> AbstractContextManager[BuildContainer]:
        """Run a command as root without a network; the container is there, stopped, for the body of the ``with``.

        Raises:
            Conflict: A container of that name is running.
            DLEnvError: The command failed; the message ends with its last lines.
        """

    def flatten(self, container: str, changes: Sequence[str]) -> str:
        """Return the ID of a new image of one layer with the container's files."""

    def commit(self, container: str, changes: Sequence[str]) -> str:
        """Return the ID of a new image: the container's own and a layer on top."""

    def remove_image(self, image: str) -> None:
        """Forget an image."""

    def registry_has(self, ref: str, *, timeout_s: int) -> bool:
        """Return whether a registry answers for that image within the time."""

    def pull(self, ref: str, progress: Progress) -> None:
        """Fetch an image.

        Raises:
            PullFailed: It did not arrive whole.
        """


def starter(store: ImageStore, *, progress: Progress, reference: str | None = None) -> str:
    """Return the reference of a starter image that is on this host, pulled or built if it was not.

    Args:
        store: The engine's images.
        progress: Gets a line for each step.
        reference: The image to pull instead of the recipe's.

    Raises:
        DLEnvError: It can be neither pulled nor built.
    """
    recipe = load_recipe()
    wanted = reference or recipe.reference
    for ref in (wanted, recipe.image):
        if store.has(ref):
            progress(_("The image {ref} is on this host.").format(ref=ref))
            return ref
    progress(_("Asking the registry for {ref} …").format(ref=wanted))
    if store.registry_has(wanted, timeout_s=_REGISTRY_TIMEOUT_S):
        store.pull(wanted, progress)
        return wanted
    progress(_("No registry answers for it; building a starter image from the Debian archive instead."))
    return bootstrap(store, progress=progress, install=True)


def bootstrap(
    store: ImageStore,
    *,
    progress: Progress,
    suite: str | None = None,
    mirror: str | None = None,
    rebuild: bool = False,
    install: bool = False,
) -> str:
    """Build the starter image and return its reference; a second call finds it done.

    Args:
        store: The engine's images.
        progress: Gets a line for each step.
        suite: Release to use instead of the host's own.
        mirror: Archive to use instead of the host's own.
        rebuild: Build even if it is there, for newer packages.
        install: Install debootstrap where it is missing, as root or by sudo without a password.

    Raises:
        InvalidRequest: debootstrap does not know the suite or cannot use the mirror.
        DLEnvError: A tool is missing or failed; the hint is the command that helps.
    """
    recipe = load_recipe()
    prefix = _require_tools(install, progress)
    source = choose_source(recipe, host_source(), debootstrap_knows, suite=suite, mirror=mirror)
    digest = recipe.digest(source.suite)
    old = store.find(LABEL, digest)
    if old and not rebuild:
        progress(_("The starter image is already there; --rebuild makes it anew."))
        image = old
    else:
        image = _build(store, recipe, source, prefix, rebuild, progress)
    for ref in (recipe.image, f"{REPOSITORY}:latest"):
        store.tag(image, ref)
    if old and image != old:
        with contextlib.suppress(Conflict):  # containers of it are still there
            store.remove_image(old)
    progress(_("Ready: {ref}").format(ref=recipe.image))
    return recipe.image


def _build(
    store: ImageStore, recipe: Recipe, source: Source, prefix: Sequence[str], rebuild: bool, progress: Progress
) -> str:
    digest = recipe.base_digest(source.suite)
    base = None if rebuild else store.find(BASE_LABEL, digest)
    if base is None:
        base = _build_base(store, recipe, source, prefix, progress)
    with tempfile.TemporaryDirectory(prefix="dlenv-wheels-", dir=_scratch()) as wheels:
        target = _python_of(store, base)
        progress(_("3/4 Fetching {what} by pip").format(what=", ".join(recipe.python)))
        _download(pip_download_argv(sys.executable, target, recipe.python, wheels), progress)
        progress(_("4/4 Installing them in the image"))
        return _add_packages(store, recipe, source, base, wheels)


def _build_base(store: ImageStore, recipe: Recipe, source: Source, prefix: Sequence[str], progress: Progress) -> str:
    archive = source.mirror or _("debootstrap's default archive")
    progress(_("1/4 Fetching Debian {suite} from {archive}").format(suite=source.suite, archive=archive))
    digest = recipe.base_digest(source.suite)
    with tempfile.TemporaryDirectory(prefix="dlenv-starter-", dir=_scratch()) as scratch:
        tree = str(Path(scratch, "root"))
        argv = unpack_argv(prefix, tree, debootstrap_argv(recipe, source, tree))
        unpacked = _import_output(store, argv)
    progress(_("2/4 Setting it up in a container"))
    try:
        with store.build_container(unpacked, ["sh", "-c", SET_UP], name=_container_name(digest)) as container:
            return store.flatten(container.id, changes({BASE_LABEL: digest}))
    finally:
        store.remove_image(unpacked)


def _add_packages(store: ImageStore, recipe: Recipe, source: Source, base: str, wheels: str) -> str:
    digest = recipe.digest(source.suite)
    argv, mounts = pip_install_argv(recipe.python), [Mount(wheels, WHEELS, read_only=True)]
    with store.build_container(base, argv, name=_container_name(digest), mounts=mounts) as container:
        return store.commit(container.id, changes({LABEL: digest, BASE_LABEL: ""}))  # labels are inherited


def _container_name(digest: str) -> str:
    """Return a name that only one build of the same thing can hold at a time."""
    return f"jupyter-dlenv-build-{digest[:12]}"


def _python_of(store: ImageStore, base: str) -> Target:
    name = _container_name(base.rpartition(":")[2])
    with store.build_container(base, ["python3", "-c", ASK_PYTHON], name=name) as container:
        return parse_target(container.output)


def _import_output(store: ImageStore, argv: Sequence[str]) -> str:
    """Return the ID of the image whose tar archive a command writes; it is streamed, never held."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "PATH": _SYSTEM_PATH}) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.read(_CHUNK)  # waits for the archive, so a tool that fails sends the engine nothing
        image = store.import_tar(_chunks(first, process.stdout), []) if first else ""
        status = process.wait()
        if status == 0:
            return image
        log.seek(0)
        if image:
            store.remove_image(image)
        raise tool_failed("debootstrap", status, log.read(), _("Another archive: --mirror ADDRESS --suite RELEASE"))


def _chunks(first: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    yield first
    while chunk := stream.read(_CHUNK):
        yield chunk


def _download(argv: Sequence[str], progress: Progress) -> None:
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            if line.lstrip().startswith("Downloading "):
                progress("    " + line.strip())
    if pip.returncode:
        raise tool_failed("pip download", pip.returncode, "".join(lines), "pip config list")


def _require_tools(install: bool, progress: Progress) -> tuple[str, ...]:
    """Return what to put before the command that unpacks; installs debootstrap when that was asked for.

    Raises:
        DLEnvError: Something is missing, with the command that installs it.
    """
    prefix = privilege(os.getuid(), _has, _may_sudo)
    missing = [*([] if _has("debootstrap") else ["debootstrap"]), *(["fakeroot"] if prefix is None else [])]
    if not missing:
        return prefix or ()
    command = install_command(missing, os.getuid())
    if not (install and _has("apt-get") and (os.getuid() == 0 or _may_sudo())):
        raise DLEnvError(
            _("Building the starter image needs {missing}.").format(missing=", ".join(missing)), hint=" ".join(command)
        )
    progress(_("Installing {missing}: {command}").format(missing=", ".join(missing), command=" ".join(command)))
    _apt(command)
    return _require_tools(False, progress)


def _apt(command: Sequence[str]) -> None:
    """Run an apt-get install, after an update when the package lists do not know the package yet."""
    unattended = ("sudo", "-n", *command[1:]) if command[0] == "sudo" else tuple(command)
    update = [*unattended[: unattended.index("apt-get")], "apt-get", "update"]
    for argv in (unattended, update, unattended):
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and argv is unattended:
            return
    raise tool_failed("apt-get", done.returncode, done.stdout + done.stderr, " ".join(command))


def host_source() -> Source:
    """Return the host's own release and archive; the suite is empty on a host that is no Debian or Ubuntu."""
    try:
        codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        codename = ""
    if not codename or not _has("apt-get"):
        return Source("")
    argv = ["apt-get", "indextargets", "Created-By: Packages"]
    listed = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    return parse_index_targets(listed.stdout, codename)


def debootstrap_knows(suite: str) -> bool:
    """True when the installed debootstrap has a script for a release."""
    return Path(os.environ.get("DEBOOTSTRAP_DIR", "/usr/share/debootstrap"), "scripts", suite).is_file()


def _has(program: str) -> bool:
    return shutil.which(program, path=_SYSTEM_PATH) is not None


def _may_sudo() -> bool:
    return _has("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


def _scratch() -> str:
    """Return a folder on disk: /tmp is often memory, and mounted so that debootstrap refuses it."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
