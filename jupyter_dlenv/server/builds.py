"""Builds for callers of the API: who may name what, the builder's words as frames, and the environment afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.docker.failures import image_missing
from ..engines.docker.images import DockerImages
from ..engines.registry import load_engine
from ..errors import BuildFailed, Conflict, Denied, DLEnvError, EnvironmentNotFound, InvalidRequest, StartFailed
from ..i18n import _
from ..images import build as images
from ..images.build import Building, BuildPlan, BuildRequest, BuildStep, ImageAbout
from ..jobs.principal import Principal
from ..kernels.environments import Environment, EnvironmentManager
from ..spec import JobState

_BEAT_S = 1.0
_WAITING_STEPS = 512


@dataclass(frozen=True)
class Built:
    """What a build left.

    Attributes:
        environment: What uses the image now, empty when nothing does.
        changed: Whether it used another before.
        cached: Whether the image was there already.
    """

    image: str
    tag: str
    environment: str = ""
    changed: bool = False
    cached: bool = False


@dataclass(frozen=True)
class BuildFrame:
    """A piece of a build's log; the last one holds what was built, or why nothing was."""

    data: bytes = b""
    open_lines: Mapping[str, str] = field(default_factory=dict)
    state: JobState = JobState.RUNNING
    built: Built | None = None
    error: DLEnvError | None = None

    def to_bytes(self) -> bytes:
        """Return the frame for the wire, in the form of a job's log."""
        head: dict[str, Any] = {
            "cursor": "",
            "bytes": len(self.data),
            "open_lines": dict(self.open_lines),
            "state": self.state.value,
        }
        if self.built is not None:
            head["build"] = asdict(self.built)
        if self.error is not None:
            head["error"] = self.error.to_json()
        return json.dumps(head, ensure_ascii=False).encode("utf-8", "replace") + b"\n" + self.data


Frames = AsyncIterator[BuildFrame]


def kernel_environment(principal: Principal) -> Environment | None:
    """Return the environment of the container whose code asks, None when a person or a plain process does."""
    own = principal.environment
    return own if own is not None and own.engine != "process" else None


@dataclass(frozen=True)
class _Order:
    """A build, decided.

    Attributes:
        tag: What the image is called when it is done.
        environment: What is to use it; empty for nothing.
        before: That environment as it was; None where it is new.
        base: What the image must be made from, where not just anything will do.
    """

    plan: BuildPlan
    tag: str
    environment: str = ""
    before: Environment | None = None
    base: ImageAbout | None = None


