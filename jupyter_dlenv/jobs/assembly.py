"""RunRequest -> JobSpec: every decision between what a person typed and what the engine gets."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import launchers
from ..atomic import write_text
from ..engines.base import Engine
from ..engines.docker.engine import DockerEngine
from ..engines.docker.request import RUN_DIR, SHIM
from ..engines.folder import RunFolder
from ..engines.process import inherited_environment
from ..engines.registry import load_engine
from ..engines.shim import __file__ as shim_file
from ..errors import Denied, InvalidRequest, Unsupported
from ..gpus.asks import Ask
from ..i18n import _
from ..images.reference import require_image
from ..launchers import Launch
from ..options import RunRequest
from ..paths import jobs_dir
from ..placement import place
from ..resources import GpuGrant, GpuRequest, Mount, Resources, parse_mount, parse_size
from ..settings import DLEnv
from ..spec import JobSpec, Role
from ..workspace import find_root, inside, leaving_link, link_hint
from .principal import Principal
from .records import JobFolder, JobRecord

_CELL = "cell.py"
_HERE = "here"
_SCRIPT_LIMIT = 1 << 20


@dataclass(frozen=True)
class Assembled:
    """A job that is ready to be submitted.

    Attributes:
        cell: Source of a ``%%dlrun`` cell, empty for a script.
    """

    spec: JobSpec
    engine: Engine
    launch: Launch
    launcher: str
    secrets: Mapping[str, str]
    cell: str

    def record(self, request: RunRequest, principal: Principal) -> JobRecord:
        """Return what is kept of the request."""
        return JobRecord(
            id=self.spec.id,
            name=self.spec.name,
            owner=self.spec.owner,
            engine=self.engine.name,
            command=command_text(request),
            launcher=self.launcher,
            nproc=self.spec.nproc_per_node,
            image=self.spec.image_ref,
            environment=self.spec.environment,
            kernel=principal.kernel,
            memory_bytes=self.spec.resources.memory_bytes or 0,
            timeout_s=self.spec.timeout_s,
        )

    def ask(self, request: GpuRequest) -> Ask:
        """Return what the job asks of the ledger.

        The values of ``-e KEY`` are in this process only, and so are the variables that a plain process inherits.
        """
        spec, on_host = self.spec, not self.engine.capabilities.images
        return Ask(
            id=spec.id,
            owner=spec.owner,
            role=spec.role.value,
            name=spec.name,
            request=request,
            limit_s=spec.timeout_s,
            by_process=on_host or bool(self.secrets),
            on_host=on_host,
            folder=str(jobs_dir()),
        )

    def prepare_folder(self) -> None:
        """Write what the shim reads; the values of ``-e KEY`` go into a file that it removes at once."""
        run = RunFolder(Path(self.spec.run_dir))
        owner = self.spec.identity
        give = os.geteuid() == 0
        run.create(*((owner.uid, owner.gid) if owner and give else ()))
        if self.cell:
            write_text(run.path / _CELL, self.cell, mode=0o644)
            os.symlink(self.spec.workdir, run.path / _HERE)
        run.write_launch(
            argv=self.launch.argv,
            cwd=self.spec.workdir,
            env=dict(self.launch.env),
            timeout_s=self.spec.timeout_s,
            rank_logs=self.launch.rank_logs,
        )
        if self.secrets:
            run.write_secrets(dict(self.secrets))

    def forget_secrets(self) -> None:
        """Remove the values of ``-e KEY`` of a job that never started."""
        (Path(self.spec.run_dir) / "secrets.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Target:
    """What to run as the replica sees it: a script or a module, and its text where it can be read."""

    script: str
    module: str
    text: str
    workdir: str


def import_folder(workdir: str, run_dir: str) -> str:
    """Return the working folder as PYTHONPATH can name it: by a link of ours where its own name holds a colon."""
    return f"{run_dir}/{_HERE}" if ":" in workdir else workdir


def command_text(request: RunRequest) -> str:
    """Return what the user asked to run, as one line."""
    what = ["-m", request.module] if request.module else [request.script or _CELL]
    return shlex.join([*what, *request.args])


async def assemble(
    request: RunRequest, principal: Principal, settings: DLEnv, folder: JobFolder, gpus: GpuGrant
) -> Assembled:
    """Return the job that a request describes.

    Args:
        gpus: What was leased for it; without a lease what is returned can be looked at, and not be submitted.

    Raises:
        DLEnvError: The request cannot be met; the message says why and what can.
    """
    if not (request.script or request.module or request.cell):
        raise InvalidRequest(_("Nothing to run: name a script or -m MODULE."), hint="%dlrun train.py --nproc 2")
    engine = load_engine(_engine_name(request, principal))
    if isinstance(engine, DockerEngine):
        return await _in_container(engine, request, principal, settings, folder, gpus)
    return await _as_process(engine, request, principal, settings, folder, gpus)


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
    resources = _resources(request, principal)
    cwd = Path(request.cwd or principal.root or os.getcwd())
    root = Path(principal.root) if principal.root else find_root(cwd, setting=settings.root)
    own = (principal.environment.typed_mounts() if principal.environment else ()) + _mounts(request)
    placed = await place(engine, settings, image=image, environment=environment, root=root, mounts=own)
    if principal.kernel:
        cwd, request = _as_on_host(request, cwd, placed.user_mounts)
    target = _target(request, cwd, placed.user_mounts, RUN_DIR)
    nproc = _nproc(request, gpus)
    launcher, launch = _launch(request, target, placed.facts.python, nproc, RUN_DIR, {**placed.env, **request.env})
    ours = (Mount(str(folder.run), RUN_DIR), Mount(shim_file, SHIM, read_only=True))
    spec = JobSpec(
        id=request.request_id,
        role=Role.TRAINER,
        argv=tuple(launch.argv),
        workdir=target.workdir,
        run_dir=str(folder.run),
        owner=principal.owner,
        name=request.name or _default_name(request),
        environment=environment,
        instance=str(os.getpid()),
        image=placed.image.id,
        image_ref=image,
        python=placed.facts.python,
        env={**placed.env, **request.env},
        mounts=placed.mounts + ours,
        mask_dirs=placed.mask_dirs,
        mask_files=placed.mask_files,
        resources=resources,
        network=_network(request, principal),
        identity=placed.identity,
        gpus=gpus,
        nproc_per_node=nproc,
        rank_logs=launch.rank_logs,
        timeout_s=request.timeout,
        labels={"submitter": principal.kernel},
    )
    return Assembled(spec, engine, launch, launcher, request.secrets, request.cell)


async def _as_process(
    engine: Engine,
    request: RunRequest,
    principal: Principal,
    settings: DLEnv,
    folder: JobFolder,
    gpus: GpuGrant,
) -> Assembled:
    if principal.environment and principal.environment.engine != engine.name:
        raise Denied(
            _("A kernel in a container may not start processes on its host (rule: engine)."),
            hint=_("Leave --engine out to run in the kernel's own image."),
        )
    if request.image:
        raise Unsupported(_("The process engine runs plain processes, so --image has no meaning."))
    resources = _resources(request, principal)
    cwd = Path(request.cwd or principal.root or os.getcwd())
    run_dir = str(folder.run)
    target = _target(request, cwd, (Mount("/", "/"),), run_dir)
    python = request.python or sys.executable
    nproc = _nproc(request, gpus)
    launcher, launch = _launch(request, target, python, nproc, run_dir, {**os.environ, **request.env})
    spec = JobSpec(
        id=request.request_id,
        role=Role.TRAINER,
        argv=tuple(launch.argv),
        workdir=target.workdir,
        run_dir=run_dir,
        owner=principal.owner,
        name=request.name or _default_name(request),
        environment=principal.environment.name if principal.environment else "",
        instance=str(os.getpid()),
        python=python,
        env={**inherited_environment(dict(os.environ)), "PYTHONUNBUFFERED": "1", **request.env, **gpus.env},
        mounts=_mounts(request),
        resources=replace(resources, gpus=GpuRequest()),
        network=request.network or "host",
        gpus=gpus,
        nproc_per_node=nproc,
        rank_logs=launch.rank_logs,
        timeout_s=request.timeout,
        labels={"submitter": principal.kernel},
    )
    return Assembled(spec, engine, launch, launcher, request.secrets, request.cell)


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
    if principal.kernel and own == "none" and request.network not in ("", "none"):
        raise Denied(
            _("A kernel without network may not start jobs that have one (rule: network)."),
            hint=_("Make an environment with a network: jupyter dlenv env add NAME --image REF --network bridge"),
        )
    return request.network or own


def _resources(request: RunRequest, principal: Principal) -> Resources:
    own = principal.environment.resources() if principal.environment else Resources()
    return Resources(
        gpus=gpu_request(request),
        cpus=request.cpus or own.cpus,
        memory_bytes=parse_size(request.memory) if request.memory else own.memory_bytes,
        shm_bytes=parse_size(request.shm_size) if request.shm_size else own.shm_bytes,
    )


def gpu_request(request: RunRequest) -> GpuRequest:
    """Return which GPUs a request is about.

    Raises:
        InvalidRequest: What was typed cannot be read.
    """
    return GpuRequest.typed(request.gpus, request.gpu_memory, shared=request.shared)


def _mounts(request: RunRequest) -> tuple[Mount, ...]:
    return tuple(map(parse_mount, request.mounts))


def _default_name(request: RunRequest) -> str:
    return request.module or Path(request.script or _CELL).name


def _target(request: RunRequest, cwd: Path, mounts: tuple[Mount, ...], run_dir: str) -> _Target:
    workdir = seen_in_container(cwd, mounts, _("The working folder"))
    if request.cell:
        return _Target(f"{run_dir}/{_CELL}", "", request.cell, workdir)
    if request.module:
        return _Target("", request.module, _module_text(request.module, cwd), workdir)
    path = Path(os.path.normpath(cwd / request.script))
    script = seen_in_container(path, mounts, _("The script"))
    if path.is_dir():
        raise InvalidRequest(_("{path} is a folder, not a script.").format(path=path), hint=f"ls '{path}'")
    if not path.is_file():
        raise InvalidRequest(_("There is no script {path}.").format(path=path), hint=f"ls '{path.parent}'")
    return _Target(script, "", _text(path), workdir)


def on_host(path: Path, mounts: Sequence[Mount]) -> Path:
    """Return where a path that a kernel in a container names lies on the host; the deepest mount decides."""
    over = [mount for mount in mounts if inside(str(path), mount.target)]
    deepest = max(over, key=lambda mount: len(mount.target), default=None)
    return Path(deepest.source, os.path.relpath(path, deepest.target)) if deepest else path


def _as_on_host(request: RunRequest, cwd: Path, mounts: Sequence[Mount]) -> tuple[Path, RunRequest]:
    """Return working folder and request with the paths of a kernel in a container turned into the host's."""
    script = on_host(Path(os.path.normpath(cwd / request.script)), mounts) if request.script else ""
    return on_host(cwd, mounts), replace(request, script=str(script))


