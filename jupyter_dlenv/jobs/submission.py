"""What is written down of a job before it starts: its record, and the run folder of an attempt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..engines.folder import RunFolder
from ..engines.shim.nodes import PROCESS_LOGS
from ..i18n import _
from ..options import RunRequest
from ..spec import Identity, RankLogs
from .assembly import Assembled
from .choices import gpu_request
from .code import commit_of, copy_code, link_around
from .principal import Principal
from .records import JobFolder, JobRecord
from .target import CODE, code_folder, command_text, place_of, runs_python, script_path, seen_in_container

_NOT_KEPT = frozenset(("request_id", "script", "module", "cell", "args", "cwd", "env", "secrets", "python", "dry_run"))
_NO_LOGS = RankLogs("", -2)
_PROCESS_LOGS = RankLogs(str(PROCESS_LOGS["pattern"]), -2)


def record_of(assembled: Assembled, request: RunRequest, principal: Principal, notify: str = "") -> JobRecord:
    """Return what is kept of a request, for people and for history.

    Args:
        request: What was asked for, its paths as they were written.
        notify: What runs at the end where it names nothing.
    """
    spec = assembled.spec
    logs = spec.rank_logs or (_PROCESS_LOGS if assembled.launches[0].processes else _NO_LOGS)
    return JobRecord(
        id=spec.id,
        name=spec.name,
        owner=spec.owner,
        engine=assembled.engine.name,
        command=command_text(request),
        launcher=assembled.launcher,
        nproc=spec.nproc_per_node,
        image=spec.image_ref,
        environment=spec.environment,
        kernel=principal.kernel,
        memory_bytes=spec.resources.memory_bytes or 0,
        timeout_s=request.timeout,
        options=options_of(request),
        secrets=tuple(sorted(request.secrets)),
        cwd=str(assembled.cwd),
        image_id=spec.image or "",
        commit=commit_of(code_folder(assembled.request, assembled.cwd)) if runs_python(request) else "",
        gpus=request.gpus,
        nodes=spec.nnodes,
        replicas=spec.replicas,
        node_rank=spec.node_rank,
        first_ranks=assembled.first_ranks,
        gpus_per_node=gpu_request(request).count,
        network=spec.network,
        shm_bytes=spec.resources.shm_bytes or 0,
        mounts=tuple(mount.target for mount in spec.mounts),
        rank_logs=logs.pattern,
        rank_part=logs.rank_part,
        retries=request.retries,
        plot=request.plot,
        notify=request.notify or notify,
    )


def options_of(request: RunRequest) -> dict[str, Any]:
    """Return the options that were given, by the names of the API; values of variables are not among them. Pure."""
    usual = RunRequest(request_id=request.request_id)
    given = {item.name: getattr(request, item.name) for item in fields(request) if item.name not in _NOT_KEPT}
    chosen = {name: value for name, value in given.items() if value != getattr(usual, name)}
    return {**chosen, **({"env": sorted(request.env)} if request.env else {})}


def keep_code(assembled: Assembled, folder: JobFolder) -> None:
    """Copy the code of a job that starts later, or more than once, than it is submitted; said in the job's card."""
    request = assembled.request
    if not runs_python(request) or folder.code.exists():
        return
    reader = assembled.spec.identity if os.geteuid() == 0 else None
    always = script_path(request, assembled.cwd) if request.script and not request.cell else None
    source = code_folder(request, assembled.cwd)
    try:
        seen = seen_in_container(source, assembled.user_mounts, _("The folder"))
        copied = str(copy_code(source, folder.code, always=always, reader=reader, seen=seen))
    except OSError as error:
        shutil.rmtree(folder.code, ignore_errors=True)
        copied = _("Runs the code that it finds when it starts, because it could not be copied: {error}.").format(
            error=error
        )
    folder.note_code(copied)


def prepare_folder(assembled: Assembled, folder: JobFolder) -> None:
    """Write what the shims read; the values of ``-e KEY`` go into a file that each removes at once."""
    spec, request = assembled.spec, assembled.request
    run = RunFolder(Path(spec.run_dir))
    shutil.rmtree(run.path, ignore_errors=True)  # of a starter that was killed
    give = spec.identity if spec.identity and os.geteuid() == 0 else None
    run.create(*((give.uid, give.gid) if give else ()), replicas=spec.replicas)
    _write_files(run.path, assembled.target.files, give)
    for name, end in assembled.target.links.items():
        os.symlink(end, run.path / name)
    if folder.code.is_dir():
        _copy_code(assembled, folder.code, run.path / CODE, give)
    for index, launch in enumerate(assembled.launches):
        node = run.node(index)
        _write_files(node.path, launch.files, give)
        node.write_launch(
            argv=launch.argv,
            cwd=spec.workdir,
            env={"DLENV_JOB": spec.id, "DLENV_ATTEMPT": str(spec.attempt), **launch.env},
            timeout_s=spec.timeout_s,
            rank_logs=launch.rank_logs,
            replicas=spec.replicas,
            first_rank=assembled.first_ranks[index],
            node_rank=spec.node_rank + index,
            ends=launch.ends,
            processes=[asdict(process) for process in launch.processes],
            peers=assembled.nodes.peers,
            note=_note(spec.attempt, request.retries),
        )
        if request.secrets:
            node.write_secrets(dict(request.secrets))


def _note(attempt: int, retries: int) -> str:
    text = _("Attempt {number} of {most}.")
    return text.format(number=attempt, most=retries + 1) if attempt > 1 else ""


def _write_files(folder: Path, files: Mapping[str, str], give: Identity | None) -> None:
    for name, text in files.items():
        write_text(folder / name, text, mode=0o644, owner=(give.uid, give.gid) if give else None)


def _copy_code(assembled: Assembled, code: Path, into: Path, give: Identity | None) -> None:
    source, mounts = code_folder(assembled.request, assembled.cwd), assembled.user_mounts
    names = place_of(source, mounts)
    shutil.copytree(code, into.joinpath(*names), symlinks=True)
    link_around(source, names, into, seen_in_container(source, mounts, _("The folder")), give)
    if give is not None:
        for path in (into, *into.rglob("*")):
            os.lchown(path, give.uid, give.gid)


def forget_secrets(folder: JobFolder, attempt: int, replicas: int) -> None:
    """Remove the values of ``-e KEY`` that no shim has taken."""
    run = RunFolder(folder.run_of(attempt))
    for index in range(replicas):
        run.node(index).files.remove("secrets.json")
