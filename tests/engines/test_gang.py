"""Several replicas as one job: how their ends make one, and the containers for real."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker_images
import pytest
from docker import APIClient
from docker.errors import APIError

from jupyter_dlenv.engines.docker import submission
from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.gang import combined, gang_status, newest_attempts
from jupyter_dlenv.engines.docker.names import name_of
from jupyter_dlenv.engines.docker.request import LABEL_PREFIX, RUN_DIR, SHIM
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.shim import FOLDER
from jupyter_dlenv.errors import Conflict, EngineError, ImageNotFound, JobNotFound, NoGpu, StartFailed
from jupyter_dlenv.identity import caller_identity
from jupyter_dlenv.resources import GpuGrant, Mount, Resources
from jupyter_dlenv.spec import End, Job, JobSpec, JobState, JobStatus, Reason, Role, leased_by, new_id

PATIENCE_S = 60
WAIT = "import time; time.sleep(600)"

STARTING = JobStatus(JobState.STARTING, started_at=1)
RUNNING = JobStatus(JobState.RUNNING, started_at=2)
GOOD = JobStatus(JobState.SUCCEEDED, 0, Reason.COMPLETED, "", 3, 10)
BAD = JobStatus(JobState.FAILED, 7, Reason.USER_ERROR, "Ended with exit code 7.", 4, 9)
KILLED = JobStatus(JobState.FAILED, 137, Reason.KILLED, "Killed from outside.", 5, 8)


# The words of several as one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "state"),
    [
        ({0: STARTING, 1: STARTING}, JobState.STARTING),
        ({0: RUNNING, 1: STARTING}, JobState.RUNNING),
        ({0: GOOD, 1: STARTING}, JobState.RUNNING),
        ({0: GOOD, 1: RUNNING}, JobState.RUNNING),
        ({0: BAD, 1: RUNNING}, JobState.RUNNING),
        ({1: RUNNING}, JobState.RUNNING),
    ],
)
@pytest.mark.parametrize("ends", End)
def test_a_job_lives_as_long_as_one_of_its_replicas(replicas: dict[int, JobStatus], state: JobState, ends: End) -> None:
    status = gang_status(replicas, 2, ends, first=0)
    assert (status.state, status.exit_code, status.reason, status.message) == (state, None, None, "")
    assert status.finished_at is None


def test_it_begins_with_the_first_and_ends_with_the_last() -> None:
    status = gang_status({0: GOOD, 1: replace(GOOD, started_at=1, finished_at=12)}, 2)
    assert status == JobStatus(JobState.SUCCEEDED, 0, Reason.COMPLETED, "", 1, 12)


@pytest.mark.parametrize(
    ("replicas", "ends", "first", "code", "message"),
    [
        ({0: BAD, 1: KILLED}, End.ALL, None, 137, "Node 1: Killed from outside."),
        ({0: BAD, 1: KILLED}, End.ALL, 0, 7, "Node 0: Ended with exit code 7."),
        ({0: BAD, 1: GOOD}, End.ALL, 1, 7, "Node 0: Ended with exit code 7."),
        ({0: BAD, 1: GOOD}, End.ALL, 9, 7, "Node 0: Ended with exit code 7."),
        ({0: GOOD, 1: BAD}, End.ALL, None, 7, "Node 1: Ended with exit code 7."),
        ({0: GOOD, 1: BAD}, End.LEADER, 1, 0, ""),
        ({0: BAD, 1: KILLED}, End.LEADER, None, 7, "Node 0: Ended with exit code 7."),
        ({0: BAD, 1: KILLED}, End.LEADER, 1, 137, "Node 1: Killed from outside."),
        ({0: BAD, 1: GOOD}, End.LEADER, None, 7, "Node 0: Ended with exit code 7."),
    ],
)
def test_the_first_failure_is_the_job_s(
    replicas: dict[int, JobStatus], ends: End, first: int | None, code: int, message: str
) -> None:
    status = gang_status(replicas, 2, ends, first)
    assert (status.exit_code, status.message) == (code, message)
    assert status.state is (JobState.FAILED if code else JobState.SUCCEEDED)
    assert status.finished_at == max(each.finished_at or 0 for each in replicas.values())


@pytest.mark.parametrize("replicas", [{0: GOOD}, {0: BAD}])
@pytest.mark.parametrize("ends", End)
def test_a_container_that_is_gone_is_named(replicas: dict[int, JobStatus], ends: End) -> None:
    status = gang_status(replicas, 2, ends, first=0)
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, None, Reason.REMOVED)
    assert status.message == "The container of node 1 was removed from outside."


def replica(node: int, status: JobStatus, **labels: str) -> Job:
    known = {"nodes": "2", "node": str(node), "ends": "all", "lease": f"GPU-{node}", **labels}
    return Job("id", Role.TRAINER, "docker", f"c{node}", "", "me", "", "", status, known)


def test_together_they_are_the_leader_with_all_gpus() -> None:
    job = combined([replica(1, RUNNING), replica(0, STARTING)])
    assert (job.native_id, job.status.state, job.labels["lease"]) == ("c0", JobState.RUNNING, "GPU-0,GPU-1")
    assert combined([replica(1, RUNNING, lease="")]).labels["lease"] == ""
    alone = replica(0, BAD, nodes="1")
    assert combined([alone]) is alone


def test_older_attempts_and_strangers_are_left_out() -> None:
    one, other = new_id(), new_id()

    def item(job_id: str, attempt: int, node: int, role: str = "trainer") -> dict[str, Any]:
        labels = {"id": job_id, "role": role, "attempt": str(attempt)}
        name = f"/{name_of(job_id, attempt)}-{node}"
        return {"Names": [name], "Labels": {LABEL_PREFIX + key: value for key, value in labels.items()}}

    listed = [item(one, 10, 0), item(one, 9, 0), item(one, 10, 1), item(other, 1, 0), item(new_id(), 1, 0, "newer")]
    assert newest_attempts(listed) == [[listed[0], listed[2]], [listed[3]]]


# For real ------------------------------------------------------------------------------------------------------------


@dataclass
class Gangs:
    """An engine, and what was started on it."""

    engine: DockerEngine
    started: list[str] = field(default_factory=list)

    def spec(self, code: str, **changes: Any) -> JobSpec:
        """Return the spec of two containers that run a line of Python without the shim."""
        spec = JobSpec(
            id=new_id(),
            role=Role.KERNEL,
            argv=("/usr/bin/python3", "-u", "-c", code),
            workdir="/tmp",
            run_dir="/none",
            owner="gangs",
            image=docker_images.image_id(docker_images.base_image()),
            image_ref="base",
            env={"PATH": "/usr/bin:/bin"},
            identity=caller_identity(Path(__file__).parent),
            resources=Resources(memory_bytes=256 << 20),
            replicas=2,
        )
        spec = replace(spec, **changes)
        self.started.append(spec.id)
        return spec

    async def submit(self, spec: JobSpec) -> Job:
        return await self.engine.submit(self.engine.plan(spec))

    async def start(self, code: str, **changes: Any) -> JobSpec:
        spec = self.spec(code, **changes)
        await self.submit(spec)
        return spec

    def make(self, spec: JobSpec) -> tuple[str, ...]:
        """Create the containers as a starter does that is killed before it starts any."""
        plan = self.engine.plan(spec)
        return self.engine.call(lambda client: submission.make(client, plan)).ids

    def names(self, job_id: str) -> list[str]:
        """Return the names of a job's containers and networks that Docker has."""

        def look(client: APIClient) -> list[str]:
            containers = client.containers(all=True, filters={"name": [job_id]})
            networks = client.networks(names=[f"dlenv-{job_id}"])
            return [each["Names"][0].lstrip("/") for each in containers] + [f"network {n['Name']}" for n in networks]

        return sorted(self.engine.call(look))

    def state(self, spec: JobSpec, index: int) -> str:
        name = f"{name_of(spec.id, spec.attempt)}-{index}"
        return str(self.engine.call(lambda client: client.inspect_container(name)["State"]["Status"]))

    async def said(self, spec: JobSpec, index: int) -> str:
        return await self.engine.console(f"{name_of(spec.id, spec.attempt)}-{index}", 50)

    async def until(self, job_id: str, good: Callable[[JobStatus], bool]) -> JobStatus:
        for _ in range(PATIENCE_S * 10):
            status = (await self.engine.poll([job_id]))[job_id]
            if good(status):
                return status
            await asyncio.sleep(0.1)
        pytest.fail(f"still {status}")

    async def ended(self, job_id: str) -> JobStatus:
        return await self.until(job_id, lambda status: status.state.ended)

    def remove(self, spec: JobSpec, index: int) -> None:
        name = f"{name_of(spec.id, spec.attempt)}-{index}"
        self.engine.call(lambda client: client.remove_container(name, force=True))


