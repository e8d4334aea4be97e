"""``env``: images as kernels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ..errors import InvalidRequest
from ..i18n import _
from .output import FAILED, show


def add(arguments: argparse.Namespace) -> int:
    """Write an environment's kernelspec."""
    from ..kernels.environments import Environment, EnvironmentManager

    keys = ("name", "image", "engine", "gpus", "gpu_memory", "shared", "memory", "cpus", "shm_size", "network")
    chosen = {key: getattr(arguments, key) for key in (*keys, "display_name", "pool")}
    environment = Environment(**chosen, mounts=tuple(arguments.mounts))
    folder = EnvironmentManager().put(environment)
    print(_("{name} is a kernel now: {folder}").format(name=environment.name, folder=folder))
    return 0


def list_environments(arguments: argparse.Namespace) -> int:
    """List the environments."""
    from ..kernels.environments import EnvironmentManager

    found = EnvironmentManager().list()
    nowhere = _("no container")
    rows = [f"{item.name}  {item.image or nowhere}" for item in found]
    return show(arguments, [asdict(item) for item in found], lambda: "\n".join(rows))


def remove(arguments: argparse.Namespace) -> int:
    """Remove an environment."""
    from ..kernels.environments import EnvironmentManager

    EnvironmentManager().remove(arguments.name)
    return 0


def reset(arguments: argparse.Namespace) -> int:
    """Remove what was installed into an environment."""
    from ..kernels.environments import EnvironmentManager
    from ..kernels.packages import refuse_while_used, removed_text
    from ..settings import load_settings

    environments = EnvironmentManager()
    folders = environments.packages(arguments.name)
    if not folders:
        print(_("Nothing was installed into {name}.").format(name=arguments.name))
        return 0
    if not arguments.force:
        refuse_while_used(arguments.name, load_settings().owner)
    if not arguments.yes and not _agreed([folder.text() for folder in folders]):
        return FAILED
    print(removed_text(environments.reset(arguments.name)))
    return 0


def _agreed(lines: Sequence[str]) -> bool:
    """Ask the person at the terminal whether to remove what the lines name."""
    if not sys.stdin.isatty():
        raise InvalidRequest(_("Nobody is there to be asked."), hint=_("Say it with --yes."))
    print("\n".join(lines))
    return input(_("Remove all of it? [y/N] ")).strip().lower() in ("y", "yes")
