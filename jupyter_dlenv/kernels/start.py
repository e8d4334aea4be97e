"""What one start of a kernel needs: image, placement, runtime and GPUs, and the spec made from them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..engines.process import ProcessEngine, inherited_environment
from ..engines.registry import load_engine
from ..errors import ImageNotFound
from ..gpus.leases import lease
from ..i18n import _
from ..images.pull import pull_with_progress
from ..paths import API_SOCKET, data_dir
from ..placement import Placement, place
from ..spec import CONTAINER_ROOT, Identity, JobSpec, Mount, Role
from ..workspace import leaving_links, link_hint
from .board import BOARD, Phase
from .environments import Environment
from .folder import KernelFolder
from .owner import Owner
from .runtime import MOUNT_POINT, Runtime, ensure_runtime, kernel_argv

RUN_DIR = f"{CONTAINER_ROOT}/run"
POOL_LABEL = "pool"
"""On a container that was started for a pool; once claimed, its name and its label ``id`` differ."""

NOTEBOOK = "JPY_SESSION_NAME"
"""Names the notebook's path, as Jupyter does for local kernels."""


@dataclass(frozen=True)
class Start:
    """One start: what is to run, for whom, and where.

    Attributes:
        key: Signs the kernel's messages.
        root: The notebook folder.
        here: The kernel's working folder.
        folder: Shared with the kernel.
        notebook: The notebook's path, empty for a kernel without one.
        attempt: Number of this start, from 1.
        pooled: Nobody waits for it yet, so nobody is told of it.
        gpu_uuids: The GPUs of the start before, None to lease some.
    """

    environment: Environment
    owner: Owner
    kernel_id: str
    key: bytes
    root: Path
    here: Path
    folder: KernelFolder
    log: logging.Logger
    notebook: str = ""
    attempt: int = 1
    pooled: bool = False
    gpu_uuids: tuple[str, ...] | None = None

    async def prepare(self) -> tuple[JobSpec, DockerEngine | ProcessEngine, Identity | None]:
        """Return what is to run, everything that it needs being there.

        Raises:
            DLEnvError: Whatever is missing, with the command that helps.
        """
        return await (self.process() if self.environment.engine == "process" else self.container())

    def report(self, phase: Phase, message: str = "") -> None:
        """Put on the board where this start is."""
        if self.pooled:
            return
        BOARD.update(self.kernel_id, phase=phase, message=message, **self.environment.report())

    def say(self, text: str) -> None:
        """Show a step that takes its time."""
        self.owner.say(text)
        self.report(Phase.PULLING, text)

    async def container(self) -> tuple[JobSpec, DockerEngine, Identity | None]:
        """Return what runs in a container."""
        environment, owner = self.environment, self.owner
        engine = load_engine("docker")
        assert isinstance(engine, DockerEngine)
        await self._require_image(engine)
        placed = await place(
            engine,
            owner.settings,
            image=environment.image,
            environment=environment.name,
            root=self.root,
            mounts=environment.typed_mounts(),
        )
        _warn_of_links(self.root, self.here, placed.user_mounts, self.log)
        runtime = await ensure_runtime(engine, placed.image.id, placed.facts, data_dir=data_dir(), progress=self.say)
        gpus = self.gpu_uuids
        if gpus is None:
            gpus = await lease(engine, environment.resources().gpus)
        return self._container_spec(placed, runtime, gpus), engine, placed.identity

    async def _require_image(self, engine: DockerEngine) -> None:
        """Pull a missing image where the settings and the place allow; nobody's time-out runs meanwhile but ours."""
        ref, owner = self.environment.image, self.owner
        try:
            await engine.image(ref)
        except ImageNotFound:
            wanted = owner.settings.pull == "missing" or (owner.settings.pull == "ask" and not owner.is_server)
            if not wanted:
                raise
            await pull_with_progress(engine, ref, self.say)

    async def process(self) -> tuple[JobSpec, ProcessEngine, Identity | None]:
        """Return what runs as a plain process."""
        environment, owner = self.environment, self.owner
        engine = load_engine("process")
        assert isinstance(engine, ProcessEngine)
        owner.say(
            _("No container: the kernel of {name} is a plain process on this host.").format(name=environment.name)
        )
        folder = self.folder.path
        spec = JobSpec(
            id=self.kernel_id,
            role=Role.KERNEL,
            argv=(sys.executable, "-m", "jupyter_dlenv.kernels.plain", "-f", str(folder / "connection.json")),
            workdir=str(self.here if self.here.is_dir() else self.root),
            run_dir=str(folder),
            owner=owner.settings.owner,
            name=environment.name,
            environment=environment.name,
            instance=str(os.getpid()),
            python=sys.executable,
            env={**inherited_environment(dict(os.environ)), **self._kernel_env(str(folder))},
            network="host",
            attempt=self.attempt,
        )
        return spec, engine, None

    def _container_spec(self, placed: Placement, runtime: Runtime, gpus: tuple[str, ...]) -> JobSpec:
        environment, folder = self.environment, self.folder.path
        ours = (Mount(str(folder), RUN_DIR), Mount(str(runtime.path), MOUNT_POINT, read_only=True))
        return JobSpec(
            id=self.kernel_id,
            role=Role.KERNEL,
            argv=tuple(kernel_argv(placed.facts)),
            workdir=placed.workdir(self.here, self.root),
            run_dir=str(folder),
            owner=self.owner.settings.owner,
            name=environment.name,
            environment=environment.name,
            instance=str(os.getpid()),
            image=placed.image.id,
            image_ref=environment.image,
            python=placed.facts.python,
            env={**placed.env, **self._kernel_env(RUN_DIR)},
            mounts=placed.mounts + ours,
            mask_dirs=placed.mask_dirs,
            mask_files=placed.mask_files,
            resources=environment.resources(),
            network=environment.network,
            identity=placed.identity,
            gpu_uuids=gpus,
            attempt=self.attempt,
            labels={POOL_LABEL: "1"} if self.pooled else {},
        )

    def _kernel_env(self, run_dir: str) -> dict[str, str]:
        return {
            "DLENV_API": f"{run_dir}/{API_SOCKET}",
            "DLENV_ENVIRONMENT": self.environment.name,
            "DLENV_OWNER_LOCK": f"{run_dir}/owner.lock",
            "DLENV_OWNER_GRACE": f"{self.owner.grace_s:g}",
            **({NOTEBOOK: self.notebook} if self.notebook else {}),
        }


def _warn_of_links(root: Path, here: Path, mounts: Sequence[Mount], log: logging.Logger) -> None:
    for folder in {root, here if here.is_dir() else root}:
        for link, end in leaving_links(folder, mounts):
            message = _("{link} is a link to {end}, which the container does not see. Add: {hint}")
            log.warning(message.format(link=link, end=end, hint=link_hint(end)))