@pytest.fixture
async def gangs() -> AsyncIterator[Gangs]:
    docker_images.base_image()
    made = Gangs(DockerEngine())
    yield made
    for job_id in made.started:
        await made.engine.remove(job_id)
        assert made.names(job_id) == []


MEET = """
import socket, time
name = socket.gethostname()
if name == "node-0":
    server = socket.create_server(("", 29500))
    print("from", server.accept()[0].recv(100).decode())
else:
    for _ in range(300):
        try:
            peer = socket.create_connection(("node-0", 29500), 5)
            break
        except OSError:
            time.sleep(0.1)
    peer.sendall(name.encode())
print("names", socket.gethostbyname("node-0") != socket.gethostbyname(name) or name)
"""


@pytest.mark.docker
@pytest.mark.parametrize("network", ["bridge", "none"])
async def test_replicas_meet_by_name(gangs: Gangs, network: str) -> None:
    spec = await gangs.start(MEET, network=network)
    assert gangs.names(spec.id) == [f"{name_of(spec.id, 1)}-{n}" for n in range(2)] + [f"network {name_of(spec.id, 1)}"]
    status = await gangs.ended(spec.id)
    said = [await gangs.said(spec, index) for index in range(2)]
    assert status.state is JobState.SUCCEEDED, said
    assert said == ["from node-1\nnames node-0", "names True"]


