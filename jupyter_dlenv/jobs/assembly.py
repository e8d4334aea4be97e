"""RunRequest -> JobSpec: every decision between what a person typed and what the engine gets."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from .. import launchers
from ..engines.base import Engine
from ..engines.docker.engine import DockerEngine
from ..engines.docker.request import RUN_DIR, SHIM
from ..engines.process import inherited_environment
from ..engines.registry import load_engine
from ..engines.shim import FOLDER as SHIM_FOLDER
from ..errors import Denied, Unsupported
from ..gpus.asks import Ask
from ..i18n import _
from ..kernels.runtime import MOUNT_POINT, ensure_runtime
from ..launchers import Launch, Program
from ..options import RunRequest
from ..paths import data_dir, jobs_dir
from ..placement import Placement, place
from ..resources import GpuAccess, GpuGrant, GpuRequest, Mount
from ..settings import DLEnv
from ..spec import End, JobSpec, Part, Role
from ..workspace import find_root
from . import debugging
from .choices import (
    engine_name,
    gpu_request,
    image_of,
    mounts_of,
    network_of,
    own_command,
    refuse_roles,
    refuse_without_script,
    resources_of,
    time_left,
)
from .nodes import PORT, Nodes, nodes_of
from .ports import free_ports
from .principal import Principal
from .rdma import rdma_devices
from .records import JobFolder
from .target import Target, as_on_host, default_name, runs_python, target_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assembled:
    """A job that is ready to be submitted.

    Attributes:
        request: What was asked for, its paths those of the host.
        cwd: The working folder on the host.
        user_mounts: The folders that a person asked for, as the replicas see them.
        launches: What each replica here runs.
    """

    spec: JobSpec
    engine: Engine
    request: RunRequest
    cwd: Path
    target: Target
    user_mounts: tuple[Mount, ...]
    launches: tuple[Launch, ...]
    launcher: str
    nodes: Nodes

    @property
    def first_ranks(self) -> tuple[int, ...]:
        """For each replica here the rank of its first process in the whole job."""
        before = accumulate((processes_of(launch, self.spec.nproc_per_node) for launch in self.launches), initial=0)
        first = self.spec.node_rank * self.spec.nproc_per_node
        return tuple(first + count for count, _launch in zip(before, self.launches, strict=False))

    def ask(self) -> Ask:
        """Return what the job asks of the ledger.

        The values of ``-e KEY`` are in this process only, and so are the variables that a plain process inherits.
        """
        spec, on_host = self.spec, not self.engine.capabilities.images
        return Ask(
            id=spec.id,
            owner=spec.owner,
            role=spec.role.value,
            name=spec.name,
            request=gpu_request(self.request).for_replicas(spec.replicas),
            limit_s=spec.timeout_s,
            by_process=on_host or bool(self.request.secrets),
            on_host=on_host,
            folder=str(jobs_dir()),
            replicas=spec.replicas,
        )


@dataclass(frozen=True)
class _Place:
    """Where the replicas run: what containers and plain processes differ in.

    Attributes:
        run_dir: The run folder as a replica sees it; ``tools`` the folder of our own programs.
        own_command: The image's own command.
        debugpy: Folder that holds a debugpy for the replicas, empty where their Python has its own.
    """

    python: str
    env: Mapping[str, str]
    user_mounts: tuple[Mount, ...]
    run_dir: str
    tools: str
    own_command: tuple[str, ...] = ()
    own_workdir: str = ""
    debugpy: str = ""


async def assemble(
    request: RunRequest, principal: Principal, settings: DLEnv, folder: JobFolder, gpus: GpuGrant
) -> Assembled:
    """Return the job that a request describes, in its current attempt.

    Args:
        gpus: What was leased for it; without a lease what is returned can be looked at, and not be submitted.

    Raises:
        DLEnvError: The request cannot be met; the message says why and what can.
    """
    if request.notify and principal.kernel and principal.environment and principal.environment.engine != "process":
        raise Denied(
            _("--notify runs on the host, which a kernel in a container may not do (rule: notify)."),
            hint="c.DLEnv.notify_command",
        )
    engine = load_engine(engine_name(request, principal))
    if isinstance(engine, DockerEngine):
        return await _in_container(engine, request, principal, settings, folder, gpus)
    return await _as_process(engine, request, principal, folder, gpus)


async def _in_container(
    engine: DockerEngine,
    request: RunRequest,
    principal: Principal,
    settings: DLEnv,
    folder: JobFolder,
    gpus: GpuGrant,
) -> Assembled:
    image, environment = image_of(request, principal)
    cwd = Path(request.cwd or principal.root or os.getcwd())
    root = Path(principal.root) if principal.root else find_root(cwd, setting=settings.root)
    own = (principal.environment.typed_mounts() if principal.environment else ()) + mounts_of(request)
    placed = await place(engine, settings, image=image, environment=environment, root=root, mounts=own)
    if principal.kernel:
        cwd, request = as_on_host(request, cwd, placed.user_mounts)
    network = network_of(request, principal)
    nodes = nodes_of(request, network, free_ports() if network == "host" else PORT)
    where = _place_of(placed, request)
    launcher, target, launches = _launches(request, where, cwd, nodes, gpus, folder)
    ours = [Mount(str(folder.run), RUN_DIR), Mount(SHIM_FOLDER, SHIM, read_only=True)]
    if request.debug:
        runtime = await ensure_runtime(engine, placed.image.id, placed.facts, data_dir=data_dir(), progress=_LOG.info)
        ours.append(Mount(str(runtime.path), MOUNT_POINT, read_only=True))
    common = _common(request, principal, folder, target, launches, nodes, image)
    spec = replace(
        common,
        environment=environment,
        image=placed.image.id,
        image_ref=image,
        python=where.python,
        env=where.env,
        mounts=(*placed.mounts, *ours),
        mask_dirs=placed.mask_dirs,
        mask_files=placed.mask_files,
        resources=resources_of(request, principal),
        network=nodes.network,
        identity=placed.identity,
        gpus=gpus,
        nproc_per_node=processes_of(launches[0], _nproc(request, gpus, nodes)),
        rdma=rdma_devices() if request.rdma else (),
    )
    return Assembled(spec, engine, request, cwd, target, where.user_mounts, launches, launcher, nodes)


def _place_of(placed: Placement, request: RunRequest) -> _Place:
    env = {**placed.env, **request.env}
    command, workdir = placed.image.command, placed.image.workdir
    debugpy = f"{MOUNT_POINT}/site" if request.debug else ""
    return _Place(placed.facts.python, env, placed.user_mounts, RUN_DIR, SHIM, command, workdir, debugpy)


async def _as_process(
    engine: Engine, request: RunRequest, principal: Principal, folder: JobFolder, gpus: GpuGrant
) -> Assembled:
    if principal.environment and principal.environment.engine != engine.name:
        raise Denied(
            _("A kernel in a container may not start processes on its host (rule: engine)."),
            hint=_("Leave --engine out to run in the kernel's own image."),
        )
    for option, given in (("--image", request.image), ("--rdma", request.rdma)):
        if given:
            message = _("The process engine runs plain processes, so {option} has no meaning.")
            raise Unsupported(message.format(option=option))
    cwd = Path(request.cwd or principal.root or os.getcwd())
    python, run_dir = request.python or sys.executable, str(folder.run)
    nodes = nodes_of(request, "host", free_ports())
    base = {**inherited_environment(dict(os.environ)), "PYTHONUNBUFFERED": "1", **request.env, **gpus.env}
    where = _Place(python, {**os.environ, **request.env}, (Mount("/", "/"),), run_dir, SHIM_FOLDER)
    launcher, target, launches = _launches(request, where, cwd, nodes, gpus, folder)
    common = _common(request, principal, folder, target, launches, nodes, "")
    spec = replace(
        common,
        environment=principal.environment.name if principal.environment else "",
        python=python,
        env=base,
        mounts=mounts_of(request),
        resources=replace(resources_of(request, principal), gpus=GpuRequest()),
        network=request.network or "host",
        gpus=gpus,
        nproc_per_node=processes_of(launches[0], _nproc(request, gpus, nodes)),
    )
    return Assembled(spec, engine, request, cwd, target, where.user_mounts, launches, launcher, nodes)


def _common(
    request: RunRequest,
    principal: Principal,
    folder: JobFolder,
    target: Target,
    launches: tuple[Launch, ...],
    nodes: Nodes,
    image: str,
) -> JobSpec:
    """Return what a job is wherever it runs."""
    first = launches[0]
    parts = tuple(Part(launch.argv or launch.processes[0].argv, launch.env) for launch in launches)
    return JobSpec(
        id=request.request_id,
        role=Role.TRAINER,
        argv=parts[0].argv,
        parts=parts,
        workdir=target.workdir,
        run_dir=str(folder.run),
        owner=principal.owner,
        name=request.name or default_name(request, image),
        instance=str(os.getpid()),
        nnodes=nodes.nnodes,
        node_rank=nodes.first,
        replicas=nodes.replicas,
        ends=first.ends,
        rank_logs=first.rank_logs,
        timeout_s=time_left(request, folder),
        attempt=folder.attempt,
        labels={"submitter": principal.kernel},
    )


def _nproc(request: RunRequest, gpus: GpuGrant, nodes: Nodes) -> int:
    """Return the processes of each node: as asked, else one a GPU, unless the launcher starts one process anyway."""
    wanted = len(gpus.uuids) // nodes.replicas or gpu_request(request).count
    return request.nproc or (1 if request.launcher == "python" else max(wanted, 1))


def _launches(
    request: RunRequest, where: _Place, cwd: Path, nodes: Nodes, gpus: GpuGrant, folder: JobFolder
) -> tuple[str, Target, tuple[Launch, ...]]:
    """Return the launcher's name, what it runs, and how it does that in each replica here."""
    nproc = _nproc(request, gpus, nodes)
    refuse_without_script(request)
    if runs_python(request):
        kept = folder.code if folder.code.is_dir() else None
        target = target_of(request, cwd, where.user_mounts, where.run_dir, kept)
        name = request.launcher or launchers.choose(target.text, nproc, nodes.nnodes)
        refuse_roles(request, name)
    else:
        target = Target(own_command(where.own_command), "", where.own_workdir or "/")
        name = "own"
    env = _import_env(where.env, target)
    program = Program(
        python=where.python,
        argv=(*target.words, *request.args),
        nproc=nproc,
        run_dir=where.run_dir,
        env=env,
        nnodes=nodes.nnodes,
        addresses=nodes.addresses,
        port=nodes.port,
        servers=request.servers,
        workers=request.workers,
        gpus=len(gpus.uuids) // nodes.replicas,
        tools=where.tools,
    )
    launch = _launcher(request, where, nproc * nodes.nnodes)
    own = (replace(program, devices=_devices(gpus.of_replica(index))) for index in range(nodes.replicas))
    launches = (_on_node(launch, name, each, nodes, index, target) for index, each in enumerate(own))
    return name, target, tuple(launches)


