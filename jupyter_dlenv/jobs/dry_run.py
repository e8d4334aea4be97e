"""What a dry run shows: the commands that a job would run, for a shell; all else in it is comments."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..engines.docker.request import SHIM
from ..engines.folder import RunFolder
from ..engines.shim import FOLDER as SHIM_FOLDER
from ..i18n import _
from ..launchers import Launch, Process
from ..launchers.launch import OWN_IP
from ..resources import format_size
from ..spec import End, JobSpec, Part
from .assembly import Assembled

_LATE = "{dlenv:own-ip}"  # with braces, so that a shell's quotes are around it
_ASK = "import sys; sys.path[:0] = {folder}; from shim.network import own_address; print(own_address({peers}))"


def shown(assembled: Assembled, waits: str = "") -> str:
    """Return what a job would run as a shell takes it.

    Args:
        waits: Why it would not start now, empty where it would.
    """
    commands = _in_containers(assembled) if assembled.engine.capabilities.images else _on_host(assembled)
    return "\n".join([*map(_comment, _remarks(assembled, waits)), *_folders(assembled), commands])


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())


def _remarks(assembled: Assembled, waits: str) -> list[str]:
    spec, lines = assembled.spec, []
    if spec.nnodes * spec.nproc_per_node > 1 or spec.gpus.uuids:
        lines.append(totals(assembled))
    if waits:
        lines.append(_("It would wait: {reason}").format(reason=waits))
        lines.append(_("The names of its GPUs are not known before: {names}.").format(names=", ".join(spec.gpus.uuids)))
    if assembled.request.secrets:
        names = ", ".join(sorted(assembled.request.secrets))
        lines.append(_("The values of these variables are not shown: {names}.").format(names=names))
    if any(len(launch.processes) > 1 for launch in assembled.launches):
        lines.append(_("The job itself ends all of its processes when one fails, and marks whose lines are whose."))
    return lines


def totals(assembled: Assembled) -> str:
    """Return what all nodes of a job have together."""
    spec = assembled.spec
    counts = _("{nodes} nodes x {nproc} processes = {total} processes").format(
        nodes=spec.nnodes, nproc=spec.nproc_per_node, total=spec.nnodes * spec.nproc_per_node
    )
    memory = (spec.resources.memory_bytes or 0) * spec.nnodes
    more = [
        _("{count} GPUs").format(count=len(spec.gpus.uuids) * spec.nnodes // spec.replicas) if spec.gpus.uuids else "",
        _("{count:g} CPUs").format(count=spec.resources.cpus * spec.nnodes) if spec.resources.cpus else "",
        _("memory {size}").format(size=format_size(memory)) if memory else "",
    ]
    return ", ".join(filter(None, [counts, *more]))


def _folders(assembled: Assembled) -> list[str]:
    """Return what makes the folders that the commands need, with the files in them."""
    spec, run = assembled.spec, RunFolder(Path(assembled.spec.run_dir))
    nodes = [str(run.node(index).path) for index in range(spec.replicas)]
    files = {f"{run.path}/{name}": text for name, text in assembled.target.files.items()}
    for node, launch in zip(nodes, assembled.launches, strict=True):
        files.update({f"{node}/{name}": text for name, text in launch.files.items()})
    links = {f"{run.path}/{name}": end for name, end in assembled.target.links.items()}
    if not (files or links or assembled.engine.capabilities.images):
        return []
    lines = [["mkdir", "-p", *nodes]]
    lines += [["ln", "-s", end, path] for path, end in links.items()]
    texts = [f"printf %s {shlex.quote(text)} > {shlex.quote(path)}" for path, text in files.items()]
    give = [["chown", "-R", f"{spec.identity.uid}:{spec.identity.gid}", str(run.path)]] if spec.identity else []
    return [*map(shlex.join, lines), *texts, *map(shlex.join, give if os.geteuid() == 0 else [])]


def _in_containers(assembled: Assembled) -> str:
    parts = [_in_container(assembled, index) for index in range(assembled.spec.replicas)]
    return _planned(assembled, assembled.spec, parts)


def _in_container(assembled: Assembled, index: int) -> Part:
    """Return what a container runs, by a shell in it where that is more than one command."""
    launch = assembled.launches[index]
    late = {key: value for key, value in launch.env.items() if OWN_IP in value}
    env = {key: value for key, value in launch.env.items() if key not in late}
    if not (launch.processes or late):
        return Part(launch.argv, env)
    commands = []
    for process in _processes(launch):
        words = [f"{key}={value}" for key, value in _unknown_yet({**late, **process.env}).items()]
        commands.append(shlex.join([*(["env", *words] if words else []), *process.argv]))
    return Part(("sh", "-c", _script(assembled, index, commands, os.path.dirname(SHIM))), env)


def _on_host(assembled: Assembled) -> str:
    launch = assembled.launches[0]
    parts = [Part(each.argv, _unknown_yet({**launch.env, **each.env})) for each in _processes(launch)]
    commands = [_planned(assembled, replace(assembled.spec, argv=part.argv), [part]) for part in parts]
    script = _script(assembled, 0, commands, os.path.dirname(SHIM_FOLDER))
    return f"(\n{script}\n)" if "\n" in script and script != commands[0] else script


def _planned(assembled: Assembled, spec: JobSpec, parts: Sequence[Part]) -> str:
    return assembled.engine.plan(replace(spec, parts=tuple(parts))).command


def _processes(launch: Launch) -> Sequence[Process]:
    return launch.processes or (Process(launch.argv),)


def _unknown_yet(env: Mapping[str, str]) -> dict[str, str]:
    return {key: value.replace(OWN_IP, _LATE) for key, value in env.items()}


def _script(assembled: Assembled, index: int, commands: Sequence[str], tools: str) -> str:
    """Return the lines of a shell that run one replica's commands, each of which is a line of it.

    Args:
        tools: The folder that holds our shim's, as the replica sees it.
    """
    lines = list(_side_by_side(assembled, index, commands)) if len(commands) > 1 else list(commands)
    if not any(_LATE in line for line in lines):
        return "\n".join(lines)
    ask = _ASK.format(folder=json.dumps([tools]), peers=json.dumps(assembled.nodes.peers))
    address = f'own_ip="$({shlex.join([assembled.spec.python, "-c", ask])})"'
    return "\n".join([address, *(line.replace(_LATE, "'\"$own_ip\"'") for line in lines)])


def _side_by_side(assembled: Assembled, index: int, commands: Sequence[str]) -> list[str]:
    """Return commands that start processes side by side, wait for those that decide about the end, and end the rest."""
    launch = assembled.launches[index]
    leads = launch.ends is End.LEADER and assembled.spec.node_rank + index == 0
    started, awaited, left = list[str](), list[str](), list[str]()
    for number, (process, command) in enumerate(zip(launch.processes, commands, strict=True)):
        name = re.sub(r"\W", "_", process.name or f"process {number}")
        started.append(f"{command} & {name}=$!")
        (awaited if (number == 0 if leads else not process.serves) else left).append(f'"${name}"')
    wait, kill = " ".join(["wait", *awaited]), " ".join(["kill", *left, "2>/dev/null"])
    return [*started, wait, *(["code=$?", kill, "exit $code"] if left and awaited else [])]