class Builds:
    """Builds images, and lets environments use them.

    Args:
        owner: Whose name is on what is built.
    """

    def __init__(self, owner: str, environments: EnvironmentManager) -> None:
        self._owner, self._environments = owner, environments

    async def start(self, principal: Principal, request: BuildRequest) -> Frames:
        """Return the frames of a build that has begun, or of one whose image was there already.

        Raises:
            DLEnvError: Nothing was begun.
        """
        own = kernel_environment(principal)
        if own is not None and own.network == "none":
            raise Denied(
                _("A kernel without network may not build images (rule: network)."),
                hint="jupyter dlenv build DOCKERFILE -t NAME",
            )
        store = await asyncio.to_thread(DockerImages.connect)
        if request.apt:
            return await self._add_packages(store, principal, request)
        return self._run(store, await asyncio.to_thread(self._order, store, principal, request))

    # A Dockerfile -----------------------------------------------------------------------------------------------------

    def _order(self, store: DockerImages, principal: Principal, request: BuildRequest) -> _Order:
        own = kernel_environment(principal)
        before = self._writable(own, request.environment) if request.environment else None
        tag = images.build_tag(request.tag, request.environment or (own.name if own else ""))
        self._require_tag(store, own, tag, request.environment)
        base = _about(store, before.image) if own is not None and before is not None else None
        image = self._image_of(request.environment or (own.name if own else ""), own)
        plan = BuildPlan(
            request.dockerfile,
            images.labels_of(self._owner, own.name if own else request.environment),
            images.build_args(request.dockerfile, image, request.build_args, os.environ),
            request.context,
            request.no_cache,
        )
        return _Order(plan, tag, request.environment, before, base)

    def _writable(self, own: Environment | None, name: str) -> Environment | None:
        """Return the environment of a name, which the caller may change; None where there is none yet.

        Raises:
            Denied: A kernel asks for one that is not its own.
            InvalidRequest: It has no image.
        """
        try:
            found = self._environments.get(name)
        except EnvironmentNotFound:
            return None
        if own is not None and own.name != name:
            raise Denied(
                _("The environment {name} exists; a kernel may not change it (rule: environment).").format(name=name),
                hint=_(
                    "Choose another name, or build at a terminal: jupyter dlenv build DOCKERFILE --env {name}"
                ).format(name=name),
            )
        if found.engine == "process":
            raise InvalidRequest(_("The environment {name} has no container, so no image.").format(name=name))
        return found

    def _require_tag(self, store: DockerImages, own: Environment | None, tag: str, environment: str) -> None:
        there = store.about(tag)
        images.require_free_tag(tag, there, self._owner, own.name if own else None)
        users = [item.name for item in self._environments.list() if item.image == tag and item.name != environment]
        if own is not None and users:
            raise Denied(
                _(
                    "{tag} is the image of the environment {name}, which a kernel may not change (rule: image name)."
                ).format(tag=tag, name=users[0]),
                hint=_("Choose another name: %%dlbuild -t NAME"),
            )

    def _image_of(self, name: str, own: Environment | None) -> str:
        known = {item.name: item.image for item in self._environments.list()}
        return known.get(name, "") or (own.image if own else "")

    # Debian packages --------------------------------------------------------------------------------------------------

    async def _add_packages(self, store: DockerImages, principal: Principal, request: BuildRequest) -> Frames:
        own = kernel_environment(principal)
        name = request.environment or (own.name if own else "")
        if not name:
            raise InvalidRequest(
                _("Which environment? This kernel runs in no container."), hint="%dlapt --env NAME PACKAGE"
            )
        before = await asyncio.to_thread(self._writable, own, name)
        if before is None:
            self._environments.get(name)  # raises, and names those that there are
            raise EnvironmentNotFound(name)
        base = await asyncio.to_thread(_about, store, before.image)
        had = images.installed_by_us(base)
        wanted = sorted(set(request.apt) - (set() if request.no_cache else set(had)))
        if not wanted:
            return _at_once(Built(base.id, before.image, name, cached=True))
        labels = images.labels_of(self._owner, name, sorted({*had, *wanted}))
        tag = images.apt_tag(name, base, wanted)
        there = await asyncio.to_thread(store.about, tag)
        images.require_free_tag(tag, there, self._owner, own.name if own else None)
        args = images.build_args("", "", request.build_args, os.environ)
        plan = BuildPlan(images.apt_dockerfile(base, wanted), labels, args, no_cache=request.no_cache)
        order = _Order(plan, tag, name, before, base)
        if there and not request.no_cache and there.derived_from(base) and labels.items() <= dict(there.labels).items():
            return _at_once(await asyncio.to_thread(self._finish, store, order, there.id, cached=True))
        images.require_apt(before.image, await _installer(base.id))
        return self._run(store, order)

    # To the end -------------------------------------------------------------------------------------------------------

    async def _run(self, store: DockerImages, order: _Order) -> Frames:
        reader = _Reader(store.building(order.plan))
        reader.start()
        try:
            async for frame in reader.frames():
                yield frame
            built = await asyncio.to_thread(self._finish, store, order, reader.image)
            yield BuildFrame(state=JobState.SUCCEEDED, built=built)
        except DLEnvError as error:
            yield BuildFrame(state=JobState.FAILED, error=error)
        finally:
            reader.stop()

    def _finish(self, store: DockerImages, order: _Order, image: str, *, cached: bool = False) -> Built:
        """Name what was built and let the environment use it."""
        if order.base is not None and not _about(store, image).derived_from(order.base):
            raise Denied(
                _("A kernel's own environment may only get an image that is made from its own (rule: environment)."),
                hint=_("Begin with: ARG {arg} and FROM ${arg}; or choose a new name: --env NAME").format(
                    arg=images.OWN_IMAGE
                ),
            )
        store.tag(image, order.tag)
        if not order.environment:
            return Built(image, order.tag, cached=cached)
        self._point(order)
        return Built(image, order.tag, order.environment, changed=True, cached=cached)

    def _point(self, order: _Order) -> None:
        known = {item.name: item for item in self._environments.list()}
        now = known.get(order.environment)
        if (now.image if now else "") != (order.before.image if order.before else ""):
            raise Conflict(
                _("The environment {name} was changed while {tag} was built; it stays as it is.").format(
                    name=order.environment, tag=order.tag
                ),
                hint=f"jupyter dlenv env add {order.environment} --image {order.tag}",
            )
        new = replace(now, image=order.tag) if now else Environment(order.environment, order.tag)
        self._environments.put(new)