def seen_in_container(path: Path, mounts: tuple[Mount, ...], what: str) -> str:
    """Return where a host path lies in the container.

    Raises:
        InvalidRequest: No mount shows it, or a link on the way leaves them all.
    """
    link = leaving_link(str(path), mounts)
    if link:
        raise InvalidRequest(
            _("{link} is a link to {end}, which no mount shows.").format(link=link[0], end=link[1]),
            hint=link_hint(link[1]),
        )
    for mount in mounts:
        if inside(str(path), mount.source):
            return os.path.normpath(os.path.join(mount.target, os.path.relpath(path, mount.source)))
    shown = ", ".join(mount.target for mount in mounts)
    message = _("{what} {path} lies outside what the container sees ({shown}).")
    raise InvalidRequest(message.format(what=what, path=path, shown=shown), hint=link_hint(str(path)))


def _text(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_SCRIPT_LIMIT)


def _module_text(module: str, cwd: Path) -> str:
    base = cwd / Path(*module.split("."))
    found = [path for path in (base.with_suffix(".py"), base / "__main__.py") if path.is_file()]
    return _text(found[0]) if found else ""


def _nproc(request: RunRequest, gpus: GpuGrant) -> int:
    """Return the processes of each node: as asked, else one a GPU, unless the launcher starts one process anyway."""
    return request.nproc or (1 if request.launcher == "python" else max(len(gpus.uuids), 1))


def _launch(
    request: RunRequest, target: _Target, python: str, nproc: int, run_dir: str, env: Mapping[str, str]
) -> tuple[str, Launch]:
    name = request.launcher or ("torchrun" if nproc > 1 else launchers.choose(target.text))
    launch = launchers.command(
        name,
        python=python,
        script=target.script,
        module=target.module,
        args=request.args,
        nproc=nproc,
        run_dir=run_dir,
        env=env,
    )
    if request.cell:
        # The cell lies in the job's folder; modules beside the notebook are imported all the same.
        path = ":".join(filter(None, [import_folder(target.workdir, run_dir), env.get("PYTHONPATH", "")]))
        launch = replace(launch, env={**launch.env, "PYTHONPATH": path})
    return name, launch
