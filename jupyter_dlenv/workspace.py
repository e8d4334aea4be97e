"""What a kernel or job sees of the host: which folders, which of them hidden, as whom, with which variables."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

from .errors import Denied, InvalidRequest
from .i18n import LANGUAGE_VARIABLE, _, language
from .paths import data_dir, kernels_dir
from .resources import Mount, Share
from .spec import CONTAINER_ROOT

HOME = f"{CONTAINER_ROOT}/home"
PACKAGES = f"{CONTAINER_ROOT}/packages"
CA_BUNDLE = f"{CONTAINER_ROOT}/ca.pem"
PIP_CONFIG = f"{CONTAINER_ROOT}/pip.conf"
CACHE = f"{CONTAINER_ROOT}/cache"

CACHE_VARIABLES = {
    "HF_HOME": f"{CACHE}/huggingface",
    "KERAS_HOME": f"{CACHE}/keras",
    "MODELSCOPE_CACHE": f"{CACHE}/modelscope",
    "MXNET_HOME": f"{CACHE}/mxnet",
    "PIP_CACHE_DIR": f"{CACHE}/pip",
    "PPNLP_HOME": f"{CACHE}/paddlenlp",
    "TFHUB_CACHE_DIR": f"{CACHE}/tfhub",
    "TORCH_HOME": f"{CACHE}/torch",
}
"""Where frameworks keep downloads: models, data sets and wheels, whose content no image changes. Caches of compiled
code are not among them."""

_SECRETS = (
    ".aws",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".docker",
    ".git-credentials",
    ".gnupg",
    ".kube",
    ".netrc",
    ".ssh",
)
_MARKERS = (".git", ".dlenv")
_FORWARDED = ("TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "HF_ENDPOINT")
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
_RESERVED_TARGETS = frozenset(
    ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "tmp", "usr", "var")
)


def find_root(cwd: Path, *, setting: str = "", server_root: str = "") -> Path:
    """Return the folder to mount: the setting, the server's root, the nearest project folder, the working folder."""
    if setting or server_root:
        return Path(setting or server_root).expanduser().resolve()
    here = cwd.resolve()
    marked = (folder for folder in (here, *here.parents) if any((folder / name).exists() for name in _MARKERS))
    return next(marked, here)


def inside(path: str, folder: str) -> bool:
    """True when an absolute path is the folder or lies below it, compared by components."""
    return PurePosixPath(path).is_relative_to(folder)


def check_mounts(mounts: Sequence[Mount], hidden: Sequence[str]) -> tuple[Mount, ...]:
    """Return the mounts of one container, each source there and each target free.

    Args:
        hidden: What no container may see, from :func:`hidden_paths`.

    Raises:
        InvalidRequest: A source is missing or no folder, or two mounts want one target.
        Denied: A mount would show credentials or cover what the container needs.
    """
    targets: set[str] = set()
    for mount in mounts:
        if not isinstance(mount, Share):
            _check_source(mount.source, hidden)
        _check_target(mount.target)
        if mount.target in targets:
            raise InvalidRequest(_("Two mounts want the target {target}.").format(target=mount.target))
        targets.add(mount.target)
    return tuple(mounts)


def _check_source(source: str, hidden: Sequence[str]) -> None:
    if not os.path.isdir(source):
        missing = _("is not a folder") if os.path.exists(source) else _("does not exist")
        raise InvalidRequest(
            _("The mount source {path} {problem}.").format(path=source, problem=missing), hint=f"ls -ld '{source}'"
        )
    real = os.path.realpath(source)
    for secret in hidden:
        if inside(real, os.path.realpath(secret)):
            raise Denied(_("{path} holds credentials and is never mounted (rule: credentials).").format(path=source))


def _check_target(target: str) -> None:
    parts = PurePosixPath(target).parts[1:]
    if not parts or ".." in parts or parts[0] == "dlenv" or (len(parts) == 1 and parts[0] in _RESERVED_TARGETS):
        raise InvalidRequest(
            _("{target} cannot be a mount's target: the container needs it.").format(target=target),
            hint=_("Choose a folder of its own, such as /data."),
        )


def own_folders() -> list[str]:
    """Return Jupyter's folders and ours: tokens, keys, kernelspecs, records."""
    return [jupyter_runtime_dir(), jupyter_config_dir(), jupyter_data_dir(), str(data_dir()), str(kernels_dir())]


def hidden_paths(uid: int) -> list[str]:
    """Return what no container sees: Jupyter's runtime and configuration, our records, and credentials.

    Args:
        uid: Whom the container runs as; a server that runs as root hides both homes' credentials.
    """
    homes = {Path.home(), *_home_of(uid)}
    return own_folders() + [str(home / name) for home in sorted(homes) for name in _SECRETS]


def _home_of(uid: int) -> list[Path]:
    try:
        return [Path(pwd.getpwuid(uid).pw_dir)]
    except KeyError:
        return []


