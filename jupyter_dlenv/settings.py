"""The configuration class ``DLEnv``: what an administrator and a user set once for every kernel and job."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path
from traitlets import Bool, CaselessStrEnum, Dict, Float, List, TraitError, Unicode, default, validate
from traitlets.config import Config, LoggingConfigurable
from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

from .errors import InvalidRequest
from .resources import Mount, parse_mount, parse_size

_CONFIG_NAMES = ("jupyter_config", "jupyter_dlenv_config")


class DLEnv(LoggingConfigurable):
    """Settings of jupyter-dlenv, read from ``jupyter_dlenv_config.py`` or ``.json`` and the server's own files."""

    root = Unicode(
        help="""Folder that kernels and jobs see at its own path. Empty for the server's root folder; without a
        server the nearest parent of the working folder that holds ``.git`` or ``.dlenv``, else the working folder.

        c.DLEnv.root = "/home/alice/projects"
        """,
    ).tag(config=True)

    run_as = Unicode(
        help="""Account whose files kernels and jobs write when the server itself runs as root. Empty for the owner of
        the notebook folder.

        c.DLEnv.run_as = "alice"
        """,
    ).tag(config=True)

    owner = Unicode(help="""Name on everything that is started; the account of the server unless set.""").tag(
        config=True
    )

    default_mounts = List(
        Unicode(),
        help="""Folders that every kernel and job sees beside the notebook folder, ``SRC:DST[:ro]`` each. What the
        administrator and the user set both apply; on the same target the administrator's wins.

        c.DLEnv.default_mounts = ["/data/sets:/data/sets:ro"]
        """,
    ).tag(config=True)

    allow_nfs_mounts = Bool(
        True,
        help="""Whether ``--mount nfs://HOST/EXPORT:/TARGET`` may be asked for: Docker then mounts the share for the
        container. Shares that the host itself has mounted are not meant.""",
    ).tag(config=True)

    environment_variables = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="""Variables for every kernel and job, beside the few that are handed on from the server.

        c.DLEnv.environment_variables = {"HF_ENDPOINT": "https://hub.example.org"}
        """,
    ).tag(config=True)

    pull = CaselessStrEnum(
        ["ask", "missing", "never"],
        default_value="ask",
        help="""What to do when an image is not on this host: ``ask`` fails in a server with the command to pull it,
        and pulls with progress on stderr where there is no server; ``missing`` pulls; ``never`` fails.""",
    ).tag(config=True)

    share_caches = Bool(
        True,
        help="""Whether all kernels and jobs of one person share what they download: models of Hugging Face and torch
        hub, wheels of pip, and the like. Off, each environment keeps them in its own home.""",
    ).tag(config=True)

    cache_dir = Unicode(
        help="""Folder of the shared caches; each person's lie below it in ``uid-NUMBER``. Empty for a folder beside the
        environments.

        c.DLEnv.cache_dir = "/big/disk/dlenv-cache"
        """,
    ).tag(config=True)

    keep_kernels = CaselessStrEnum(
        ["never", "crash", "always"],
        default_value="crash",
        help="""Which kernels outlive their Jupyter server: with ``crash`` those of a server that was killed, with
        ``always`` those of a server that stops, too; the next server with the same root folder finds them again, with
        their notebooks. With ``never`` it removes them.""",
    ).tag(config=True)

    kernel_grace = Float(
        120,
        min=1,
        help="""For how many seconds a kernel lives on without its server, waiting for the next one.""",
    ).tag(config=True)

    restart_keeps_container = Bool(
        False,
        help="""Whether restarting a kernel keeps its container, with what was written outside the mounted folders.
        A kernel whose environment has changed since gets a new one.""",
    ).tag(config=True)

    gpu_access = CaselessStrEnum(
        ["auto", "toolkit", "cdi", "devices"],
        default_value="auto",
        help="""How containers get their GPUs: ``cdi`` by the Container Device Interface, which needs Docker Engine 25;
        ``toolkit`` by the NVIDIA Container Toolkit's hook; ``devices`` by plain device nodes and the driver's
        libraries, which needs neither. With ``auto`` the first of these three that this host can do;
        ``jupyter dlenv doctor`` says which.""",
    ).tag(config=True)

    cull_gpu_idle_timeout = Float(
        0,
        min=0,
        help="""After how many seconds of idle GPUs a kernel that executes nothing and holds GPUs is shut down; 0 for
        never. It is warned before.""",
    ).tag(config=True)

    cull_gpu_idle_warning = Float(
        300,
        min=0,
        help="""How many seconds before that the warning comes.""",
    ).tag(config=True)

    ledger_dir = Unicode(
        help="""Folder in which all users of this host note which GPUs they hold and wait for. It must be the same for
        all of them, writable for all of them (mode 1777), and on this host. Empty for ``/run/lock/jupyter-dlenv``.""",
    ).tag(config=True)

    allow_shared_gpus = Bool(
        True,
        help="""Whether ``--shared`` may be asked for: several kernels and jobs on one GPU, if all of them say so.""",
    ).tag(config=True)

    allow_busy_gpus = Bool(
        True,
        help="""Whether ``--gpus N+busy`` may be asked for: GPUs that processes of somebody else use already.""",
    ).tag(config=True)

    gpu_wait = Float(
        0,
        min=0,
        help="""For how many seconds the start of a kernel waits for GPUs before it fails; 0 for as long as it
        takes.""",
    ).tag(config=True)

    notify_command = Unicode(
        help="""Command that runs on the host when a job has ended which names none by ``--notify``. It finds
        DLENV_JOB, DLENV_JOB_NAME, DLENV_JOB_STATE, DLENV_JOB_EXIT_CODE, DLENV_JOB_MESSAGE and DLENV_JOB_SECONDS in its
        environment.

        c.DLEnv.notify_command = 'mail -s "$DLENV_JOB_NAME $DLENV_JOB_STATE" alice </dev/null'
        """,
    ).tag(config=True)

    stall_minutes = Float(
        10,
        min=0,
        help="""After how many minutes without a line a running job is remarked on, if its GPUs, or without GPUs its
        CPUs, do nothing meanwhile; 0 for never. Looked after by a Jupyter server.""",
    ).tag(config=True)

    keep_jobs_days = Float(
        0,
        min=0,
        help="""For how many days the records and logs of ended jobs are kept; 0 for ever.""",
    ).tag(config=True)

    keep_jobs_size = Unicode(
        help="""How much the records and logs of all ended jobs of one person may take, such as ``50g``; beyond it the
        oldest are removed. Empty for no limit.""",
    ).tag(config=True)

    @default("owner")
    def _default_owner(self) -> str:
        return getpass.getuser()

    @validate("keep_jobs_size")
    def _valid_size(self, proposal: Any) -> str:
        try:
            return str(proposal["value"]) if not proposal["value"] or parse_size(proposal["value"]) else ""
        except InvalidRequest as error:
            raise TraitError(f"c.DLEnv.keep_jobs_size: {error}") from error

    @validate("default_mounts")
    def _valid_mounts(self, proposal: Any) -> list[str]:
        for text in proposal["value"]:
            try:
                parse_mount(text)
            except InvalidRequest as error:
                raise TraitError(f"c.DLEnv.default_mounts: {error}") from error
        return list(proposal["value"])

    def mounts(self) -> tuple[Mount, ...]:
        """Return the default mounts."""
        return tuple(map(parse_mount, self.default_mounts))


