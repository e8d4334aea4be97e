"""Where a replica will run: image, identity, folders and variables, the same for kernels and jobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .atomic import write_text
from .engines.docker.engine import DockerEngine
from .engines.docker.request import require_source
from .engines.docker.state import ImageInfo
from .errors import Denied, InvalidRequest
from .i18n import _
from .identity import caller_identity, identity, passwd_text
from .images.facts import ImageFacts
from .images.probe import probe
from .paths import cache_dir, data_dir, environment_dir
from .resources import Mount, Share
from .settings import DLEnv
from .shares import mounted_here
from .spec import Identity
from .workspace import (
    CA_BUNDLE,
    CACHE,
    HOME,
    PACKAGES,
    PIP_CONFIG,
    PythonPackages,
    ca_bundle,
    cache_env,
    check_mounts,
    container_env,
    hidden_paths,
    inside,
    masks,
    own_folders,
)

_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "timeout")


@dataclass(frozen=True)
class Placement:
    """Everything that a container needs but what it runs.

    Attributes:
        user_mounts: The folders that a person asked for, the notebook folder first.
        mounts: Those and ours.
    """

    image: ImageInfo
    facts: ImageFacts
    identity: Identity
    user_mounts: tuple[Mount, ...]
    mounts: tuple[Mount, ...]
    mask_dirs: tuple[str, ...]
    mask_files: tuple[str, ...]
    env: Mapping[str, str]

    def workdir(self, here: Path, root: Path) -> str:
        """Return the working folder: the one here where a mount shows it, else the notebook folder."""
        seen = any(inside(str(here), mount.target) for mount in self.user_mounts)
        return str(here if seen else root)


async def place(
    engine: DockerEngine, settings: DLEnv, *, image: str, environment: str, root: Path, mounts: Sequence[Mount]
) -> Placement:
    """Return where a replica of an image runs; makes the environment's folders.

    Raises:
        ImageNotFound: The image is not on this host.
        UnusableImage: It has no Python.
        Denied: A mount would show what no container may see.
        InvalidRequest: A share that only the host can mount is not mounted.
    """
    info = await engine.image(image)
    facts = await probe(engine, info.id, image)
    options = await asyncio.to_thread(lambda: engine.security_options)
    who = identity(options, caller_identity(root, settings.run_as))
    asked = user_mounts(root, settings.mounts(), mounts)
    wanted = await asyncio.to_thread(mounted_here, asked, who, nfs_allowed=settings.allow_nfs_mounts)
    for folder in own_folders():
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)  # only what is there can be covered
    hidden = hidden_paths(who.uid)
    for mount in check_mounts(wanted, hidden):
        if not isinstance(mount, Share):
            require_source(os.path.realpath(mount.source))
    dirs, files = masks(wanted, hidden)
    ours = _own_mounts(environment, info, facts, who)
    packages = PythonPackages(facts.user_site, facts.minor)
    env = container_env(image_env=info.env, user=who.user, packages=packages, environ=os.environ)
    env.update(dict.fromkeys(facts.harmful, ""))  # an empty one is none to Python
    env.update(pip_variables(os.environ))
    if settings.share_caches:
        ours += (Mount(str(shared_cache(settings.cache_dir, who)), CACHE),)
        env.update(cache_env(info.env))
    if any(mount.target == PIP_CONFIG for mount in ours):
        env["PIP_CONFIG_FILE"] = PIP_CONFIG
    return Placement(info, facts, who, wanted, wanted + ours, dirs, files, {**env, **settings.environment_variables})


def user_mounts(root: Path, defaults: Sequence[Mount], own: Sequence[Mount]) -> tuple[Mount, ...]:
    """Return the notebook folder at its own path, the own mounts, and the defaults whose target is still free."""
    chosen = [Mount(str(root), str(root)), *own]
    targets = {mount.target for mount in chosen}
    return (*chosen, *(mount for mount in defaults if mount.target not in targets))


def own_folder(path: Path, who: Identity, mode: int = 0o700) -> Path:
    """Make a folder that belongs to the replica's user, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    if os.geteuid() == 0 and path.stat().st_uid != who.uid:
        os.chown(path, who.uid, who.gid)
    return path