ESCAPE = """
import socket
def reach(address, port):
    try:
        socket.create_connection((address, port), 5).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"  # somebody is there
    except OSError:
        return "closed"
own = socket.gethostbyname(socket.gethostname())
print(reach(own.rpartition(".")[0] + ".1", 9), reach("192.0.2.1", 80))
try:
    print(socket.gethostbyname("example.org"))
except OSError:
    print("unknown")
"""


@pytest.mark.docker
async def test_without_network_not_even_the_host_is_reached(gangs: Gangs) -> None:
    spec = await gangs.start(ESCAPE, network="none")
    await gangs.ended(spec.id)
    assert await gangs.said(spec, 1) == "closed closed\nunknown"


@pytest.mark.docker
async def test_on_the_host_s_network_there_is_none_to_make(gangs: Gangs) -> None:
    spec = await gangs.start("print('here')", network="host")
    assert (await gangs.ended(spec.id)).state is JobState.SUCCEEDED
    assert [name for name in gangs.names(spec.id) if name.startswith("network")] == []


NODE_1_FAILS = "import socket; raise SystemExit(7 * (socket.gethostname() == 'node-1'))"


@pytest.mark.docker
async def test_one_failure_fails_the_job_and_is_named(gangs: Gangs) -> None:
    spec = await gangs.start(NODE_1_FAILS)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, 7, Reason.USER_ERROR)
    assert status.message.startswith("Node 1: ")
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.started_at <= status.finished_at


