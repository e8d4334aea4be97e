"""Environment <-> kernelspec: what a user saved is a kernel that every Jupyter client lists."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_core.paths import jupyter_data_dir

from ..atomic import write_text
from ..errors import Conflict, EnvironmentNotFound, InvalidRequest
from ..gpus.asks import Ask
from ..i18n import _
from ..images.reference import require_image
from ..options import NETWORKS
from ..resources import GpuRequest, Mount, Resources, parse_mount, parse_size
from ..spec import Role, from_json, require_name
from .packages import PackageFolder, empty, package_folders

PROVISIONER = "dlenv-container"
ENGINES = ("docker", "process")
POOL_LIMIT = 32


@dataclass(frozen=True)
class Environment:
    """An image with resources and mounts, by name.

    Attributes:
        engine: ``docker``, or ``process`` for plain processes without a container.
        gpus: As typed: a number, ``all``, indices or UUIDs; empty for none.
        gpu_memory: Least memory of each GPU, as typed; empty for any.
        shared: Whether others may hold the same GPUs, if they ask for that too.
        memory, shm_size: As typed: ``8g``; empty for no limit and for the default.
        mounts: As typed, each ``SRC:DST[:ro]``.
        pool: How many kernels a Jupyter server keeps ready to be claimed.
    """

    name: str
    image: str = ""
    display_name: str = ""
    engine: str = "docker"
    gpus: str = ""
    gpu_memory: str = ""
    shared: bool = False
    memory: str = ""
    cpus: float | None = None
    shm_size: str = ""
    network: str = "bridge"
    mounts: tuple[str, ...] = ()
    pool: int = 0

    def __post_init__(self) -> None:
        require_name(self.name)
        if self.engine not in ENGINES:
            raise InvalidRequest(_("There is no engine {name!r}.").format(name=self.engine), hint=", ".join(ENGINES))
        if self.engine == "docker":
            require_image(self.image)
        else:
            self._refuse_for_processes()
        if self.network not in NETWORKS:
            raise InvalidRequest(_("There is no network {name!r}.").format(name=self.network), hint=", ".join(NETWORKS))
        if not 0 <= self.pool <= POOL_LIMIT:
            raise InvalidRequest(_("--pool takes a number from 0 to {n}.").format(n=POOL_LIMIT))
        self.resources()
        self.typed_mounts()

    def _refuse_for_processes(self) -> None:
        given = {
            "--image": self.image,
            "--gpus": self.gpus,
            "--gpu-memory": self.gpu_memory,
            "--shared": self.shared,
            "--memory": self.memory,
            "--cpus": self.cpus,
            "--shm-size": self.shm_size,
            "--mount": self.mounts,
            "--network": self.network != "bridge",
            "--pool": self.pool,
        }
        for option, value in given.items():
            if value:
                raise InvalidRequest(
                    _("An environment of plain processes has no container, so {option} has no meaning.").format(
                        option=option
                    )
                )

    def resources(self) -> Resources:
        """Return what one node of this environment may use."""
        return Resources(
            gpus=GpuRequest.typed(self.gpus, self.gpu_memory, shared=self.shared),
            cpus=self.cpus,
            memory_bytes=parse_size(self.memory) if self.memory else None,
            shm_bytes=parse_size(self.shm_size) if self.shm_size else None,
        )

    def ask(self, kernel_id: str, owner: str) -> Ask:
        """Return what a kernel of this environment asks of the ledger."""
        return Ask(kernel_id, owner, Role.KERNEL.value, self.name, self.resources().gpus)

    def typed_mounts(self) -> tuple[Mount, ...]:
        """Return the environment's own mounts."""
        return tuple(map(parse_mount, self.mounts))

    def report(self) -> dict[str, str]:
        """Return what a kernel's report on the board says of its environment."""
        return {"environment": self.name, "image": self.image, "engine": self.engine}

    def title(self) -> str:
        """Return what launchers show."""
        if self.display_name:
            return self.display_name
        where = self.image or _("no container")
        return f"{self.name} ({where})"


@dataclass(frozen=True)
class PoolStatus:
    """What an environment's pool holds now.

    Attributes:
        size: How many kernels are wanted.
        ready: How many wait.
        gpus: The GPUs that they hold.
        message: Why the pool cannot be filled, empty when it can.
    """

    size: int
    ready: int
    gpus: tuple[str, ...]
    message: str = ""


