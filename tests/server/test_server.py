"""The REST API of a real server: who may, what it answers, and that it says what it means."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import docker_images
import pytest
import yaml
from jupyter_server_process import Reply, ServerProcess, denying_server

import jupyter_dlenv
from jupyter_dlenv.errors import Unsupported
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.notebook.client import Client
from jupyter_dlenv.paths import server_socket
from jupyter_dlenv.server.api import ROUTES
from jupyter_dlenv.server.handlers import HANDLERS
from jupyter_dlenv.spec import new_id

pytestmark = pytest.mark.server

ID = "5ab4c0de-0000-4000-8000-000000000000"
TABLE = [
    ("GET", "/jobs", 200),
    ("POST", "/jobs", 400),
    ("GET", f"/jobs/{ID}", 404),
    ("DELETE", f"/jobs/{ID}", 404),
    ("POST", f"/jobs/{ID}/cancel", 404),
    ("GET", f"/jobs/{ID}/log", 404),
    ("GET", f"/jobs/{ID}/metrics", 404),
    ("POST", f"/jobs/{ID}/terminal", 404),
    ("GET", "/environments", 200),
    ("GET", "/environments/none", 404),
    ("PUT", "/environments/none", 400),
    ("DELETE", "/environments/none", 404),
    ("GET", "/kernels", 200),
    ("POST", f"/kernels/{ID}/cancel", 404),
    ("POST", f"/kernels/{ID}/terminal", 404),
    ("GET", "/images", 200),
    ("POST", "/builds", 400),
    ("POST", "/open", 400),
    ("GET", "/gpus", 200),
    ("GET", "/gpus/events?hz=11", 400),  # a good one does not end
]


def submit(server: ServerProcess, code: str, **more: Any) -> dict[str, Any]:
    """Submit a cell on the process engine and return the job."""
    body = {"request_id": new_id(), "cell": code, "engine": "process", **more}
    reply = server.api("POST", "/jobs", body)
    assert reply.status == 201, reply.body
    return dict(reply.json())


def ended(server: ServerProcess, job_id: str) -> dict[str, Any]:
    """Return a job once it has ended."""
    for _ in range(600):
        job = server.api("GET", f"/jobs/{job_id}").json()
        if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "LOST"):
            return dict(job)
        time.sleep(0.05)
    pytest.fail(f"still {job}")


def frames(body: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Return the frames of a log answer."""
    found = []
    while body:
        line, _, rest = body.partition(b"\n")
        head = json.loads(line)
        found.append((head, rest[: head["bytes"]]))
        body = rest[head["bytes"] :]
    return found


def test_the_table_names_every_route() -> None:
    served = {(method, re.sub(r"\(\?P<\w+>[^)]*\)", "X", route.path)) for route in ROUTES for method in route.methods}
    shown = {
        (method, re.sub(rf"{ID}|(?<=/)none|[?].*", lambda found: "" if found[0][0] == "?" else "X", path))
        for method, path, _status in TABLE
    }
    assert shown == served
    assert set(HANDLERS) == {route.path for route in ROUTES}
    for route in ROUTES:
        handler = HANDLERS[route.path]
        own = {method for method in ("GET", "POST", "PUT", "DELETE") if method.lower() in vars(handler)}
        assert own == set(route.methods)
        assert handler.auth_resource == f"jupyter_dlenv:{route.resource}"


