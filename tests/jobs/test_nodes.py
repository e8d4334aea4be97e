"""Where the nodes of a job are."""

from __future__ import annotations

import socket

import pytest

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.jobs.nodes import PORTS, Nodes, nodes_of, parse_master
from jupyter_dlenv.jobs.ports import free_ports
from jupyter_dlenv.options import RunRequest


def test_one_node_needs_no_name() -> None:
    assert nodes_of(RunRequest(), "bridge", 1) == Nodes(1, 0, 1, ("127.0.0.1",), 29500, "bridge")


def test_nodes_of_one_host_have_a_network_and_names_of_their_own() -> None:
    nodes = nodes_of(RunRequest(nodes=3), "bridge", 1)
    assert nodes == Nodes(3, 0, 3, ("node-0", "node-1", "node-2"), 29500, "bridge")
    assert nodes.peers == ("node-0", "node-1", "node-2")


def test_nodes_on_the_host_s_network_share_its_address_and_free_ports() -> None:
    nodes = nodes_of(RunRequest(nodes=2), "host", 23456)
    assert nodes == Nodes(2, 0, 2, ("127.0.0.1", "127.0.0.1"), 23456, "host")
    assert nodes.peers == ()


def test_each_host_may_start_a_node_of_its_own() -> None:
    request = RunRequest(nodes=4, node_rank=2, master="gpu-1.example.org:29400")
    assert nodes_of(request, "host", 1) == Nodes(4, 2, 1, ("gpu-1.example.org",), 29400, "host")


@pytest.mark.parametrize(
    ("request_", "network", "says"),
    [
        (RunRequest(nodes=2, node_rank=0), "host", "go together"),
        (RunRequest(nodes=2, master="a:1"), "host", "go together"),
        (RunRequest(nodes=2, node_rank=2, master="a:29500"), "host", "none of the 2 nodes"),
        (RunRequest(nodes=2, node_rank=0, master="a:29500", network="bridge"), "bridge", "not by bridge"),
        (RunRequest(nodes=2, node_rank=0, master="a:29500"), "none", "not by none"),
        (RunRequest(nodes=3, node_rank=0, master="a:29500,b:29500"), "host", "names 2 hosts"),
    ],
)
def test_what_does_not_go_together_is_told(request_: RunRequest, network: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        nodes_of(request_, network, 1)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("h:29500", ("h",)),
        ("10.0.0.1:29500,10.0.0.2:29500", ("10.0.0.1", "10.0.0.2")),
    ],
)
def test_masters(text: str, addresses: tuple[str, ...]) -> None:
    assert parse_master(text) == (addresses, 29500)


@pytest.mark.parametrize(
    "text", ["", "h", "h:0", "h:65530", "h:1:2", "[fe80::1]:29500", "a:1000,b:1001", "-h x:1", "h:29500;rm", "h: 29500"]
)
def test_what_is_no_master(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_master(text)


def test_free_ports_are_free() -> None:
    first = free_ports()
    for port in (first, first + PORTS - 1):
        with socket.socket() as probe:
            probe.bind(("", port))
