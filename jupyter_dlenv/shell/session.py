"""From a word to a shell: which container, made anew where none runs, and the terminal in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..engines.docker.terminal import HOLD, held_container, open_terminal
from ..engines.registry import load_engine
from ..errors import Conflict, EngineUnavailable, ImageNotFound, InvalidRequest, NotFound, UnusableImage
from ..gpus.asks import Ask
from ..gpus.lease import Lease
from ..gpus.leases import Leases
from ..i18n import _
from ..images.pull import pull_with_progress
from ..kernels.environments import Environment, EnvironmentManager
from ..placement import place
from ..resources import GpuRequest
from ..settings import DLEnv
from ..spec import JobSpec, Role, new_id
from ..workspace import find_root
from .relay import ended_by_signals, relay
from .targets import Kind, Target, choose, may_be_image_id, running

_BEST_SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
_TERM = re.compile(r"[A-Za-z0-9._+-]{1,64}")


def run_shell(word: str, settings: DLEnv, *, gpus: str = "") -> int:
    """Open a shell in what a word names, and return its exit status once it has ended.

    Args:
        gpus: GPUs of a new container, in place of the environment's own.

    Raises:
        DLEnvError: There is no such thing, or no shell in it.
    """
    target = asyncio.run(find(word, settings.owner))
    if target.job is not None:
        if gpus:
            raise InvalidRequest(_("{target} runs already, with the GPUs that it has.").format(target=target))
        return _in_running(target.name, target.job.engine, target.job.native_id)
    environment = _environment(target)
    if environment is not None and environment.engine == "process":
        return _on_host(environment.name)
    return _in_new(target, environment, settings, gpus)


async def find(word: str, owner: str) -> Target:
    """Return what a word names.

    Raises:
        NotFound: Nothing.
        InvalidRequest: Several things.
        EngineUnavailable: Nothing that is known without Docker, which does not answer.
    """
    names = [environment.name for environment in await asyncio.to_thread(EnvironmentManager().list)]
    if word in names:
        return Target(Kind.ENVIRONMENT, word)
    targets, unavailable = running(await load_engine("process").list(owner)), None
    try:
        docker = _docker()
        targets += [*running(await docker.list(owner)), *await _images(docker, word)]
    except EngineUnavailable as error:
        unavailable = error
    try:
        return choose(word, targets)
    except NotFound:
        if unavailable:
            raise unavailable from None
        raise


async def find_running(kind: Kind, job_id: str, owner: str) -> Target:
    """Return the kernel or job that runs under an id.

    Raises:
        NotFound: None does.
    """
    jobs = await load_engine("process").list(owner)
    with contextlib.suppress(EngineUnavailable):
        jobs += await _docker().list(owner)
    for target in running(jobs):
        if (target.kind, target.name) == (kind, job_id):
            return target
    raise NotFound(_("Nothing runs under the id {id}.").format(id=job_id), hint="jupyter dlenv jobs")


def _docker() -> DockerEngine:
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    return engine


async def _images(engine: DockerEngine, word: str) -> list[Target]:
    """Return the images that could be meant; a short id never is, because it may as well begin a kernel's."""
    found = [Target(Kind.IMAGE, info.ref) for info in await engine.images() if info.ref in (word, f"{word}:latest")]
    if found or not may_be_image_id(word):
        return found
    try:
        await engine.image(word)
    except ImageNotFound:
        return []
    return [Target(Kind.IMAGE, word)]


def _environment(target: Target) -> Environment | None:
    return EnvironmentManager().get(target.name) if target.kind is Kind.ENVIRONMENT else None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _on_host(name: str) -> int:
    """Become the person's own shell; there is no container to go into."""
    _say(_("No container: {name} runs as plain processes, so this is a shell on the host.").format(name=name))
    shell = os.environ.get("SHELL") or shutil.which("bash") or "/bin/sh"
    sys.stdout.flush()
    os.execvp(shell, [shell])


def _in_running(name: str, engine: str, container: str) -> int:
    if engine != "docker":
        return _on_host(name)
    with ended_by_signals():
        return _terminal(_docker(), container)


def _in_new(target: Target, environment: Environment | None, settings: DLEnv, gpus: str) -> int:
    engine = _docker()
    spec, lease = asyncio.run(_spec(engine, target, environment, settings, gpus))
    with ended_by_signals(), contextlib.closing(lease), held_container(engine, engine.plan(spec)) as container:
        try:
            return _terminal(engine, container)
        except Conflict as error:  # it has ended already: with Docker's own init, a command that is missing starts
            raise UnusableImage(
                _("The image {ref} has no /bin/sh, so it has no shell.").format(ref=spec.image_ref)
            ) from error


def _terminal(engine: DockerEngine, container: str) -> int:
    tty = os.isatty(0)
    with open_terminal(engine, container, _BEST_SHELL, tty=tty, env=_variables(tty)) as terminal:
        relay(terminal, terminal=tty)
        return terminal.exit_code()


def _variables(tty: bool) -> dict[str, str]:
    term = os.environ.get("TERM", "")
    return {"TERM": term if _TERM.fullmatch(term) else "xterm"} if tty else {}


async def _spec(
    engine: DockerEngine, target: Target, environment: Environment | None, settings: DLEnv, gpus: str
) -> tuple[JobSpec, Lease]:
    """Return a container placed as a kernel's is, that lives as long as somebody holds it, and its GPUs."""
    made = environment or Environment("image", image=target.name)
    await _require_image(engine, made.image, settings)
    here = Path.cwd()
    root = find_root(here, setting=settings.root)
    name = environment.name if environment else ""
    placed = await place(engine, settings, image=made.image, environment=name, root=root, mounts=made.typed_mounts())
    resources = made.resources()
    request = GpuRequest.parse(gpus) if gpus else resources.gpus
    shell_id = new_id()
    # At once or not at all: somebody sits there and waits.
    lease = await Leases(settings).now(Ask(shell_id, settings.owner, Role.SHELL.value, made.image, request))
    spec = JobSpec(
        id=shell_id,
        role=Role.SHELL,
        argv=HOLD,
        workdir=placed.workdir(here, root),
        run_dir="",
        owner=settings.owner,
        name=name or made.image,
        environment=name,
        instance=str(os.getpid()),
        image=placed.image.id,
        image_ref=made.image,
        python=placed.facts.python,
        env={**placed.env, **({"DLENV_ENVIRONMENT": name} if name else {})},
        mounts=placed.mounts,
        mask_dirs=placed.mask_dirs,
        mask_files=placed.mask_files,
        resources=resources,
        network=made.network,
        identity=placed.identity,
        gpus=lease.gpus,
    )
    return spec, lease


async def _require_image(engine: DockerEngine, ref: str, settings: DLEnv) -> None:
    """Pull an environment's missing image, unless told never to: somebody waits at a terminal and sees it."""
    try:
        await engine.image(ref)
    except ImageNotFound:
        if settings.pull == "never":
            raise
        await pull_with_progress(engine, ref, _say)