def test_the_description_names_every_route() -> None:
    text = (Path(jupyter_dlenv.__file__).parent / "server" / "rest-api.yml").read_text()
    described = {(method.upper(), path) for path, verbs in yaml.safe_load(text)["paths"].items() for method in verbs}
    served = {
        (method, re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", route.path)) for route in ROUTES for method in route.methods
    }
    assert described == served


@pytest.mark.parametrize(("method", "path", "status"), TABLE)
def test_who_may(server: ServerProcess, method: str, path: str, status: int) -> None:
    address = f"/dlenv/api/v1{path}"
    body = {} if method in ("POST", "PUT") else None
    assert server.call(method, address, body, token="").status == 403
    assert server.call(method, address, body, token="wrong").status == 403
    reply = server.call(method, address, body)
    assert reply.status in (status, 503), reply.body
    if reply.status >= 400:
        assert set(reply.json()) == {"error", "message", "hint"}


def test_an_authorizer_is_asked_for_every_route(tmp_path: Path) -> None:
    with denying_server(tmp_path, "not resource.startswith('jupyter_dlenv:')") as process:
        for method, path, _status in TABLE:
            body = {} if method in ("POST", "PUT") else None
            assert process.api(method, path, body).status == 403, (method, path)


@pytest.mark.parametrize("action", ["write", "execute"])
def test_who_may_not_use_terminals_gets_none_here(tmp_path: Path, action: str) -> None:
    (tmp_path / "denying.py").write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class Denying(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        f"        return (action, resource) != ({action!r}, 'terminals')\n"
    )
    config = "c.ServerApp.authorizer_class = 'denying.Denying'\n"
    for reply in terminals_asked_for(tmp_path, config):
        assert (reply.status, reply.json()["error"]) == (403, "Denied")


def test_a_server_without_terminals_says_so(tmp_path: Path) -> None:
    for reply in terminals_asked_for(tmp_path, "c.ServerApp.terminals_enabled = False\n"):
        assert (reply.status, reply.json()["error"]) == (400, "Unsupported")
        assert reply.json()["hint"] == f"jupyter dlenv shell {ID}"


def terminals_asked_for(tmp_path: Path, text: str) -> list[Reply]:
    """Return what a server with that configuration answers to those who want a terminal."""
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text(text)
    env = {"PYTHONPATH": str(tmp_path), "JUPYTER_CONFIG_DIR": str(config)}
    process = ServerProcess(tmp_path, tmp_path / "log", env=env)
    try:
        process.wait()
        return [process.api("POST", f"/{kind}/{ID}/terminal", {}) for kind in ("kernels", "jobs")]
    finally:
        process.stop()


def test_only_a_person_gets_a_terminal() -> None:
    doors = [route for route in ROUTES if route.path.endswith("/terminal")]
    assert len(doors) == 2
    for route in doors:
        assert list(route.methods_for(Principal("alice"))) == ["POST"]
        assert list(route.methods_for(Principal("alice", kernel=ID))) == []


def test_the_server_s_socket_opens_no_terminal(server: ServerProcess) -> None:
    client = Client(str(server_socket(server.process.pid)))
    with pytest.raises(Unsupported):
        client.call("POST", f"/kernels/{ID}/terminal", {})


def test_no_handler_is_open_to_the_world(server: ServerProcess) -> None:
    warned = [line for line in server.log.read_text().splitlines() if "JupyterServerAuthWarning" in line]
    assert not [line for line in warned if "dlenv" in line]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b'{"image": "a", "image": "b"}', {}),
        (b"[]", {}),
        (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b'{"uid": 0}', {}),
        (b"[" * 100_000, {}),
        (json.dumps({f"k{i}": 1 for i in range(10_000)}).encode(), {}),
    ],
)
def test_bad_bodies_are_refused(server: ServerProcess, body: bytes, headers: dict[str, str]) -> None:
    assert server.call("POST", "/dlenv/api/v1/jobs", body, headers=headers).status == 400


@pytest.mark.parametrize("job_id", ["..%2f..%2fimages", "x?force=1", "%00", "a%0d%0ab", "x" * 5000, "postgres"])
def test_strange_ids_are_nobody_s(server: ServerProcess, job_id: str) -> None:
    assert server.api("GET", f"/jobs/{job_id}").status in (400, 404)


def test_a_job_runs_and_its_log_streams(server: ServerProcess) -> None:
    job = submit(server, "import time\nfor i in range(3):\n    print('line', i)\n    time.sleep(0.2)\n")
    reply = server.api("GET", f"/jobs/{job['id']}/log?follow=1")
    assert reply.status == 200
    pieces = frames(reply.body)
    assert b"".join(data for _head, data in pieces) == b"line 0\nline 1\nline 2\n"
    last = pieces[-1][0]["job"]
    assert (last["state"], last["exit_code"], last["log_bytes"]) == ("SUCCEEDED", 0, 21)
    assert Path(last["log_path"]).read_bytes() == b"line 0\nline 1\nline 2\n"
    again = frames(server.api("GET", f"/jobs/{job['id']}/log?cursor={pieces[0][0]['cursor']}").body)
    assert b"".join(data for _head, data in pieces[1:]) == b"".join(data for _head, data in again)
    assert server.api("GET", f"/jobs/{job['id']}/log?cursor=zz").status == 400
    tail = frames(server.api("GET", f"/jobs/{job['id']}/log?tail=8").body)
    assert b"".join(data for _head, data in tail) == b"line 2\n"


def test_the_same_request_is_one_job(server: ServerProcess) -> None:
    request_id = new_id()
    first = submit(server, "print(1)", request_id=request_id)
    assert submit(server, "print(1)", request_id=request_id)["created_at"] == first["created_at"]
    assert [job["id"] for job in server.api("GET", "/jobs").json()["jobs"]].count(request_id) == 1


