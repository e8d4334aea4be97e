"""Horovod has no wheel, so a stand-in holds us to its contract: names of its modules, and what its ranks read and do.

The stand-in's ranks meet as Horovod's do with Gloo: each puts its address under its number into the scopes ``global``,
``local_HOST`` and ``cross_LOCALRANK`` of the server that the variables name, and waits for the others of its scope.
Those of the server's node end last, because in Horovod all ranks agree on their end.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.shim import FOLDER
from jupyter_dlenv.launchers import Launch, Program, command

PATIENCE_S = 120

HOSTS = """
from collections import namedtuple
Slot = namedtuple("Slot", "hostname rank size local_rank local_size cross_rank cross_size")

def parse_hosts(text):
    return [(host, int(slots)) for host, slots in (part.split(":") for part in text.split(","))]

def get_host_assignments(hosts, size):
    assert sum(slots for _, slots in hosts) == size
    every = [(host, node, local, slots) for node, (host, slots) in enumerate(hosts) for local in range(slots)]
    return [Slot(h, rank, size, l, s, node, len(hosts)) for rank, (h, node, l, s) in enumerate(every)]
"""
SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class RendezvousHandler(BaseHTTPRequestHandler):
    def do_PUT(self):
        self.server.values[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")
    def do_GET(self):
        value = self.server.values.get(self.path)
        self.answer(404 if value is None else 200, value or b"")
    def answer(self, status, body):
        self.send_response(status); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

class RendezvousHTTPServer(ThreadingHTTPServer):
    def __init__(self, address, handler, verbose):
        super().__init__(address, handler)
        self.values = None
    def init(self, slots):
        assert [slot.rank for slot in slots] == list(range(len(slots)))
        self.values = {}
"""
RANK = """
import os, time, urllib.error, urllib.request
env = lambda name: os.environ["HOROVOD_" + name]
assert env("CONTROLLER") == env("CPU_OPERATIONS") == "gloo"
root = "http://%s:%s/" % (env("GLOO_RENDEZVOUS_ADDR"), env("GLOO_RENDEZVOUS_PORT"))

def ask(path, data=None):
    while True:
        try:
            request = urllib.request.Request(root + path, data, method="PUT" if data else "GET")
            return urllib.request.urlopen(request, timeout=30).read().decode()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)

def meet(scope, rank, size):
    ask("%s/%s" % (scope, rank), str(int(env("RANK")) + 1).encode())
    return sum(int(ask("%s/%d" % (scope, other))) for other in range(int(size)))

sums = (
    meet("global", env("RANK"), env("SIZE")),
    meet("local_" + env("HOSTNAME"), env("LOCAL_RANK"), env("LOCAL_SIZE")),
    meet("cross_" + env("LOCAL_RANK"), env("CROSS_RANK"), env("CROSS_SIZE")),
)
print("rank=%s sums=%s" % (env("RANK"), sums))
ask("end/" + env("RANK"), b"1")
if env("CROSS_RANK") == "0":
    [ask("end/%d" % rank) for rank in range(int(env("SIZE")))]
"""


def stand_in(site: Path) -> None:
    """Write a package that looks like Horovod's where our launcher looks."""
    for name in ("", "runner", "runner/common", "runner/common/util", "runner/http"):
        (site / "horovod" / name).mkdir(parents=True, exist_ok=True)
        (site / "horovod" / name / "__init__.py").touch()
    (site / "horovod/runner/common/util/hosts.py").write_text(HOSTS)
    (site / "horovod/runner/http/http_server.py").write_text(SERVER)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_ranks_of_two_nodes_meet_at_the_server_of_the_first(tmp_path: Path) -> None:
    stand_in(tmp_path / "site")
    (tmp_path / "train.py").write_text(RANK)
    run, port = RunFolder(tmp_path / "run"), free_port()
    run.create(replicas=2)

    def launch(node: int) -> Launch:
        where = {"node_rank": node, "addresses": ("127.0.0.1", "127.0.0.1"), "port": port}
        argv, folder = (str(tmp_path / "train.py"),), str(run.node(node).path)
        return command("horovod", Program(sys.executable, argv, 2, folder, {}, nnodes=2, **where))

    for node in range(2):
        told = launch(node)
        processes = [asdict(process) for process in told.processes]
        env = {**told.env, "PYTHONPATH": str(tmp_path / "site"), "no_proxy": "*"}
        ranks = {"replicas": 2, "first_rank": 2 * node, "node_rank": node, "rank_logs": told.rank_logs}
        run.node(node).write_launch(told.argv, "/", env, processes=processes, timeout_s=PATIENCE_S, **ranks)
    argv = [sys.executable, "-I", "-S", FOLDER, str(run.path)]
    nodes = [subprocess.Popen([*argv, str(node)], env=dict(os.environ)) for node in range(2)]
    assert [node.wait(2 * PATIENCE_S) for node in nodes] == [0, 0], run.log_tail()
    assert sorted(run.log_tail().decode().splitlines()) == [
        "[1] rank=1 sums=(10, 3, 6)",
        "[2] rank=2 sums=(10, 7, 4)",
        "[3] rank=3 sums=(10, 7, 6)",
        "rank=0 sums=(10, 3, 4)",
    ]
