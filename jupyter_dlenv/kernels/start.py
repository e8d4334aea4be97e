"""What one start of a kernel needs: image, placement, runtime and GPUs, and the spec made from them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..engines.process import ProcessEngine, inherited_environment
from ..engines.registry import load_engine
from ..errors import ImageNotFound
from ..gpus.asks import Ask
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..gpus.schedule import Place
from ..i18n import _
from ..images.pull import pull_with_progress
from ..paths import API_SOCKET, data_dir
from ..placement import Placement, place
from ..resources import GpuGrant, Mount
from ..spec import CONTAINER_ROOT, Identity, JobSpec, Role
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
class Prepared:
    """What is to run, and what was taken for it.

    Attributes:
        identity: Who it is, None for this process's own account.
        lease: The kernel's GPUs, which whoever gets this gives back.
    """

    spec: JobSpec
    engine: DockerEngine | ProcessEngine
    identity: Identity | None = None
    lease: Lease = field(default_factory=Lease)


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
        lease: The GPUs of the start before, None to lease some.
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
    lease: Lease | None = None

    async def prepare(self) -> Prepared:
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

    async def container(self) -> Prepared:
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
        lease = await self._lease()
        return Prepared(self._container_spec(placed, runtime, lease.gpus), engine, placed.identity, lease)

    async def _lease(self) -> Lease:
        """Return the kernel's GPUs as soon as there are enough; a pool stands in nobody's way."""
        leases = Leases(self.owner.settings)
        if self.lease is not None:
            same = self.lease.request == self.environment.resources().gpus
            if same and (self.lease.open or not self.lease.gpus.uuids):
                return await leases.granted_anew(self.ask(), self.lease)
            self.lease.close()  # the environment asks for others now
        if self.pooled:
            return await leases.now(self.ask())
        return await leases.wait(self.ask(), self._queued, self.owner.settings.gpu_wait)

    def ask(self) -> Ask:
        """Return what the kernel asks of the ledger."""
        return self.environment.ask(self.kernel_id, self.owner.settings.owner)

    def _queued(self, place: Place) -> None:
        self.owner.say(place.reason)
        self.report(Phase.QUEUED, place.reason)

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

    async def process(self) -> Prepared:
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
        return Prepared(spec, engine)

    def _container_spec(self, placed: Placement, runtime: Runtime, gpus: GpuGrant) -> JobSpec:
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
            gpus=gpus,
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