def _devices(gpus: GpuGrant) -> tuple[str, ...]:
    """Return what CUDA calls leased GPUs, none where it shows no others and numbers these; MIG devices have names."""
    named = gpus.access is GpuAccess.HOST or any(uuid.startswith("MIG-") for uuid in gpus.uuids)
    return gpus.uuids if named else ()


def _launcher(request: RunRequest, where: _Place, world: int) -> Callable[[str, Program], Launch]:
    """Return what makes a node's launch, with one rank waiting for a debugger where that was asked for."""
    if not request.debug:
        return launchers.command
    return partial(debugging.command, rank=debugging.debug_rank(request.debug, world), debugpy=where.debugpy)


def processes_of(launch: Launch, nproc: int) -> int:
    """Return how many ranks a launcher starts on its node: its own, those side by side, or one.

    Servers have no rank where the others alone decide about the end; where the leader does, all are counted.
    """
    ranks = [process for process in launch.processes if launch.ends is End.LEADER or not process.serves]
    return len(ranks) or len(launch.processes) or (nproc if launch.rank_logs else 1)


def _on_node(
    launcher: Callable[[str, Program], Launch], name: str, program: Program, nodes: Nodes, index: int, target: Target
) -> Launch:
    run_dir = program.run_dir if index == 0 else f"{program.run_dir}/node-{index}"
    launch = launcher(name, replace(program, node_rank=nodes.first + index, run_dir=run_dir))
    path = {key: program.env[key] for key in ("PYTHONPATH",) if target.import_path}
    told = {
        "DLENV_NNODES": str(nodes.nnodes),
        "DLENV_NODE_RANK": str(nodes.first + index),
        "DLENV_MASTER_ADDR": nodes.addresses[0],
        "DLENV_MASTER_PORT": str(nodes.port),
    }
    return replace(launch, env={**path, **told, **launch.env})


def _import_env(env: Mapping[str, str], target: Target) -> Mapping[str, str]:
    """Return the variables with a cell's folder to import from: modules beside the notebook are found all the same."""
    if not target.import_path:
        return env
    path = ":".join(filter(None, [target.import_path, env.get("PYTHONPATH", "")]))
    return {**env, "PYTHONPATH": path}