def environment_from_json(data: Mapping[str, Any]) -> Environment:
    """Build an environment from JSON data.

    Raises:
        InvalidRequest: A field is unknown or cannot be right.
    """
    cpus = data.get("cpus")
    texts = {item.name for item in fields(Environment)} - {"cpus", "mounts", "pool", "shared"}
    pool = data.get("pool", 0)
    if not isinstance(pool, int) or isinstance(pool, bool):
        raise InvalidRequest(_("Environment: {key} cannot be {value!r}.").format(key="pool", value=pool))
    wrong = [key for key in texts if not isinstance(data.get(key, ""), str)]
    mounts = data.get("mounts") or ()
    if wrong or not (cpus is None or (isinstance(cpus, (int, float)) and not isinstance(cpus, bool) and cpus > 0)):
        key = (wrong or ["cpus"])[0]
        raise InvalidRequest(_("Environment: {key} cannot be {value!r}.").format(key=key, value=data[key]))
    if not isinstance(data.get("shared", False), bool):
        raise InvalidRequest(_("Environment: {key} cannot be {value!r}.").format(key="shared", value=data["shared"]))
    if not isinstance(mounts, (list, tuple)) or not all(isinstance(item, str) for item in mounts):
        raise InvalidRequest(_("Environment: mounts is a list of texts."))
    return from_json(Environment, {**data, "mounts": tuple(mounts)})


def kernelspec_of(environment: Environment) -> dict[str, Any]:
    """Return the environment's ``kernel.json``. Pure."""
    return {
        "argv": [sys.executable, "-m", "jupyter_dlenv.kernels", environment.name, "-f", "{connection_file}"],
        "display_name": environment.title(),
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {
            "debugger": True,
            "kernel_provisioner": {
                "provisioner_name": PROVISIONER,
                "config": {"environment": asdict(environment)},
            },
        },
    }


def environment_of(metadata: Mapping[str, Any]) -> Environment | None:
    """Return the environment in a kernelspec's metadata, None for a kernel that is not ours."""
    stanza = metadata.get("kernel_provisioner") or {}
    if stanza.get("provisioner_name") != PROVISIONER:
        return None
    return environment_from_json((stanza.get("config") or {}).get("environment") or {})


class EnvironmentManager:
    """Reads and writes environments, which are kernelspecs of the user.

    Args:
        specs: Where kernelspecs are looked up.
    """

    def __init__(self, specs: KernelSpecManager | None = None) -> None:
        self._specs = specs or KernelSpecManager()

    def list(self) -> list[Environment]:
        """Return all environments by name; a kernelspec that somebody broke by hand is left out."""
        return sorted(self._every().values(), key=lambda environment: environment.name)

    def _every(self) -> dict[str, Environment]:
        found = {}
        for name in self._specs.find_kernel_specs():
            environment = self._read(name)
            if environment:
                found[name] = environment
        return found

    def _read(self, name: str) -> Environment | None:
        try:
            return environment_of(self._specs.get_kernel_spec(name).metadata)
        except (NoSuchKernel, InvalidRequest):
            return None

    def get(self, name: str) -> Environment:
        """Return one environment.

        Raises:
            EnvironmentNotFound: There is none of that name.
        """
        environment = self._read(require_name(name))
        if environment is None:
            known = ", ".join(item.name for item in self.list()) or _("none yet")
            raise EnvironmentNotFound(
                _("There is no environment {name}; there are: {known}.").format(name=name, known=known),
                hint=f"jupyter dlenv env add {name} --image REF",
            )
        return environment

    def put(self, environment: Environment) -> Path:
        """Write the environment's kernelspec and return its folder.

        Raises:
            Conflict: A kernel of that name is not ours.
        """
        if environment.name in self._specs.find_kernel_specs() and self._read(environment.name) is None:
            raise Conflict(
                _("A kernel named {name} exists and is not an environment.").format(name=environment.name),
                hint=_("Choose another name, or: jupyter kernelspec remove {name}").format(name=environment.name),
            )
        folder = Path(jupyter_data_dir()) / "kernels" / environment.name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(kernelspec_of(environment), indent=1, ensure_ascii=False)
        write_text(folder / "kernel.json", text + "\n", mode=0o644)
        return folder

    def packages(self, name: str) -> tuple[PackageFolder, ...]:
        """Return what was installed into an environment, one that was removed included.

        Raises:
            EnvironmentNotFound: There is none of that name, and nothing is left of one.
        """
        found = package_folders(require_name(name))
        if not found:
            self.get(name)
        return found

    def reset(self, name: str) -> tuple[PackageFolder, ...]:
        """Empty an environment's packages, of all its images, and return what was there.

        Raises:
            EnvironmentNotFound: There is none of that name.
        """
        found = self.packages(name)
        for folder in found:
            empty(folder)
        return found

    def remove(self, name: str) -> None:
        """Remove an environment's kernelspec; its packages and home stay for a new one of the same name.

        Raises:
            EnvironmentNotFound: There is none of that name.
        """
        self.get(name)
        shutil.rmtree(Path(self._specs.get_kernel_spec(name).resource_dir))
