"""Who gets which GPUs: the one door that kernels, jobs and shells of every process on a host go through.

What is held is told by two witnesses: labels of containers that have not ended, and the ledger's records, which stand
for what has no container yet or none just now (a kernel that restarts, a process job). What is free besides is told by
NVML. All of it is looked at, decided and noted down while the ledger is locked.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..engines.docker.engine import DockerEngine
from ..engines.registry import load_engine
from ..errors import Conflict, Denied, DLEnvError, EngineUnavailable, NoGpu
from ..i18n import _
from ..paths import ledger_dir
from ..resources import GpuAccess, GpuGrant
from ..settings import DLEnv
from ..spec import Job, JobState
from .access import AccessFacts, choose_access, gather, grant
from .asks import Ask, Overview, on_host, stand_ins, waiting_in
from .choice import may_keep, require_possible
from .containers import owners
from .holders import holders_by_uuid, lease_data
from .lease import Lease, Queued, kept
from .ledger import LEASES, MANAGERS, QUEUE, Entry, Ledger
from .model import Inventory
from .sampler import SAMPLER
from .schedule import Decision, Place, Waiting, places, schedule
from .state import UnitState, states

_SOCKET = "/var/run/docker.sock"
_LOOK_S = 1.0
_FRESH_S = 0.5


class Leases:
    """The leases of this host.

    Args:
        docker: The daemon whose containers hold GPUs; None for the usual one.
        look: Returns an inventory that is at most so many seconds old, by NVML unless told otherwise.
    """

    def __init__(
        self, settings: DLEnv, docker: DockerEngine | None = None, look: Callable[[float], Inventory] = SAMPLER.latest
    ) -> None:
        self._settings = settings
        self._look = look
        self._docker = docker
        self._known: tuple[float, Overview] | None = None
        self._looking = threading.Lock()
        self.ledger = Ledger(Path(settings.ledger_dir) if settings.ledger_dir else ledger_dir())

    async def acquire(self, ask: Ask) -> Lease | Queued:
        """Return the GPUs, or the request's place in the queue that it was put into.

        Raises:
            NoGpu: This host can never meet the request, or gives containers no GPU.
            Denied: A setting forbids it.
        """
        if not ask.request.wanted:
            return Lease()
        return await kept(self._acquire, ask)

    async def again(self, ask: Ask) -> Lease | Place:
        """Return the GPUs for what waits in the queue, or its place.

        Raises:
            Conflict: Somebody took the request out of the queue.
        """
        return await kept(self._again, ask)

    async def wait(self, ask: Ask, tell: Callable[[Place], None], patience_s: float = 0) -> Lease:
        """Return the GPUs as soon as it is this request's turn.

        Args:
            tell: Gets the place in the queue each time it changes.
            patience_s: After how many seconds to give up, 0 for never.

        Raises:
            NoGpu: The patience is over, or this host can never meet the request.
            Conflict: Somebody took the request out of the queue.
        """
        got = await self.acquire(ask)
        if isinstance(got, Lease):
            return got
        place, give_up = got.place, time.monotonic() + (patience_s or float("inf"))
        tell(place)
        try:
            while time.monotonic() < give_up:
                await asyncio.sleep(_LOOK_S)
                try:
                    found = await self.again(ask)
                except EngineUnavailable:
                    continue  # Docker restarts, or somebody keeps the ledger: neither is a reason to give up a place
                if isinstance(found, Lease):
                    return found
                if found != place:
                    place = found
                    tell(place)
        finally:
            got.record.release()
        raise NoGpu(place.reason, hint="jupyter dlenv gpus")

    async def now(self, ask: Ask) -> Lease:
        """Return the GPUs at once.

        Raises:
            NoGpu: It would have to wait.
        """
        got = await self.acquire(ask)
        if isinstance(got, Queued):
            got.record.release()
            raise NoGpu(got.place.reason, hint="jupyter dlenv gpus")
        return got

    async def preview(self, ask: Ask) -> tuple[GpuGrant, str]:
        """Return what the request would get if nobody else asked, and note nothing; for one that waits also why.

        Raises:
            NoGpu: This host can never meet it.
        """
        if not ask.request.wanted:
            return GpuGrant(), ""
        return await asyncio.to_thread(self._preview, ask)

    async def renew(self, ask: Ask, uuids: Sequence[str]) -> Lease:
        """Hold GPUs that a running container has already, for this process and, if need be, under another id."""
        return await kept(self._renew, ask, tuple(uuids)) if uuids else Lease(request=ask.request)

    async def reclaim(self, ask: Ask, uuids: Sequence[str]) -> Lease | None:
        """Hold GPUs again that the same job has just given up; None where one has failed, or is another's by now."""
        return await kept(self._reclaim, ask, tuple(uuids))

    async def reclaimed(self, ask: Ask, lease: Lease) -> Lease | None:
        """Return what :meth:`reclaim` gave, for use now; None, and given back, where that must not be any more."""
        return await asyncio.to_thread(self._reclaimed, ask, lease)

    async def granted_anew(self, ask: Ask, lease: Lease) -> Lease:
        """Return a lease with the way into the container as it is now; the driver may have been away before."""
        if not lease.gpus.uuids:
            return lease
        gpus = await asyncio.to_thread(self._grant_of, ask, lease.gpus.uuids)
        return replace(lease, gpus=gpus or lease.gpus)

    async def hand_over(self, lease: Lease, pid: str) -> None:
        """Note in whose name a child process holds the GPUs that inherited the record."""

        def note() -> None:
            assert lease.record is not None
            with self.ledger.locked():
                lease.record.update({**lease.record.data, "native_id": pid})

        await asyncio.to_thread(note)

    def overview(self, max_age_s: float = _FRESH_S) -> Overview:
        """Return how things are. Asks NVML and Docker in this thread, and changes nothing."""
        inventory, found = self._view(max_age_s)
        records = self.ledger.entries(QUEUE)
        queue = self._queue(records)
        where = places(queue, found, inventory.links, time.time()) if queue else {}
        return Overview(inventory, found, tuple(queue), where, {str(item.data.get("id")): item for item in records})

    def recent_overview(self, max_age_s: float = _LOOK_S) -> Overview:
        """Return how things were at most so many seconds ago; who holds what may be a second older."""
        with self._looking:
            known = self._known
            if known is None or time.monotonic() - known[0] > max_age_s:
                known = self._known = (time.monotonic(), self.overview(max_age_s))
            return known[1]

    def holds(self, ask_id: str) -> bool:
        """Return whether a process holds GPUs under this id."""
        return any(entry.name == ask_id and entry.alive for entry in self.ledger.entries(LEASES))

    def startable(self) -> set[str]:
        """Return the ids in the queue whose turn it is. Asks NVML and Docker in this thread."""
        with self.ledger.locked():
            inventory, found = self._view()
            return set(schedule(self._queue(), found, inventory.links, time.time()).grants)

    def cancel(self, ask_id: str) -> bool:
        """Take a request out of the queue; False when it is not there, or another user's."""
        with self.ledger.locked():
            name = self._name_of(ask_id)
            return bool(name) and self.ledger.drop(QUEUE, name)

    # In a thread ---------------------------------------------------------------------------------------------------

    def _acquire(self, ask: Ask) -> Lease | Queued:
        self._require_possible(ask)
        way = self._way(ask)
        with self.ledger.locked():
            self._tidy()
            self._refuse_second(ask)
            inventory, found = self._view()
            queue = [item for item in self._queue() if item.id != ask.id]  # another user's record of our id
            mine = self._as_waiting(ask, max((item.sequence for item in queue), default=0) + 1)
            got = self._decide(ask, [*queue, mine], inventory, found, way)
            if isinstance(got, Lease):
                return got
            data = {**asdict(ask), "since": time.time(), "pid": os.getpid()}
            return Queued(got, self.ledger.put(QUEUE, self.ledger.next_name(ask.id), data))

    def _again(self, ask: Ask) -> Lease | Place:
        way = self._way(ask)
        with self.ledger.locked():
            name = self._name_of(ask.id)
            if not name:
                raise Conflict(_("{name} was taken out of the queue for GPUs.").format(name=ask.name or ask.id))
            inventory, found = self._view()
            got = self._decide(ask, self._queue(), inventory, found, way)
            if isinstance(got, Lease):
                self.ledger.drop(QUEUE, name)
            return got

    def _decide(
        self,
        ask: Ask,
        queue: Sequence[Waiting],
        inventory: Inventory,
        found: Sequence[UnitState],
        way: tuple[GpuAccess, AccessFacts | None],
    ) -> Lease | Place:
        decision: Decision = schedule(queue, found, inventory.links, time.time())
        chosen = decision.grants.get(ask.id)
        if not chosen:
            return places(queue, found, inventory.links, time.time())[ask.id]
        return self._note(ask, _granted(ask, chosen, found, way))

    def _note(self, ask: Ask, gpus: GpuGrant) -> Lease:
        data = lease_data(ask, gpus, pid=os.getpid(), now=time.time())
        return Lease(gpus, self.ledger.put(LEASES, ask.id, data), ask.request)

    def _preview(self, ask: Ask) -> tuple[GpuGrant, str]:
        self._require_possible(ask)
        way = self._way(ask)
        inventory, found = self._view()
        queue = [self._as_waiting(ask, 1)]
        chosen = schedule(queue, found, inventory.links, time.time()).grants.get(ask.id)
        if not chosen:
            reason = places(queue, found, inventory.links, time.time())[ask.id].reason
            return stand_ins(ask, len(found) if ask.request.every else ask.request.count, way[0]), reason
        return _granted(ask, chosen, found, way), ""

    def _renew(self, ask: Ask, uuids: tuple[str, ...]) -> Lease:
        # Never refused, whatever has changed meanwhile: what runs has its GPUs all the same.
        gpus = self._grant_of(ask, uuids) or GpuGrant(uuids, devices=uuids, shared=ask.request.shared)
        with self.ledger.locked():
            return self._note(ask, gpus)

    def _reclaim(self, ask: Ask, uuids: tuple[str, ...]) -> Lease | None:
        gpus = self._grant_of(ask, uuids)
        with self.ledger.locked():
            self._tidy()
            held = any(entry.name == ask.id for entry in self.ledger.living(LEASES))
            if gpus is None or held or self._name_of(ask.id) or not self._may_keep(ask, uuids):
                return None
            return self._note(ask, gpus)

    def _may_keep(self, ask: Ask, uuids: tuple[str, ...]) -> bool:
        _inventory, found = self._view()
        return all(may_keep(ask.request, state, ask.id) for state in found if state.unit.uuid in uuids)

    def _reclaimed(self, ask: Ask, lease: Lease) -> Lease | None:
        gpus = self._grant_of(ask, lease.gpus.uuids)
        there = lease.record is not None and lease.record.there()
        if gpus is None or not there or not self._may_keep(ask, lease.gpus.uuids):
            lease.close()
            return None
        return replace(lease, gpus=gpus)

    def _grant_of(self, ask: Ask, uuids: tuple[str, ...]) -> GpuGrant | None:
        """Return the way to GPUs that are held, None where there is none just now."""
        found = states(self._look(_FRESH_S), {}, {})
        if not {state.unit.uuid for state in found}.issuperset(uuids):
            return None
        try:
            return _granted(ask, uuids, found, self._way(ask))
        except DLEnvError:
            return None

    def _refuse_second(self, ask: Ask) -> None:
        """Refuse a request that another process has made already for the same kernel or job.

        Raises:
            Conflict: It waits, or holds its GPUs.
        """
        held = any(entry.name == ask.id for entry in self.ledger.living(LEASES))
        started = (job.id for job in self._containers() if job.status.state is not JobState.STARTING)
        runs = not ask.by_process and ask.id in started
        if held or runs or self._name_of(ask.id):
            raise Conflict(_("{name} is being started already.").format(name=ask.name or ask.id))

    def _require_possible(self, ask: Ask) -> None:
        """Refuse what this host can never give, before the ways to give it are looked at."""
        inventory = self._look(_FRESH_S)
        require_possible(ask.request, states(inventory, {}, {}), inventory.message)

    def _way(self, ask: Ask) -> tuple[GpuAccess, AccessFacts | None]:
        """Return how the GPUs would reach whoever asks, before anything is queued that could not start."""
        if ask.request.shared and not self._settings.allow_shared_gpus:
            raise Denied(_("--shared is switched off here (rule: DLEnv.allow_shared_gpus)."))
        if ask.request.busy and not self._settings.allow_busy_gpus:
            raise Denied(_("Busy GPUs may not be taken here (rule: DLEnv.allow_busy_gpus)."))
        if ask.on_host:
            return GpuAccess.HOST, None
        facts = gather(self._engine())
        return choose_access(self._settings.gpu_access, facts), facts

    def _view(self, max_age_s: float = _FRESH_S) -> tuple[Inventory, tuple[UnitState, ...]]:
        inventory = self._look(max_age_s)
        holders = holders_by_uuid(self._containers(), self.ledger.entries(LEASES), time.time())
        pids = {process.pid for unit in inventory.units() for process in unit.processes or ()}
        natives = {holder.native_id for found in holders.values() for holder in found if holder.native_id}
        return inventory, states(inventory, holders, owners(pids, natives))

    def _containers(self) -> Sequence[Job]:
        try:
            return self._engine().leases()
        except EngineUnavailable:
            if "DOCKER_HOST" not in os.environ and not os.path.exists(_SOCKET):
                return []  # a host without Docker has none
            raise

    def _engine(self) -> DockerEngine:
        if self._docker is None:
            engine = load_engine("docker")
            assert isinstance(engine, DockerEngine)
            self._docker = engine
        return self._docker

    # The queue -----------------------------------------------------------------------------------------------------

    def _queue(self, records: Sequence[Entry] | None = None) -> list[Waiting]:
        managers = [entry for entry in self.ledger.entries(MANAGERS) if entry.alive]
        served = {(entry.uid, str(entry.data.get("folder"))) for entry in managers}
        # Of two records with one id, which nobody makes by accident, ours is meant by us.
        known = self.ledger.entries(QUEUE) if records is None else records
        mine_last = sorted(known, key=lambda entry: entry.uid == os.geteuid())
        found = {item.id: item for entry in mine_last if (item := waiting_in(entry, served)) is not None}
        return sorted(found.values(), key=lambda item: item.sequence)

    def _as_waiting(self, ask: Ask, sequence: int) -> Waiting:
        return Waiting(ask.id, ask.owner, ask.request, sequence, True, ask.limit_s)

    def _name_of(self, ask_id: str) -> str:
        mine = (entry for entry in self.ledger.entries(QUEUE) if entry.uid == os.geteuid())
        return next((entry.name for entry in mine if entry.data.get("id") == ask_id), "")

    def _tidy(self) -> None:
        """Remove what processes left behind that have ended."""
        self.ledger.living(LEASES)
        self.ledger.living(MANAGERS)
        for entry in self.ledger.entries(QUEUE):
            if not entry.alive and entry.data.get("by_process") is not False:
                self.ledger.drop(QUEUE, entry.name)


def _granted(
    ask: Ask, chosen: Sequence[str], found: Sequence[UnitState], way: tuple[GpuAccess, AccessFacts | None]
) -> GpuGrant:
    """Return the way to these GPUs, shared out evenly where several containers get them.

    Raises:
        NoGpu: One of them cannot be reached this way, or they cannot be shared out evenly.
    """
    access, facts = way
    if facts is None:
        return on_host(chosen, shared=ask.request.shared)
    units = {state.unit.uuid: state.unit for state in found}
    whole = grant([units[uuid] for uuid in chosen], access, facts, shared=ask.request.shared)
    if ask.replicas == 1:
        return whole
    each, left = divmod(len(chosen), ask.replicas)
    if left or not each:
        message = _("{count} GPUs cannot be shared out evenly to {nodes} nodes.")
        raise NoGpu(message.format(count=len(chosen), nodes=ask.replicas), hint=_("Example: --gpus 1"))
    parts = (chosen[at * each : (at + 1) * each] for at in range(ask.replicas))
    shares = (grant([units[uuid] for uuid in part], access, facts, shared=whole.shared) for part in parts)
    return replace(whole, shares=tuple(shares))