def test_a_failure_tells_exit_code_and_traceback(server: ServerProcess) -> None:
    job = ended(server, submit(server, "1/0")["id"])
    assert (job["state"], job["exit_code"]) == ("FAILED", 1)
    assert job["traceback"].splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_cancel_stops_and_delete_removes(server: ServerProcess) -> None:
    job = submit(server, "import time; print('up'); time.sleep(600)")
    assert server.api("DELETE", f"/jobs/{job['id']}").status == 409
    stopped = server.api("POST", f"/jobs/{job['id']}/cancel", {}).json()
    assert (stopped["state"], stopped["reason"]) == ("CANCELLED", "stopped by its owner")
    assert server.api("POST", f"/jobs/{job['id']}/cancel", {}).status == 200
    assert server.api("DELETE", f"/jobs/{job['id']}").status == 204
    assert server.api("GET", f"/jobs/{job['id']}").status == 404
    assert not Path(job["log_path"]).exists()


def test_values_of_secrets_are_kept_nowhere(server: ServerProcess) -> None:
    job = submit(server, "import os; print(len(os.environ['TOKEN']))", secrets={"TOKEN": "s3cr3t-value"})
    done = ended(server, job["id"])
    folder = Path(done["log_path"]).parents[1]
    assert Path(done["log_path"]).read_text() == "12\n"
    kept = [path for path in folder.rglob("*") if path.is_file() and b"s3cr3t-value" in path.read_bytes()]
    assert not kept
    assert "s3cr3t-value" not in json.dumps(done) + server.log.read_text()


def test_environments_are_kernelspecs(server: ServerProcess) -> None:
    reply = server.api(
        "PUT", "/environments/lab-1", {"image": "lab/torch:1", "memory": "8g", "mounts": ["/data:/data:ro"]}
    )
    assert reply.status == 200, reply.body
    spec = server.call("GET", "/api/kernelspecs/lab-1").json()["spec"]
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "dlenv-container"
    assert server.api("GET", "/environments/lab-1").json()["memory"] == "8g"
    assert "lab-1" in [item["name"] for item in server.api("GET", "/environments").json()["environments"]]
    assert server.api("DELETE", "/environments/lab-1").status == 204
    assert server.api("GET", "/environments/lab-1").status == 404


@pytest.mark.docker
def test_a_build_streams_its_log_and_says_what_it_made(server: ServerProcess) -> None:
    base = docker_images.base_image()
    made = server.api("POST", "/builds", {"dockerfile": f"FROM {base}\nENV WHO=me\n", "tag": "rest"})
    assert made.status == 200
    pieces = frames(made.body)
    assert b"ENV WHO=me" in b"".join(data for _head, data in pieces)
    built = pieces[-1][0]["build"]
    try:
        assert (pieces[-1][0]["state"], built["tag"]) == ("SUCCEEDED", "dlenv-built/rest:latest")
        assert docker_images.image_id(built["tag"]) == built["image"]
        failed = frames(server.api("POST", "/builds", {"dockerfile": f"FROM {base}\nRUN exit 3\n"}).body)
        assert (failed[-1][0]["state"], failed[-1][0]["error"]["error"]) == ("FAILED", "BuildFailed")
    finally:
        docker_images.engine().remove_image(built["tag"], force=True)
    assert server.api("POST", "/builds", {"apt": ["hello"], "environment": "none"}).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"image": "--privileged"},
        {"image": "UPPER/case"},
        {"image": "a/b", "memory": "lots"},
        {"image": "a/b", "gpus": "2;id"},
        {"image": "a/b", "network": "container:x"},
        {"image": "a/b", "mounts": ["relative:/x"]},
        {"image": "a/b", "uid": "0"},
        {"image": "a/b", "name": "other"},
        {"image": "a/b", "engine": "ssh"},
        {"image": 1},
        [],
    ],
)
def test_bad_environments_are_refused(server: ServerProcess, body: Any) -> None:
    assert server.api("PUT", "/environments/bad", body).status == 400


def test_other_kernels_are_not_replaced(server: ServerProcess) -> None:
    assert server.api("PUT", "/environments/python3", {"image": "a/b"}).status == 409
    assert server.api("DELETE", "/environments/python3").status == 404


def test_the_server_s_socket_is_private_and_serves_the_same_jobs(server: ServerProcess) -> None:
    path = server_socket(server.process.pid)
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    job = submit(server, "print('both')")
    ended(server, job["id"])
    client = Client(str(path))
    assert client.call("GET", f"/jobs/{job['id']}")["state"] == "SUCCEEDED"
    assert b"".join(frame.data for frame in client.follow(job["id"])) == b"both\n"


def test_the_socket_goes_with_the_server(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, tmp_path / "log")
    process.wait()
    path = server_socket(process.process.pid)
    assert path.exists()
    process.stop()
    assert not path.exists()
    assert os.path.isdir(path.parent)
