"""Where the other replicas are, and where this one is."""

import os
import socket
import time

from .files import ALIVE, folder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence

PATIENCE_S = 60.0
STARTING_S = 30.0
ASK_S = 0.05
SOMEWHERE = "192.0.2.1"  # reserved for documentation: nobody has it, and nothing is sent there
DISCARD_PORT = 9


def wait_for(run_dir: bytes, replicas: int, names: "List[str]") -> int:
    """Return when each name has an address, or after a minute; names that are missing then are told."""
    begin = time.monotonic()
    # A name server may take long to say that it does not know a name, so it is asked when the replicas are there.
    files = [os.path.join(run_dir, folder_of(index).encode(), ALIVE) for index in range(replicas)]
    while not all(map(os.path.exists, files)) and time.monotonic() - begin < STARTING_S:
        time.sleep(ASK_S)
    missing = names
    while True:
        missing = [name for name in missing if _address(name) is None]
        if not missing:
            return 0
        if time.monotonic() - begin > PATIENCE_S:
            print(f"[dlenv] These nodes have no address after {PATIENCE_S:.0f} s: {' '.join(missing)}.", flush=True)
            return 0
        time.sleep(ASK_S)


def own_address(peers: "Sequence[str]") -> str:
    """Return the address under which others reach this replica."""
    name = socket.gethostname()
    address = _address(name)
    if address is not None and not address.startswith("127."):
        return address
    others = [_address(peer) for peer in peers]  # plain hosts call themselves 127.0.1.1
    for other in [*others, SOMEWHERE]:
        found = _towards(other) if other else None
        if found and not found.startswith("127."):
            return found
    return address or "127.0.0.1"


def _address(name: str) -> "Optional[str]":
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        return None


def _towards(address: str) -> "Optional[str]":
    """Return the address that this replica has for another."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((address, DISCARD_PORT))
            return str(asked.getsockname()[0])
        except OSError:
            return None