@pytest.mark.docker
async def test_a_leader_decides_when_all_are_gone(gangs: Gangs) -> None:
    code = "import socket, time\nif socket.gethostname() == 'node-1': time.sleep(600)"
    spec = await gangs.start(code, ends=End.LEADER)
    for _ in range(PATIENCE_S * 10):
        if gangs.state(spec, 0) == "exited":
            break
        await asyncio.sleep(0.1)
    assert (await gangs.engine.poll([spec.id]))[spec.id].state is JobState.RUNNING
    await gangs.engine.kill(f"{name_of(spec.id, 1)}-1", signal.SIGKILL)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0)


@pytest.mark.docker
async def test_a_container_that_somebody_removes_is_named(gangs: Gangs) -> None:
    spec = await gangs.start(WAIT)
    gangs.remove(spec, 0)
    assert (await gangs.engine.poll([spec.id]))[spec.id].state is JobState.RUNNING
    await gangs.engine.cancel(spec.id, grace_s=0)
    status = await gangs.ended(spec.id)
    assert (status.reason, status.exit_code) == (Reason.REMOVED, None)
    assert status.message == "The container of node 0 was removed from outside."
    again = await gangs.submit(spec)
    assert again.status == status, "what was started once is not made again"


@pytest.mark.docker
async def test_a_repeated_submission_adopts_all(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT)
    first, *others = await asyncio.gather(*(gangs.submit(spec) for _ in range(4)))
    third = await gangs.submit(spec)
    assert {first.native_id} == {other.native_id for other in others} == {third.native_id}
    assert third.status.state is JobState.RUNNING
    assert len(gangs.names(spec.id)) == 3
    (job,) = [job for job in await gangs.engine.list("gangs") if job.id == spec.id]
    assert (job.native_id, job.status.state) == (first.native_id, JobState.RUNNING)


@pytest.mark.docker
@pytest.mark.parametrize("left", ["one created", "all created", "one started", "another network"])
async def test_a_half_made_gang_is_completed(gangs: Gangs, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_QUIET_S", 0.3)
    spec = gangs.spec(WAIT)
    first = gangs.make(spec)[0]
    if left == "one started":
        gangs.engine.call(lambda client: client.start(first))
    elif left != "all created":
        gangs.remove(spec, 1)
    if left == "another network":
        gangs.remove(spec, 0)
        labels = {LABEL_PREFIX + "id": spec.id, LABEL_PREFIX + "schema": "1", LABEL_PREFIX + "spec": "other"}
        name = name_of(spec.id, 1)
        gangs.engine.call(lambda client: client.remove_network(name))
        gangs.engine.call(lambda client: client.create_network(name, labels=labels))
    else:
        assert (await gangs.engine.poll([spec.id]))[spec.id].state is (
            JobState.RUNNING if left == "one started" else JobState.STARTING
        )
    job = await gangs.submit(spec)
    assert (job.native_id == first) is (left != "another network")
    assert [gangs.state(spec, index) for index in range(2)] == ["running", "running"]
    assert len(gangs.names(spec.id)) == 3


@pytest.mark.docker
async def test_another_spec_that_was_never_started_makes_room(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT, replicas=3)
    gangs.make(spec)
    await gangs.submit(replace(spec, replicas=2))
    names = gangs.names(spec.id)
    assert names == [f"{name_of(spec.id, 1)}-{n}" for n in range(2)] + [f"network {name_of(spec.id, 1)}"]


@pytest.mark.docker
@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2), (2, 3)])
async def test_a_running_job_is_not_replaced(gangs: Gangs, first: int, second: int) -> None:
    spec = await gangs.start(WAIT, replicas=first)
    before = gangs.names(spec.id)
    with pytest.raises(Conflict):
        await gangs.submit(replace(spec, replicas=second, role=Role.TRAINER))
    assert gangs.names(spec.id) == before
    assert (await gangs.engine.poll([spec.id]))[spec.id].state is JobState.RUNNING


@pytest.mark.docker
async def test_a_network_of_somebody_else_is_left_alone(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT)
    name = name_of(spec.id, 1)
    gangs.engine.call(lambda client: client.create_network(name))
    try:
        with pytest.raises(Conflict, match=name):
            await gangs.submit(spec)
        assert gangs.names(spec.id) == [f"network {name}"]
    finally:
        gangs.engine.call(lambda client: client.remove_network(name))


