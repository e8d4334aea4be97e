"""Which GPUs are connected to which, from what each of them tells of its NVLink lanes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from .model import Link, Path


@dataclass(frozen=True)
class Ports:
    """A GPU's NVLink lanes that are up.

    Attributes:
        peers: The PCI address at the other end of each lane that ends at a GPU or anywhere unknown.
        switched: Number of lanes that end at an NVSwitch.
    """

    uuid: str
    bus_id: str = ""
    peers: tuple[str, ...] = field(default=())
    switched: int = 0


def links(
    ports: Sequence[Ports],
    path: Callable[[int, int], int | None],
    reachable: Callable[[int, int], bool | None],
) -> tuple[Link, ...]:
    """Return one link for each pair of which something is known.

    Args:
        path: NVML's number for the way on the bus between two places in ``ports``.
        reachable: Whether the driver calls NVLink usable between two places; None where it does not tell.
    """
    found = []
    for one, other in combinations(range(len(ports)), 2):
        way = _path(path(one, other))
        lanes = _lanes(ports[one], ports[other], reachable(one, other))
        if lanes or way is not None:
            found.append(Link(ports[one].uuid, ports[other].uuid, lanes, way))
    return tuple(found)


def _lanes(one: Ports, other: Ports, reachable: bool | None) -> int:
    """Lanes are counted from both ends, because a driver may tell of one end only.

    Through a switch two GPUs reach each other with all the lanes of the one that has fewer. A driver that calls NVLink
    usable without telling of lanes means at least one.
    """
    direct = max(_count(one, other), _count(other, one))
    switched = 0 if reachable is False else min(one.switched, other.switched)
    return direct + switched or int(bool(reachable))


def _count(one: Ports, other: Ports) -> int:
    wanted = same_bus(other.bus_id)
    return sum(same_bus(peer) == wanted for peer in one.peers) if wanted else 0


def _path(level: int | None) -> Path | None:
    known = [path for path in Path if path == level]
    return known[0] if known else None


def same_bus(address: str) -> str:
    """Return a PCI address as the kernel writes it: ``0000:3b:00.0`` for the driver's ``00000000:3B:00.0``."""
    domain, colon, rest = address.lower().partition(":")
    return f"{domain[-4:]}{colon}{rest}"
