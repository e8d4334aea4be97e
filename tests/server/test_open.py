"""Pages of kernels and jobs through a real Jupyter server: who may, what arrives, and that nothing is published."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import environment
from jupyter_server_process import ServerProcess, denying_server
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from jupyter_dlenv.errors import Conflict, InvalidRequest, NotFound, Unsupported
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.kernels.environments import Environment
from jupyter_dlenv.notebook.open import link, open_body, open_parser
from jupyter_dlenv.server.open import Openings
from jupyter_dlenv.server.proxy import without_credentials, without_token
from jupyter_dlenv.shell.channels import PORT, PYTHON
from jupyter_dlenv.shell.opening import OpenRequest, open_request_from_json, tensorboard_argv
from jupyter_dlenv.shell.tunnel import Tunnel, open_tunnel
from jupyter_dlenv.shell.ways import on_host

COMMAND = [sys.executable, "-m", "jupyter_dlenv", "open"]
ID = "5ab4c0de-0000-4000-8000-0000000000aa"
ME = Principal("alice")
PATIENCE_S = 60
TENSORBOARD = ("tensorboard==2.20.0", "setuptools<81")

# tornado comes with the kernel's runtime.
SERVICE = """
import asyncio, json, threading
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

class Page(RequestHandler):
    def get(self, path):
        if path == "away":
            self.redirect("/there")
            return
        self.write({"path": path, "query": self.request.query, "headers": dict(self.request.headers)})
    def post(self, path):
        self.write(self.request.body[::-1])

class Echo(WebSocketHandler):
    def on_message(self, message):
        answer = json.dumps(dict(self.request.headers)) if message == "headers" else message[::-1]
        self.write_message(answer, binary=isinstance(message, bytes))

async def serve():
    Application([("/echo", Echo), ("/(.*)", Page)]).listen(8765, "127.0.0.1")
    print("up", flush=True)
    await asyncio.Event().wait()