@pytest.mark.docker
async def test_what_cannot_be_created_leaves_nothing(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT)
    plan = gangs.engine.plan(spec)
    good, bad = plan.requests
    nowhere = {"Type": "bind", "Source": "/dlenv-test-nowhere", "Target": "/x", "ReadOnly": True}
    host = {**bad["HostConfig"], "Mounts": [nowhere]}
    with pytest.raises(StartFailed, match="nowhere"):
        await gangs.engine.submit(replace(plan, requests=(good, {**bad, "HostConfig": host})))
    assert gangs.names(spec.id) == []
    with pytest.raises(ImageNotFound):
        await gangs.submit(replace(spec, image="sha256:" + "0" * 64))
    assert gangs.names(spec.id) == []


@pytest.mark.docker
async def test_what_cannot_be_started_leaves_nothing(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT)
    plan = gangs.engine.plan(spec)
    good, bad = plan.requests
    host = {**bad["HostConfig"], "Ulimits": [{"Name": "nofile", "Soft": 1 << 40, "Hard": 1 << 40}]}
    broken = replace(plan, requests=(good, {**bad, "HostConfig": host}))
    with pytest.raises((StartFailed, EngineError)):
        await gangs.engine.submit(broken)
    assert gangs.names(spec.id) == []


@pytest.mark.docker
@pytest.mark.parametrize("role", [Role.KERNEL, Role.TRAINER])
async def test_a_single_container_makes_room_or_is_a_conflict_too(gangs: Gangs, role: Role) -> None:
    spec = gangs.spec(WAIT, replicas=1, role=role)
    gangs.make(spec)
    job = await gangs.submit(replace(spec, name="other"))
    assert (job.name, gangs.names(spec.id)) == ("other", [name_of(spec.id, 1)])
    with pytest.raises(Conflict):
        await gangs.submit(spec)
    assert (await gangs.submit(replace(spec, name="other"))).native_id == job.native_id
    await gangs.engine.remove(spec.id)
    stranger = gangs.engine.call(lambda client: client.create_container(spec.image, ["true"], name=name_of(spec.id, 1)))
    try:
        with pytest.raises(Conflict):
            await gangs.submit(spec)
    finally:
        gangs.engine.call(lambda client: client.remove_container(stranger["Id"]))


def two_gpus(*uuids: str) -> GpuGrant:
    shares = tuple(GpuGrant((uuid,), devices=(uuid,)) for uuid in uuids)
    return GpuGrant(uuids, devices=uuids, shares=shares)


@pytest.mark.docker
async def test_gpus_that_somebody_else_got_first_are_refused_to_all(gangs: Gangs) -> None:
    one, two, three = (f"GPU-{new_id()}" for _ in range(3))
    first = gangs.spec(WAIT, gpus=two_gpus(one, two))
    gangs.make(first)
    held = [leased_by(job.labels) for job in gangs.engine.leases() if job.id == first.id]
    assert sorted(held) == sorted([(one,), (two,)])
    time.sleep(1.1)  # Docker's list tells the second alone in which a container was made
    second = gangs.spec(WAIT, gpus=two_gpus(three, two))
    with pytest.raises(NoGpu, match="got the same GPUs first"):
        await gangs.submit(second)
    assert gangs.names(second.id) == []
    assert len(gangs.names(first.id)) == 3


@pytest.mark.docker
async def test_cancel_asks_and_then_kills_them_all(gangs: Gangs) -> None:
    polite = await gangs.start("import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: exit(3)")
    await asyncio.sleep(0.5)
    await gangs.engine.cancel(polite.id, grace_s=30)
    assert (await gangs.ended(polite.id)).exit_code == 3
    deaf = await gangs.start(
        "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (2, 15)]\nprint('deaf')\ntime.sleep(600)"
    )
    for index in range(2):
        while await gangs.said(deaf, index) != "deaf":
            await asyncio.sleep(0.1)
    await asyncio.gather(*(gangs.engine.cancel(deaf.id, grace_s=0.5) for _ in range(2)))
    assert [gangs.state(deaf, index) for index in range(2)] == ["exited", "exited"]
    assert (await gangs.ended(deaf.id)).exit_code == 137
    await gangs.engine.cancel(deaf.id)


