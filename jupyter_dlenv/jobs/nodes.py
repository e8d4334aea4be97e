"""The nodes of one job: how many, which of them are here, and where they find each other. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidRequest
from ..i18n import _
from ..options import RunRequest

PORT = 29500
"""The first of the ports that launchers use where a network is the job's own."""

PORTS = 64
"""How many of them a job may use."""

_ADDRESS = re.compile(r"(?P<host>[0-9A-Za-z._-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True)
class Nodes:
    """Where the replicas of one job are.

    Attributes:
        nnodes: Nodes of the whole job.
        first: Rank of the first node here.
        replicas: How many are here.
        addresses: Where the nodes find each other, by rank; node 0's alone where the others' are not known.
        port: The first port that they use.
        network: The containers' network.
    """

    nnodes: int
    first: int
    replicas: int
    addresses: tuple[str, ...]
    port: int
    network: str

    @property
    def peers(self) -> tuple[str, ...]:
        """The names that a network of the job's own must know before a launcher starts."""
        return self.addresses if self.replicas > 1 and self.network != "host" else ()


def nodes_of(request: RunRequest, network: str, free_port: int) -> Nodes:
    """Return where the nodes of a request are.

    Args:
        network: What its containers would get without several nodes: ``none``, ``bridge`` or ``host``.
        free_port: The first of :data:`PORTS` ports that are free on this host.

    Raises:
        InvalidRequest: ``--node-rank`` and ``--master`` do not go with the rest.
    """
    if request.node_rank is not None or request.master:
        return _one_of_several_hosts(request, network)
    if request.nodes == 1:
        return Nodes(1, 0, 1, ("127.0.0.1",), free_port if network == "host" else PORT, network)
    if network == "host":
        return Nodes(request.nodes, 0, request.nodes, ("127.0.0.1",) * request.nodes, free_port, network)
    names = tuple(f"node-{rank}" for rank in range(request.nodes))
    return Nodes(request.nodes, 0, request.nodes, names, PORT, network)


def _one_of_several_hosts(request: RunRequest, network: str) -> Nodes:
    hint = "--nodes 2 --node-rank 0 --master HOST:29500"
    if request.node_rank is None or not request.master:
        raise InvalidRequest(_("--node-rank and --master go together, the same on each host but the rank."), hint=hint)
    if not 0 <= request.node_rank < request.nodes:
        message = _("--node-rank {rank} is none of the {nodes} nodes: ranks begin at 0.")
        raise InvalidRequest(message.format(rank=request.node_rank, nodes=request.nodes), hint=hint)
    if network == "none" or request.network == "bridge":
        message = _("Nodes on several hosts reach each other by their hosts' network alone, not by {network}.")
        raise InvalidRequest(message.format(network=request.network or network), hint="--network host")
    addresses, port = parse_master(request.master)
    if len(addresses) not in (1, request.nodes):
        message = _("--master names {count} hosts, and the job has {nodes} nodes.")
        raise InvalidRequest(message.format(count=len(addresses), nodes=request.nodes), hint=hint)
    return Nodes(request.nodes, request.node_rank, 1, addresses, port, "host")


def parse_master(text: str) -> tuple[tuple[str, ...], int]:
    """Return the addresses and the port in ``HOST:PORT``, or in several of them by commas with one port.

    Raises:
        InvalidRequest: It is neither.
    """
    found = [_ADDRESS.fullmatch(part.strip()) for part in text.split(",")]
    ports = {int(match["port"]) for match in found if match}
    if not all(found) or len(ports) != 1 or not 0 < min(ports) <= 65535 - PORTS:
        raise InvalidRequest(
            _("--master takes HOST:PORT, not {text!r}.").format(text=text[:80]),
            hint=_("Example: --master gpu-1.example.org:29500, a name or an IPv4 address; several nodes by commas."),
        )
    return tuple(str(match["host"]) for match in found if match), ports.pop()