def load_settings(parent: Any = None) -> DLEnv:
    """Return the settings that hold in this process: Jupyter's files at every level, then the parent's own."""
    levels = [*_file_levels(), parent.config if parent is not None else Config()]
    merged = Config()
    for level in levels:
        merged.merge(deepcopy(level))  # merge() keeps references, and a later level would change an earlier one
    merged.DLEnv.default_mounts = union_of_mounts(_mounts_of(level) for level in levels)
    return DLEnv(config=merged, parent=None, **({"log": parent.log} if hasattr(parent, "log") else {}))


def union_of_mounts(levels: Iterable[list[str]]) -> list[str]:
    """Return the mounts of all levels, the administrator's first; the first on a target wins."""
    chosen: dict[str, str] = {}
    for text in (text for level in levels for text in level):
        chosen.setdefault(parse_mount(text).target, text)
    return list(chosen.values())


def _mounts_of(config: Config) -> list[str]:
    return list(config.DLEnv.default_mounts) if "default_mounts" in config.get("DLEnv", {}) else []


def _file_levels() -> list[Config]:
    """Return one Config a folder and name, the system's before the user's."""
    found = []
    for folder in reversed(jupyter_config_path()):
        for name in _CONFIG_NAMES:
            found += [_load(loader, f"{name}{suffix}", folder) for loader, suffix in _LOADERS]
    return found


_LOADERS = ((JSONFileConfigLoader, ".json"), (PyFileConfigLoader, ".py"))


def _load(loader: type[Any], name: str, folder: str) -> Config:
    if not (Path(folder) / name).is_file():
        return Config()
    try:
        return Config(loader(name, path=folder).load_config())
    except ConfigFileNotFound:
        return Config()