@pytest.mark.docker
async def test_a_cancel_removes_what_was_never_started(gangs: Gangs) -> None:
    spec = gangs.spec(WAIT)
    gangs.make(spec)
    await gangs.engine.cancel(spec.id)
    assert await gangs.engine.poll([spec.id]) == {}


@pytest.mark.docker
async def test_a_signal_reaches_all(gangs: Gangs) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *a: exit(0))\nprint('ready')\ntime.sleep(600)"
    spec = await gangs.start(code)
    for index in range(2):
        while await gangs.said(spec, index) != "ready":
            await asyncio.sleep(0.1)
    await gangs.engine.signal(spec.id, signal.SIGUSR1)
    assert (await gangs.ended(spec.id)).state is JobState.SUCCEEDED
    with pytest.raises(JobNotFound, match="has ended"):
        await gangs.engine.signal(spec.id, signal.SIGUSR1)


@pytest.mark.docker
async def test_attempts_are_told_apart_and_removed_up_to_one(gangs: Gangs) -> None:
    first = gangs.spec(WAIT)
    second = replace(first, attempt=2)
    gangs.make(first)
    gangs.make(second)
    assert (await gangs.engine.poll([first.id]))[first.id].attempt == 2
    assert len(gangs.names(first.id)) == 6
    await gangs.engine.remove(first.id, 1)
    network = name_of(first.id, 2)
    assert gangs.names(first.id) == [f"{network}-0", f"{network}-1", f"network {network}"]


@pytest.mark.docker
async def test_many_jobs_are_one_question(gangs: Gangs, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [gangs.spec(WAIT) for _ in range(2)]
    for spec in specs:
        gangs.make(spec)
    ended = await gangs.start("pass")
    await gangs.ended(ended.id)
    asked: list[str] = []
    get = APIClient.get

    def counted(self: APIClient, url: str, **kwargs: Any) -> Any:
        asked.append(url.rpartition("/v")[2].partition("/")[2])
        return get(self, url, **kwargs)

    monkeypatch.setattr(APIClient, "get", counted)
    for more in (1, 60):
        asked.clear()
        found = await gangs.engine.poll([spec.id for spec in specs] + [new_id() for _ in range(more)])
        assert set(found) == {spec.id for spec in specs}
        assert asked == ["containers/json"], "one call, whatever the number of ids"
    asked.clear()
    assert (await gangs.engine.poll([ended.id]))[ended.id].state is JobState.SUCCEEDED
    assert len(asked) == 3, "one call for all, and one for each container that has ended"


@pytest.mark.docker
async def test_a_started_replica_keeps_its_network_until_the_job_is_removed(gangs: Gangs) -> None:
    spec = await gangs.start(WAIT)
    with pytest.raises(APIError):
        docker_images.engine().remove_network(name_of(spec.id, 1))
    await gangs.engine.remove(spec.id)
    assert gangs.names(spec.id) == []
    assert await gangs.engine.poll([spec.id]) == {}


# Under the shim -------------------------------------------------------------------------------------------------------


def under_the_shim(gangs: Gangs, folder: Path, code: str, *, ends: End = End.ALL) -> JobSpec:
    """Return the spec of two replicas that run a line of Python each, with ``node`` as its number."""
    who = caller_identity(folder.parent)
    spec = gangs.spec(code, role=Role.TRAINER, run_dir=str(folder), python="/usr/bin/python3", ends=ends)
    run = RunFolder(folder)
    run.create(who.uid, who.gid, replicas=2)
    for index in range(2):
        argv = (*spec.argv[:-1], f"node = {index}\n{code}")
        names = ["node-0", "node-1"]
        about = {"replicas": 2, "first_rank": index, "node_rank": index, "ends": ends, "peers": names}
        run.node(index).write_launch(argv, "/tmp", grace_s=(1, 1), **about)
    mounts = (Mount(str(folder), RUN_DIR), Mount(FOLDER, SHIM, read_only=True))
    return replace(spec, mounts=mounts, identity=who)


async def logged(gangs: Gangs, job_id: str) -> bytes:
    return b"".join([chunk.data async for chunk in gangs.engine.logs(job_id, follow=True)])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.docker
async def test_a_log_is_of_all_replicas_to_the_last_line(gangs: Gangs, run_folder: Path) -> None:
    spec = under_the_shim(gangs, run_folder, "for i in range(3): print('line', i)")
    await gangs.submit(spec)
    lines = (await logged(gangs, spec.id)).decode().splitlines()
    expected = [f"{prefix}line {i}" for prefix in ("", "[1] ") for i in range(3)]
    assert sorted(line for line in lines if "line" in line) == sorted(expected), lines
    assert (await gangs.ended(spec.id)).state is JobState.SUCCEEDED


@pytest.mark.docker
@pytest.mark.parametrize("fails", [0, 1])
async def test_one_fails_and_all_stop_and_the_culprit_is_named(gangs: Gangs, run_folder: Path, fails: int) -> None:
    code = f"import time\ntime.sleep(1)\nif node == {fails}: raise SystemExit(7)\ntime.sleep(600)"
    spec = under_the_shim(gangs, run_folder, code)
    await gangs.submit(spec)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code, status.reason) == (JobState.FAILED, 7, Reason.USER_ERROR)
    assert status.message.startswith(f"Node {fails}: ")


