"""RunRequest -> JobSpec: every decision between what a person typed and what the engine gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from .. import launchers
from ..engines.base import Engine
from ..engines.docker.engine import DockerEngine
from ..engines.docker.request import RUN_DIR, SHIM
from ..engines.process import inherited_environment
from ..engines.registry import load_engine
from ..engines.shim import FOLDER as SHIM_FOLDER
from ..errors import Denied, InvalidRequest, Unsupported
from ..gpus.asks import Ask
from ..i18n import _
from ..images.reference import require_image
from ..launchers import Launch, Program
from ..options import RunRequest
from ..paths import jobs_dir
from ..placement import Placement, place
from ..resources import GpuGrant, GpuRequest, Mount, Resources, parse_mount, parse_size
from ..settings import DLEnv
from ..spec import End, JobSpec, Part, Role
from ..workspace import find_root
from .nodes import PORT, Nodes, nodes_of
from .ports import free_ports
from .principal import Principal
from .rdma import rdma_devices
from .records import JobFolder
from .target import Target, as_on_host, default_name, runs_python, target_of

_SHELLS = frozenset(("ash", "bash", "dash", "ipython", "python", "python3", "sh", "zsh"))


@dataclass(frozen=True)
class Assembled:
    """A job that is ready to be submitted.

    Attributes:
        request: What was asked for, its paths those of the host.
        cwd: The working folder on the host.
        launches: What each replica here runs.
    """

    spec: JobSpec
    engine: Engine
    request: RunRequest
    cwd: Path
    target: Target
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
    """

    python: str
    env: Mapping[str, str]
    user_mounts: tuple[Mount, ...]
    run_dir: str
    tools: str
    own_command: tuple[str, ...] = ()
    own_workdir: str = ""


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
    engine = load_engine(_engine_name(request, principal))
    if isinstance(engine, DockerEngine):
        return await _in_container(engine, request, principal, settings, folder, gpus)
    return await _as_process(engine, request, principal, folder, gpus)


def _engine_name(request: RunRequest, principal: Principal) -> str:
    if request.engine:
        return request.engine
    if request.image:
        return "docker"
    return principal.environment.engine if principal.environment else "process"


async def _in_container(
    engine: DockerEngine,
    request: RunRequest,
    principal: Principal,
    settings: DLEnv,
    folder: JobFolder,
    gpus: GpuGrant,
) -> Assembled:
    image, environment = _image(request, principal)
    cwd = Path(request.cwd or principal.root or os.getcwd())
    root = Path(principal.root) if principal.root else find_root(cwd, setting=settings.root)
    own = (principal.environment.typed_mounts() if principal.environment else ()) + _mounts(request)
    placed = await place(engine, settings, image=image, environment=environment, root=root, mounts=own)
    if principal.kernel:
        cwd, request = as_on_host(request, cwd, placed.user_mounts)
    network = _network(request, principal)
    nodes = nodes_of(request, network, free_ports() if network == "host" else PORT)
    where = _place_of(placed, request)
    launcher, target, launches = _launches(request, where, cwd, nodes, gpus, folder)
    ours = (Mount(str(folder.run), RUN_DIR), Mount(SHIM_FOLDER, SHIM, read_only=True))
    common = _common(request, principal, folder, target, launches, nodes, image)
    spec = replace(
        common,
        environment=environment,
        image=placed.image.id,
        image_ref=image,
        python=where.python,
        env=where.env,
        mounts=placed.mounts + ours,
        mask_dirs=placed.mask_dirs,
        mask_files=placed.mask_files,
        resources=_resources(request, principal),
        network=nodes.network,
        identity=placed.identity,
        gpus=gpus,
        nproc_per_node=processes_of(launches[0], _nproc(request, gpus, nodes)),
        rdma=rdma_devices() if request.rdma else (),
    )
    return Assembled(spec, engine, request, cwd, target, launches, launcher, nodes)


def _place_of(placed: Placement, request: RunRequest) -> _Place:
    env = {**placed.env, **request.env}
    command, workdir = placed.image.command, placed.image.workdir
    return _Place(placed.facts.python, env, placed.user_mounts, RUN_DIR, SHIM, command, workdir)


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
    nodes = nodes_of(request, "host", free_ports() if request.nodes > 1 else PORT)
    base = {**inherited_environment(dict(os.environ)), "PYTHONUNBUFFERED": "1", **request.env, **gpus.env}
    where = _Place(python, {**os.environ, **request.env}, (Mount("/", "/"),), run_dir, SHIM_FOLDER)
    launcher, target, launches = _launches(request, where, cwd, nodes, gpus, folder)
    common = _common(request, principal, folder, target, launches, nodes, "")
    spec = replace(
        common,
        environment=principal.environment.name if principal.environment else "",
        python=python,
        env=base,
        mounts=_mounts(request),
        resources=replace(_resources(request, principal), gpus=GpuRequest()),
        network=request.network or "host",
        gpus=gpus,
        nproc_per_node=processes_of(launches[0], _nproc(request, gpus, nodes)),
    )
    return Assembled(spec, engine, request, cwd, target, launches, launcher, nodes)


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
        timeout_s=_time_left(request, folder),
        attempt=folder.attempt,
        labels={"submitter": principal.kernel},
    )


