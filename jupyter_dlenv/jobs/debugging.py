"""``--debug [RANK]``: a launch in which one rank waits for a debugger, and the settings that a person needs for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import launchers
from ..errors import InvalidRequest
from ..i18n import _
from ..launchers import Launch, Program
from ..resources import Mount
from . import debug_entry

ENTRY, ABOUT, WHERE = "debug_entry.py", "debug_entry.json", "debug.json"
"""Below the node's run folder: what stands for the script, what that reads, and where the debugger listens."""

_RANK = debug_entry.RANKS[0]
_MONITORING = {"TORCH_NCCL_ENABLE_MONITORING": "0"}


def debug_rank(text: str, world: int) -> int:
    """Return the rank that ``--debug`` names.

    Args:
        world: How many there are.

    Raises:
        InvalidRequest: It is no such rank.
    """
    if not (text.isascii() and text.isdigit() and int(text) < world):
        raise InvalidRequest(_("--debug takes a rank from 0 to {last}, not {text}.").format(last=world - 1, text=text))
    return int(text)


def command(
    launcher: str,
    program: Program,
    rank: int,
    *,
    debugpy: str = "",
    launch: Callable[[str, Program], Launch] = launchers.command,
) -> Launch:
    """Return how a launcher runs a program on one node, with one rank of the job waiting for a debugger.

    All ranks run a file of ours in the script's place, whose text is among the launch's files. Those that are not meant
    become the script at once.

    Args:
        rank: Global rank.
        debugpy: Folder that holds a debugpy as the ranks see it; empty where their Python has its own.

    Raises:
        InvalidRequest: There is no script, or the launcher cannot run that.
    """
    if not program.argv:
        raise InvalidRequest(_("--debug needs a Python script or module."))
    words = 2 if program.argv[0] == "-m" else 1
    entry = f"{program.run_dir}/{ENTRY}"
    made = launch(launcher, replace(program, argv=(entry, *program.argv[words:])))
    first = program.node_rank * program.nproc
    about = {"target": list(program.argv[:words]), "rank": rank, "first_rank": first, "debugpy": debugpy}
    processes = tuple(
        replace(process, env={**process.env, _RANK: str(first + local)}) for local, process in enumerate(made.processes)
    )
    texts = {ENTRY: Path(debug_entry.__file__).read_text(encoding="utf-8"), ABOUT: json.dumps(about)}
    patience = {key: value for key, value in _MONITORING.items() if key not in program.env}
    return replace(made, processes=processes, env={**made.env, **patience}, files={**made.files, **texts})


@dataclass(frozen=True)
class PathMapping:
    """A folder as the person's editor sees it, and as the job does."""

    local: str
    remote: str


def path_mappings(mounts: Sequence[Mount]) -> tuple[PathMapping, ...]:
    """Return the mappings of what a person mounted, the deepest first, because editors take the first that fits."""
    pairs = {mount.target: mount.source for mount in mounts if mount.source.startswith("/")}
    return tuple(PathMapping(pairs[target], target) for target in sorted(pairs, key=lambda path: (-len(path), path)))


def vscode_settings(name: str, port: int, mappings: Sequence[PathMapping]) -> str:
    """Return what goes into ``launch.json``."""
    return json.dumps(
        {
            "name": name,
            "type": "debugpy",
            "request": "attach",
            "connect": {"host": "127.0.0.1", "port": port},
            "pathMappings": [{"localRoot": each.local, "remoteRoot": each.remote} for each in mappings],
        },
        indent=2,
        ensure_ascii=False,
    )


def card(name: str, rank: int, port: int, mappings: Sequence[PathMapping], *, open_to_others: bool) -> str:
    """Return what a person is told while a rank waits.

    Args:
        name: What the job is called.
        open_to_others: Whether other people of the host can reach the debugger, because it is on the host's network.
    """
    title = _("{name}, rank {rank}").format(name=name, rank=rank)
    pycharm = "\n".join(f"    {each.local}  =  {each.remote}" for each in mappings)
    lines = [
        _("Rank {rank} waits for a debugger at 127.0.0.1:{port}.").format(rank=rank, port=port),
        _("Your editor runs elsewhere? ssh -L {port}:127.0.0.1:{port} HOST").format(port=port),
        _("VS Code, in .vscode/launch.json:"),
        vscode_settings(title, port, mappings),
        _("PyCharm 2025.3 and later: Run > Edit Configurations > + > Attach to DAP, remote address {address},").format(
            address=f"127.0.0.1:{port}"
        ),
        _("local and remote project path:"),
        pycharm,
    ]
    if open_to_others:
        lines.append(_("Until you attach, other people of this host can reach this debugger, and run code as you."))
    return "\n".join(lines)