"""


def opened(said: str) -> str:
    """Return the path of the page in what ``%dlopen`` showed."""
    found = re.search(r"/dlenv/open/[A-Za-z0-9_-]+/", said)
    assert found, said
    return found[0]


@pytest.fixture(scope="module")
def kernel(server: ServerProcess) -> Iterator[str]:
    """A container kernel without network, in which a page is served."""
    environment("page", image=docker_images.base_image(), network="none")
    reply = server.call("POST", "/api/kernels", {"name": "page", "path": ""})
    assert reply.status == 201, reply.body
    kernel_id = str(reply.json()["id"])
    code = SERVICE + "\nthreading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()"
    assert "up" in run(server, kernel_id, code + "\nimport time; time.sleep(1)")
    yield kernel_id
    server.call("DELETE", f"/api/kernels/{kernel_id}")


def logged_in(server: ServerProcess, page: str) -> CookieJar:
    """Return the cookies of a browser that came with the token once."""
    jar = CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(f"{server.url}{page}?token={server.token}", timeout=PATIENCE_S).read()
    assert [cookie for cookie in jar if cookie.name.startswith("username-")]
    return jar


def run(server: ServerProcess, kernel_id: str, code: str) -> str:
    return asyncio.run(server.converse(kernel_id, code))


@pytest.fixture(scope="module")
def page(server: ServerProcess, kernel: str) -> str:
    """The path of that page on the server, as the kernel itself got it."""
    code = "from jupyter_dlenv.notebook.magics import find_client\n"
    code += "print(find_client().call('POST', '/open', {'port': 8765})['path'])"
    return opened(run(server, kernel, code))


real = [pytest.mark.docker, pytest.mark.server]


class TestPage:
    """One page, asked for in every way."""

    pytestmark = real

    def test_it_is_there_with_its_prefix_taken_off(self, server: ServerProcess, page: str) -> None:
        answer = server.call("GET", f"{page}some/path?a=1&b=%20").json()
        assert (answer["path"], answer["query"]) == ("some/path", "a=1&b=%20")
        assert answer["headers"]["X-Forwarded-Prefix"] == page.rstrip("/")
        assert server.call("POST", f"{page}any", b"forward").body == b"drawrof"

    def test_redirects_stay_below_it(self, server: ServerProcess, page: str) -> None:
        assert server.call("GET", f"{page}away").json()["path"] == "there"
        assert server.call("GET", page.rstrip("/")).json()["path"] == ""

    def test_nobody_else_sees_it(self, server: ServerProcess, page: str) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert server.call(method, page, {}, token="").status == 403
            assert server.call(method, page, {}, token="wrong").status == 403
        assert b"password or token" in server.call("GET", page, token="").body.lower()
        other = page.replace(page[-5:-1], "AAAA")
        assert server.call("GET", other).status == 404
        assert server.call("GET", "/dlenv/open/../x/").status == 404

    def test_the_container_learns_nothing_that_opens_the_server(self, server: ServerProcess, page: str) -> None:
        jar = logged_in(server, page)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        text = browser.open(f"{server.url}{page}x?token={server.token}&kept=1", timeout=PATIENCE_S).read().decode()
        assert json.loads(text)["query"] == "kept=1"
        for secret in [server.token, *(str(cookie.value) for cookie in jar)]:
            assert secret not in text
        assert server.token not in server.call("GET", page).body.decode()
        asked = urllib.request.Request(
            f"{server.url}{page}x?a=%26&token=%{ord(server.token[0]):x}{server.token[1:]}",
            headers={"Referer": f"{server.url}{page}?token={server.token}"},
        )
        answer = json.loads(browser.open(asked, timeout=PATIENCE_S).read())
        assert (answer["query"], answer["headers"]["Referer"]) == ("a=%26", f"{server.url}{page}")
        assert server.token not in str(answer)

    async def test_a_websocket_s_protocols_are_handed_on_without_jupyter_s(
        self, server: ServerProcess, page: str
    ) -> None:
        address = f"{server.url.replace('http', 'ws', 1)}{page}echo"
        ours = f"v1.token.websocket.jupyter.org.{server.token}"
        for offered, handed_on in (([ours, "chat"], "chat"), ([ours], None), (["chat", "talk"], "chat,talk")):
            request = HTTPRequest(address, headers={"Authorization": f"token {server.token}"})
            channel = await websocket_connect(request, subprotocols=offered)
            await channel.write_message("headers")
            told = json.loads(str(await channel.read_message()))
            channel.close()
            assert (told.get("Sec-Websocket-Protocol"), server.token in str(told)) == (handed_on, False)

    async def test_websockets_go_both_ways(self, server: ServerProcess, page: str) -> None:
        address = f"{server.url.replace('http', 'ws', 1)}{page}echo"
        channel = await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {server.token}"}))
        for sent in ("text", b"bytes" * 50_000):
            await channel.write_message(sent, binary=isinstance(sent, bytes))
            assert await channel.read_message() == sent[::-1]
        channel.close()
        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(HTTPRequest(address))
        assert refused.value.code in (302, 403)

    async def test_another_origin_s_websocket_is_refused(self, server: ServerProcess, page: str) -> None:
        address = f"{server.url.replace('http', 'ws', 1)}{page}echo"
        cookies = "; ".join(
            f"{cookie.name}={cookie.value}" for cookie in await asyncio.to_thread(logged_in, server, page)
        )
        (await websocket_connect(HTTPRequest(address, headers={"Cookie": cookies, "Origin": server.url}))).close()
        with pytest.raises(HTTPClientError) as refused:
            await websocket_connect(HTTPRequest(address, headers={"Cookie": cookies, "Origin": "http://evil.example"}))
        assert refused.value.code == 403

    def test_the_same_again_is_the_same_address(self, server: ServerProcess, kernel: str, page: str) -> None:
        code = "from jupyter_dlenv.notebook.magics import find_client\n"
        code += "print(find_client().call('POST', '/open', {'port': 8765})['path'])"
        assert opened(run(server, kernel, code)) == page
        assert opened(server.api("POST", "/open", {"target": kernel, "port": 8765}).json()["path"]) != page

    def test_the_magic_shows_a_link(self, server: ServerProcess, kernel: str, page: str) -> None:
        code = "%load_ext jupyter_dlenv\nfrom IPython.utils.capture import capture_output\n"
        code += "with capture_output() as shown:\n    get_ipython().run_line_magic('dlopen', '8765')\n"
        code += "print(shown.outputs[0].data['text/html'])"
        said = run(server, kernel, code)
        assert f'href="{opened(said)}" target="_blank"' in said
        assert server.call("GET", f"{opened(said)}x").json()["path"] == "x"

    def test_the_command_finds_the_server(self, server: ServerProcess, kernel: str) -> None:
        done = subprocess.run(
            [*COMMAND, kernel[:8], "8765", "--json"], cwd=server.root, capture_output=True, text=True, check=True
        )
        answer = json.loads(done.stdout)
        assert (answer["target"], answer["port"]) == (kernel, 8765)
        assert answer["url"] == server.url + answer["path"]
        assert server.call("GET", answer["path"]).status == 200

    def test_the_command_can_do_without_a_server(self, kernel: str) -> None:
        command = [*COMMAND, kernel, "8765", "--local"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().split()[-1]
                with urllib.request.urlopen(f"{address}here", timeout=PATIENCE_S) as answer:
                    assert json.loads(answer.read())["path"] == "here"
            finally:
                process.terminate()

    def test_nothing_is_published(self, kernel: str, page: str) -> None:
        wanted = {"label": f"io.jupyter-dlenv.kernel={kernel}"}
        found = docker_images.engine().containers(filters=wanted)
        assert page
        assert [(item["Ports"], item["HostConfig"]["NetworkMode"]) for item in found] == [([], "none")]

    def test_another_kernel_s_port_is_not_for_a_kernel(self, server: ServerProcess, kernel: str) -> None:
        code = "from jupyter_dlenv.notebook.magics import find_client\n"
        code += f"find_client().call('POST', '/open', {{'port': 8765, 'target': {kernel!r}}})"
        assert "Denied" in server.execute("page", code)

    def test_no_tensorboard_no_page(self, server: ServerProcess, kernel: str) -> None:
        said = run(server, kernel, "%load_ext jupyter_dlenv\n%dlopen --tensorboard runs")
        assert "TensorBoard is not installed" in said
        assert "%pip install tensorboard" in said


@pytest.mark.docker
@pytest.mark.server
def test_the_end_of_the_kernel_is_the_end_of_the_page(server: ServerProcess) -> None:
    environment("brief", image=docker_images.base_image(), network="none")
    kernel_id = str(server.call("POST", "/api/kernels", {"name": "brief", "path": ""}).json()["id"])
    path = server.api("POST", "/open", {"target": kernel_id, "port": 8765}).json()["path"]
    nobody = server.call("GET", path)
    assert (nobody.status, b"Nothing answers at port 8765 there." in nobody.body) == (502, True)
    server.call("DELETE", f"/api/kernels/{kernel_id}")
    deadline = time.monotonic() + PATIENCE_S
    while server.call("GET", path).status != 404:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.api("POST", "/open", {"target": kernel_id, "port": 8765}).status == 404


@pytest.mark.docker
@pytest.mark.server
def test_a_restarted_kernel_is_reached_anew(server: ServerProcess) -> None:
    environment("again", image=docker_images.base_image(), network="none")
    kernel_id = str(server.call("POST", "/api/kernels", {"name": "again", "path": ""}).json()["id"])
    code = SERVICE + "\nthreading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()"
    try:
        paths = set()
        for _start in range(2):
            assert "up" in run(server, kernel_id, code + "\nimport time; time.sleep(1)")
            path = server.api("POST", "/open", {"target": kernel_id, "port": 8765}).json()["path"]
            assert server.call("GET", path).status == 200
            paths.add(path)
            assert server.call("POST", f"/api/kernels/{kernel_id}/restart").status == 200
        assert len(paths) == 2
    finally:
        server.call("DELETE", f"/api/kernels/{kernel_id}")


@pytest.mark.docker
@pytest.mark.server
@pytest.mark.slow
def test_tensorboard_of_a_kernel(server: ServerProcess) -> None:
    dockerfile = f"FROM {docker_images.base_image()}\nCOPY wheels /wheels\n"
    dockerfile += "RUN pip install --break-system-packages --no-index --find-links /wheels tensorboard setuptools\n"
    image = docker_images.image_from(dockerfile, "tensorboard", wheels=TENSORBOARD)
    environment("board", image=image, network="none")
    events = "from tensorboard.compat.proto import event_pb2, summary_pb2\n"
    events += "from tensorboard.summary.writer.event_file_writer import EventFileWriter\n"
    events += "w = EventFileWriter('runs')\n"
    events += "v = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag='loss', simple_value=0.5)])\n"
    events += "w.add_event(event_pb2.Event(wall_time=1, step=3, summary=v)); w.close()\n"
    code = events + "%load_ext jupyter_dlenv\nfrom IPython.utils.capture import capture_output\n"
    code += "with capture_output() as shown:\n    get_ipython().run_line_magic('dlopen', '--tensorboard runs')\n"
    code += "print(shown.outputs[0].data['text/html'])"
    kernel_id = str(server.call("POST", "/api/kernels", {"name": "board", "path": ""}).json()["id"])
    try:
        path = opened(run(server, kernel_id, code))
        assert b"<title>TensorBoard</title>" in server.call("GET", path).body
        deadline = time.monotonic() + PATIENCE_S
        while not (tags := server.call("GET", f"{path}data/plugin/scalars/tags").json()):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert tags == {".": {"loss": {"displayName": "", "description": ""}}}
    finally:
        server.call("DELETE", f"/api/kernels/{kernel_id}")


@pytest.mark.server
def test_a_job_of_plain_processes_has_pages_too(server: ServerProcess) -> None:
    code = "import http.server, socketserver\n"
    code += "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
    code += "print('port', s.server_port, flush=True)\ns.serve_forever()\n"
    body = {"request_id": ID, "cell": code, "engine": "process"}
    job = server.api("POST", "/jobs", body).json()
    try:
        port, deadline = "", time.monotonic() + PATIENCE_S
        while not port:
            with contextlib.suppress(OSError):
                port = "".join(re.findall(r"port (\d+)", Path(job["log_path"]).read_text()))
            assert time.monotonic() < deadline
            time.sleep(0.1)
        path = server.api("POST", "/open", {"target": job["id"], "port": int(port)}).json()["path"]
        assert b"Directory listing" in server.call("GET", path).body
    finally:
        server.api("POST", f"/jobs/{ID}/cancel", {"force": True})
    deadline = time.monotonic() + PATIENCE_S
    while server.api("POST", "/open", {"target": job["id"], "port": int(port)}).status != 404:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.call("GET", path).status == 404


@pytest.mark.server
def test_an_authorizer_may_refuse_pages(tmp_path: Path) -> None:
    with denying_server(tmp_path, "resource != 'jupyter_dlenv:open'") as process:
        assert process.api("POST", "/open", {"port": 1}).status == 403
        assert process.call("GET", "/dlenv/open/any/").status == 403


# Pure -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {"port": "80"},
        {"port": True},
        {"port": 80, "logdir": "x"},
        {"port": 80, "target": 1},
        {"logdir": "a\0b"},
        {"port": 80, "host": "10.0.0.1"},
    ],
)
def test_bad_requests_are_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        open_request_from_json(body)


def test_tensorboard_gets_a_whole_path_and_a_free_port() -> None:
    argv = tensorboard_argv(PYTHON, "runs/../x", "/project/a b")
    assert argv[argv.index("--logdir") + 1] == "/project/a b/x"
    assert argv[-1] == PORT
    assert "s3://bucket/x" in tensorboard_argv(PYTHON, "s3://bucket/x", "/project")
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("line", "target", "port", "logdir"),
    [
        ("8000", "", 8000, None),
        ("5ab4 8000", "5ab4", 8000, None),
        ("--tensorboard runs", "", None, "runs"),
        ("5ab4 --tensorboard runs", "5ab4", None, "runs"),
        ("--tensorboard runs 1234", "1234", None, "runs"),
    ],
)
def test_words_become_a_request(line: str, target: str, port: int | None, logdir: str | None) -> None:
    body = open_body(open_parser().parse_args(line.split()))
    assert (body["target"], body.get("port"), body.get("logdir")) == (target, port, logdir)
    assert open_request_from_json(body).folder == os.getcwd()


@pytest.mark.parametrize("line", ["", "x", "a b 80", "0", "99999", "a b --tensorboard runs", "5ab4"])
def test_other_words_are_refused(line: str) -> None:
    with pytest.raises(InvalidRequest):
        open_body(open_parser().parse_args(line.split()))


def test_a_link_is_text_not_markup() -> None:
    body = {"target": "<b>", "port": 80}
    shown = link(body, {"path": '/a"b/', "url": "http://h/a/"})
    assert shown["text/html"] == ('<a href="/a&quot;b/" target="_blank" rel="noopener">Port 80 · &lt;b&gt;</a>')


def test_cookies_of_jupyter_stay_here() -> None:
    cookie = 'a=1; _xsrf=2|x; username-127-0-0-1-8888="2|1:0"; own=3; jupyterhub-session-id=4; b="c d"'
    assert without_credentials(cookie, "own") == 'a=1; b="c d"'
    assert without_credentials("", "own") == ""


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        ("a=1&token=s3&b=%20&c", "a=1&b=%20&c"),
        ("tok%65n=%733", ""),
        ("token=+s3%20&token=theirs", "token=theirs"),
        ("other=s3", "other=s3"),
    ],
)
def test_the_server_s_token_is_taken_out_however_it_is_written(query: str, kept: str) -> None:
    assert without_token(query, "s3") == kept
    assert without_token(query, "") == query


@pytest.fixture
async def openings(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Openings]:
    """Pages of which at most three are open."""
    monkeypatch.setattr("jupyter_dlenv.server.open._MOST", 3)
    made = Openings()
    made.serve("/", lambda: "http://127.0.0.1:8888/")
    yield made
    await made.close()


def tokens(openings: Openings) -> list[str]:
    return list(openings._open)


async def test_what_is_idle_for_longest_makes_room(openings: Openings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = [server.getsockname()[1], 1, 2, 3, 4]
        first = await openings.open(ME, OpenRequest(port=ports[0]))
        used = openings.find(tokens(openings)[0], ME.owner)
        assert used is not None
        _reader, writer = await asyncio.open_unix_connection(used.tunnel.path)
        accepted, _address = await asyncio.to_thread(server.accept)
        with accepted:
            opened = [await openings.open(ME, OpenRequest(port=port)) for port in ports[1:]]
            assert [opening.port for opening in openings._open.values()] == [ports[0], 3, 4]
            assert await openings.open(ME, OpenRequest(port=ports[0])) == first
            assert await openings.open(ME, OpenRequest(port=1)) != opened[0]
        writer.close()


async def test_pages_in_use_make_no_room(openings: Openings, monkeypatch: pytest.MonkeyPatch) -> None:
    for port in (1, 2, 3):
        await openings.open(ME, OpenRequest(port=port))
    monkeypatch.setattr(Tunnel, "idle_since", None)
    with pytest.raises(Conflict, match="3 pages") as caught:
        await openings.open(ME, OpenRequest(port=4))
    assert "browser" in caught.value.hint
    assert len(tokens(openings)) == 3


async def test_what_has_ended_is_not_found_again(openings: Openings, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: set[int] = set()

    async def open_one(_principal: Principal, request: OpenRequest) -> tuple[Tunnel, str]:
        async def runs() -> bool:
            return request.port not in ended

        if not await runs():
            raise NotFound("ended")
        return await open_tunnel(lambda: on_host(None, runs), str(request.port)), ID

    monkeypatch.setattr("jupyter_dlenv.server.open.open_for", open_one)
    for port in (1, 2, 3):
        await openings.open(ME, OpenRequest(port=port))
    before = tokens(openings)
    ended.update((1, 3))
    with pytest.raises(NotFound):
        await openings.open(ME, OpenRequest(port=1))
    assert tokens(openings) == before[1:2]
    assert (await openings.open(ME, OpenRequest(port=2)))["path"] == f"/dlenv/open/{before[1]}/"


async def test_without_a_server_there_is_no_page() -> None:
    with pytest.raises(Unsupported) as caught:
        await Openings().open(Principal("alice"), OpenRequest(port=80))
    assert caught.value.hint == "jupyter lab"


async def test_without_the_proxy_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_dlenv.server.open.PACKAGE", "no_such_package")
    made = Openings()
    made.serve("/", lambda: "http://127.0.0.1:8888/")
    with pytest.raises(Unsupported) as caught:
        await made.open(Principal("alice"), OpenRequest(port=80))
    assert caught.value.hint == "pip install jupyter-server-proxy"


async def test_a_kernel_that_runs_no_more_has_no_page() -> None:
    made = Openings()
    made.serve("/", lambda: "http://127.0.0.1:8888/")
    principal = Principal("nobody-of-this-name", kernel=ID, environment=Environment("x", image="a/b"))
    with pytest.raises(NotFound):
        await made.open(principal, OpenRequest(port=80))