def masks(mounts: Iterable[Mount], hidden: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the folders and the files to cover in the container, by their path inside."""
    here = [mount for mount in mounts if not isinstance(mount, Share)]
    pairs = [(mount, os.path.realpath(path)) for mount in here for path in hidden if os.path.exists(path)]
    covered = {
        os.path.join(mount.target, os.path.relpath(path, os.path.realpath(mount.source))): path
        for mount, path in pairs
        if inside(path, os.path.realpath(mount.source))
    }
    dirs = [target for target, path in covered.items() if os.path.isdir(path)]
    files = [target for target, path in covered.items() if not os.path.isdir(path)]
    return _outermost(dirs, dirs), _outermost(files, dirs)


def _outermost(targets: Iterable[str], dirs: Sequence[str]) -> tuple[str, ...]:
    """Return the targets that lie in none of the folders: below an empty cover there is nothing to cover."""
    return tuple(sorted(path for path in targets if not any(path != over and inside(path, over) for over in dirs)))


def leaving_link(path: str, mounts: Iterable[Mount]) -> tuple[str, str] | None:
    """Return the first link on a path whose end lies outside every mount, with that end; None when there is none."""
    sources = [os.path.realpath(mount.source) for mount in mounts]
    at = "/"
    for part in PurePosixPath(path).parts[1:]:
        at = os.path.join(at, part)
        if os.path.islink(at):
            end = os.path.realpath(at)
            below_mount = any(inside(os.path.realpath(os.path.dirname(at)), source) for source in sources)
            if below_mount and not any(inside(end, source) for source in sources):
                return at, end
    return None


def leaving_links(folder: Path, mounts: Sequence[Mount], most: int = 1000) -> list[tuple[str, str]]:
    """Return the links directly in a folder that leave the mounts, at most among its first ``most`` entries."""
    with os.scandir(folder) as entries:
        links = [entry.path for entry, _count in zip(entries, range(most), strict=False) if entry.is_symlink()]
    return [found for link in links if (found := leaving_link(link, mounts))]


def link_hint(end: str) -> str:
    """Return the option that makes a link's end visible."""
    folder = end if os.path.isdir(end) else os.path.dirname(end)
    return f"--mount 'src={folder},dst={folder}'" if ":" in folder else f"--mount {folder}:{folder}"


@dataclass(frozen=True)
class PythonPackages:
    """How pip in a container finds the environment's own folder.

    Attributes:
        user_site: Whether the interpreter looks into a user folder at all; one in a venv does not.
        minor: The Python minor as folders are named: ``3.11``.
    """

    user_site: bool
    minor: str

    def folders(self) -> tuple[str, ...]:
        """Return where pip puts modules that it is told to install under a prefix."""
        return tuple(f"{PACKAGES}/{lib}/python{self.minor}/site-packages" for lib in ("lib", "lib64"))


def container_env(
    *, image_env: Mapping[str, str], user: str, packages: PythonPackages, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of every replica: an allow-list of the host's, and ours."""
    forwarded = {key: environ[key] for key in _FORWARDED if environ.get(key)}
    base = {
        "HOME": HOME,
        "USER": user,
        "LOGNAME": user,
        "LANG": image_env.get("LANG", "C.UTF-8"),
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{image_env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{PACKAGES}/bin",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        LANGUAGE_VARIABLE: language(),
    }
    ca = dict.fromkeys(_CA_VARIABLES, CA_BUNDLE) if ca_bundle(environ) else {}
    # Named although the image sets it: what else is put before it must not take its place.
    libraries = {key: image_env[key] for key in ("LD_LIBRARY_PATH",) if key in image_env}
    return {**forwarded, **base, **ca, **libraries, **_pip_env(packages, image_env)}


def cache_env(image_env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the shared caches; what the image sets stays, because it may bring files there."""
    return {name: path for name, path in CACHE_VARIABLES.items() if name not in image_env}


def _pip_env(packages: PythonPackages, image_env: Mapping[str, str]) -> dict[str, str]:
    base = {"PYTHONUSERBASE": PACKAGES}
    if packages.user_site:
        # The second tells pip that a distribution's own packages stay as they are: only the user folder changes.
        return {**base, "PIP_USER": "1", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    # The same folder by another way, because pip in a venv refuses --user; notebook/packages.py helps it. Not by
    # PIP_TARGET: that ignores what the image has, so a small package would bring a second copy of its framework.
    path = ":".join([*packages.folders(), *filter(None, [image_env.get("PYTHONPATH", "")])])
    return {**base, "PIP_PREFIX": PACKAGES, "PYTHONPATH": path, "DLENV_PACKAGES_PATH": packages.folders()[0]}


def ca_bundle(environ: Mapping[str, str]) -> str:
    """Return the site's own certificate bundle on the host, empty when none is set."""
    named = (environ.get(name, "") for name in _CA_VARIABLES)
    return next((path for path in named if path and os.path.isfile(path)), "")