@pytest.mark.docker
async def test_a_killed_container_is_the_culprit(gangs: Gangs, run_folder: Path) -> None:
    spec = under_the_shim(gangs, run_folder, "import time\nprint('here')\ntime.sleep(600)")
    await gangs.submit(spec)
    while RunFolder(run_folder).log_tail().count(b"here") < 2:
        await asyncio.sleep(0.1)
    await gangs.engine.kill(f"{name_of(spec.id, 1)}-1", signal.SIGKILL)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)
    assert status.message.startswith("Node 1: ")


@pytest.mark.docker
async def test_a_leader_s_end_is_the_end_of_all(gangs: Gangs, run_folder: Path) -> None:
    spec = under_the_shim(gangs, run_folder, "import time\ntime.sleep(600 * node + 1)", ends=End.LEADER)
    await gangs.submit(spec)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0)


@pytest.mark.docker
async def test_a_cancel_stops_all_shims(gangs: Gangs, run_folder: Path) -> None:
    code = (
        "import signal, time\nsignal.signal(2, lambda *a: (print('asked'), exit(3)))\nprint('ready')\ntime.sleep(600)"
    )
    spec = under_the_shim(gangs, run_folder, code)
    await gangs.submit(spec)
    while RunFolder(run_folder).log_tail().count(b"ready") < 2:
        await asyncio.sleep(0.1)
    await gangs.engine.cancel(spec.id, grace_s=30)
    status = await gangs.ended(spec.id)
    assert (status.state, status.exit_code) == (JobState.FAILED, 3)
    assert [result and result.cause for result in RunFolder(run_folder).results(2)] == ["stopped", "stopped"]
    assert RunFolder(run_folder).log_tail().count(b"asked") == 2


@pytest.mark.docker
async def test_a_removed_container_stops_the_others(gangs: Gangs, run_folder: Path) -> None:
    spec = under_the_shim(gangs, run_folder, "import time\nprint('here')\ntime.sleep(600)")
    await gangs.submit(spec)
    while RunFolder(run_folder).log_tail().count(b"here") < 2:
        await asyncio.sleep(0.1)
    gangs.remove(spec, 1)
    status = await gangs.ended(spec.id)
    assert status.reason is Reason.REMOVED
    assert "node 1" in status.message