def _about(store: DockerImages, ref: str) -> ImageAbout:
    found = store.about(ref)
    if found is None:
        raise image_missing(ref)
    return found


async def _installer(image_id: str) -> str:
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    try:
        _code, output = await engine.run_short(image_id, ["/bin/sh", "-c", images.FIND_INSTALLER])
    except StartFailed:  # not even a shell
        return ""
    return output.decode(errors="replace")


async def _at_once(built: Built) -> Frames:
    yield BuildFrame(state=JobState.SUCCEEDED, built=built)


class _Reader(threading.Thread):
    """Reads the builder, which blocks, and hands on what it said.

    A thread of its own, which nobody waits for at the end of the process.
    """

    def __init__(self, building: Building) -> None:
        super().__init__(name="dlenv-build", daemon=True)
        self.image = ""
        self._building = building
        self._said: queue.Queue[BuildStep | DLEnvError | None] = queue.Queue(_WAITING_STEPS)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Read to the end."""
        last: DLEnvError | None = None
        try:
            for step in self._building.steps():
                self._put(step)
        except DLEnvError as error:
            last = error
        self._put(last)

    def _put(self, item: BuildStep | DLEnvError | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._said.put(item, timeout=_BEAT_S)
            except queue.Full:
                continue

    def stop(self) -> None:
        """End the build where it has not ended."""
        self._stopped.set()
        self._building.stop()

    async def frames(self) -> Frames:
        """Yield what was said, at least once a second.

        Raises:
            DLEnvError: The build failed.
        """
        ended = False
        while not ended:
            items = await asyncio.to_thread(self._batch)
            steps = [item for item in items if isinstance(item, BuildStep)]
            self.image = next((step.image for step in steps if step.image), self.image)
            progress = next((step.progress for step in reversed(steps) if step.progress or step.text), "")
            text = "".join(step.text for step in steps).encode("utf-8", "replace")
            yield BuildFrame(text, {"0": progress} if progress else {})
            errors = [item for item in items if isinstance(item, DLEnvError)]
            if errors:
                raise errors[0]
            ended = None in items
        if not self.image:
            raise BuildFailed(_("The builder ended without a word about an image."))

    def _batch(self) -> list[BuildStep | DLEnvError | None]:
        """Return what has been said since, nothing when a second passes without a word."""
        items: list[BuildStep | DLEnvError | None] = []
        try:
            items.append(self._said.get(timeout=_BEAT_S))
            while isinstance(items[-1], BuildStep):
                items.append(self._said.get_nowait())
        except queue.Empty:
            pass
        return items