def personal_dir(environment: str, who: Identity) -> Path:
    """Return an environment's folder of one person; a server that runs as root may act for several."""
    return _personal(environment_dir(environment), who)


def _personal(folder: Path, who: Identity) -> Path:
    return folder if who.uid == os.geteuid() else folder / f"uid-{who.uid}"


def shared_cache(setting: str, who: Identity) -> Path:
    """Return the folder of one person's caches, made where it is missing.

    Args:
        setting: Where an administrator or the user wants it; empty for our own folder.

    Raises:
        InvalidRequest: It cannot be made there.
        Denied: Somebody else made it, or put a link in its place.
    """
    path = Path(setting).expanduser() / f"uid-{who.uid}" if setting else _personal(cache_dir(), who)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_own(path, who)
    except OSError as error:
        raise InvalidRequest(
            _("The folder of the shared caches cannot be made: {error}").format(error=error),
            hint=_("Set c.DLEnv.cache_dir to a folder that can, or c.DLEnv.share_caches = False."),
        ) from error
    owner = os.geteuid() if who.uid == 0 else who.uid  # rootless: the container's root is the caller
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
        raise Denied(
            _("{path} is not a folder of the account {user} (rule: cache).").format(path=path, user=who.user),
            hint=_("Remove it, or set c.DLEnv.cache_dir to another folder."),
        )
    return path


def _make_own(path: Path, who: Identity) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        os.lchown(path, who.uid, who.gid)


def packages_name(image: ImageInfo, facts: ImageFacts) -> str:
    """Return the folder name of the packages installed into an environment: one an image ID and Python."""
    major, minor = facts.version[:2]
    return f"{image.id.removeprefix('sha256:')[:12]}-py{major}.{minor}"


def _own_mounts(environment: str, image: ImageInfo, facts: ImageFacts, who: Identity) -> tuple[Mount, ...]:
    personal = personal_dir(environment, who)
    home = own_folder(personal / "home", who)
    packages = own_folder(personal / "packages" / packages_name(image, facts), who)
    mounts = [Mount(str(home), HOME), Mount(str(packages), PACKAGES)]
    bundle = ca_bundle(os.environ)
    if bundle:
        mounts.append(
            Mount(
                str(_shared_text("ca.pem", Path(bundle).read_text(encoding="utf-8", errors="replace"))),
                CA_BUNDLE,
                read_only=True,
            )
        )
    passwd = passwd_text(facts.passwd, who, HOME)
    if passwd is not None:
        mounts.append(Mount(str(_shared_text("passwd", passwd)), "/etc/passwd", read_only=True))
    pip = pip_config(_pip_config_texts())
    if pip:
        mounts.append(Mount(str(_shared_text("pip.conf", pip)), PIP_CONFIG, read_only=True))
    return tuple(mounts)


def _shared_text(name: str, text: str) -> Path:
    """Return a file with the text, world-readable, made once a content."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = data_dir() / "files" / f"{name}-{digest}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, mode=0o644)
    return path


def _pip_config_texts() -> list[str]:
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE", "")
    paths = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    paths += [Path(named)] if named else []
    return [
        path.read_text(encoding="utf-8", errors="replace")
        for path in paths
        if path.is_file() and os.access(path, os.R_OK)
    ]


def pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the host's pip variables that mean the same in a container, by the rules of :func:`pip_config`."""
    names = {f"PIP_{key.replace('-', '_').upper()}" for key in _PIP_KEYS}
    return {name: value for name in names if (value := _portable(environ.get(name, "")))}


def pip_config(texts: Sequence[str]) -> str:
    """Return the part of the host's pip configuration that means the same in a container, empty when there is none.

    Paths of the host and addresses that hold a password stay out.
    """
    found: dict[str, str] = {}
    for text in texts:
        parser = ConfigParser(interpolation=None)
        try:
            parser.read_string(text)
        except ConfigError:
            continue
        section = parser["global"] if parser.has_section("global") else {}
        found.update({key: value for key in _PIP_KEYS if (value := _portable(section.get(key, "")))})
    lines = [f"{key} = {value}" for key, value in found.items()]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def _portable(value: str) -> str:
    words = [word for word in re.split(r"\s+", value) if word]
    return " ".join(word for word in words if not word.startswith(("file:", "/")) and "@" not in urlsplit(word).netloc)