def _time_left(request: RunRequest, folder: JobFolder) -> float | None:
    """Return what is left of the time limit, which holds for all attempts together."""
    if request.timeout is None:
        return None
    used = sum(
        max((final.status.finished_at or 0) - (final.status.started_at or final.status.finished_at or 0), 0)
        for final in folder.ended_attempts()
    )
    return max(request.timeout - used, 1.0)


def _image(request: RunRequest, principal: Principal) -> tuple[str, str]:
    """Return the image and the environment whose packages belong to it; another image has packages of its own."""
    own = principal.environment
    if request.image and not (own and request.image == own.image):
        return require_image(request.image), ""
    if own and own.image:
        return own.image, own.name
    raise InvalidRequest(_("Which image? This kernel has none of its own."), hint="%dlrun train.py --image REF")


def _network(request: RunRequest, principal: Principal) -> str:
    own = principal.environment.network if principal.environment else "bridge"
    asked = request.network or ("host" if request.master and own != "none" else "")
    if principal.kernel and own == "none" and (asked not in ("", "none") or request.master):
        raise Denied(
            _("A kernel without network may not start jobs that have one (rule: network)."),
            hint=_("Make an environment with a network: jupyter dlenv env add NAME --image REF --network bridge"),
        )
    return asked or own


def _resources(request: RunRequest, principal: Principal) -> Resources:
    own = principal.environment.resources() if principal.environment else Resources()
    return Resources(
        gpus=gpu_request(request),
        cpus=request.cpus or own.cpus,
        memory_bytes=parse_size(request.memory) if request.memory else own.memory_bytes,
        shm_bytes=parse_size(request.shm_size) if request.shm_size else own.shm_bytes,
    )


def gpu_request(request: RunRequest) -> GpuRequest:
    """Return which GPUs a request is about, for each node.

    Raises:
        InvalidRequest: What was typed cannot be read.
    """
    return GpuRequest.typed(request.gpus, request.gpu_memory, shared=request.shared)


def _mounts(request: RunRequest) -> tuple[Mount, ...]:
    return tuple(map(parse_mount, request.mounts))


def _nproc(request: RunRequest, gpus: GpuGrant, nodes: Nodes) -> int:
    """Return the processes of each node: as asked, else one a GPU, unless the launcher starts one process anyway."""
    wanted = len(gpus.uuids) // nodes.replicas or gpu_request(request).count
    return request.nproc or (1 if request.launcher == "python" else max(wanted, 1))


def _launches(
    request: RunRequest, where: _Place, cwd: Path, nodes: Nodes, gpus: GpuGrant, folder: JobFolder
) -> tuple[str, Target, tuple[Launch, ...]]:
    """Return the launcher's name, what it runs, and how it does that in each replica here."""
    nproc = _nproc(request, gpus, nodes)
    if runs_python(request):
        kept = folder.code if folder.code.is_dir() else None
        target = target_of(request, cwd, where.user_mounts, where.run_dir, kept)
        name = request.launcher or launchers.choose(target.text, nproc, nodes.nnodes)
    else:
        target = Target(_own_command(where.own_command), "", where.own_workdir or "/")
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
    launches = (_on_node(name, program, nodes, index, target) for index in range(nodes.replicas))
    return name, target, tuple(launches)


def processes_of(launch: Launch, nproc: int) -> int:
    """Return how many ranks a launcher starts on its node: its own, those side by side, or one.

    Servers have no rank where the others alone decide about the end; where the leader does, all are counted.
    """
    ranks = [process for process in launch.processes if launch.ends is End.LEADER or not process.serves]
    return len(ranks) or len(launch.processes) or (nproc if launch.rank_logs else 1)


def _on_node(name: str, program: Program, nodes: Nodes, index: int, target: Target) -> Launch:
    run_dir = program.run_dir if index == 0 else f"{program.run_dir}/node-{index}"
    launch = launchers.command(name, replace(program, node_rank=nodes.first + index, run_dir=run_dir))
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


def _own_command(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the image's own command.

    Raises:
        InvalidRequest: It has none, or one that waits for somebody who types.
    """
    if not command or (len(command) == 1 and os.path.basename(command[0]) in _SHELLS):
        raise InvalidRequest(
            _("Nothing to run: name a script or -m MODULE; the image has no command of its own."),
            hint="%dlrun train.py --nproc 2",
        )
    return command
