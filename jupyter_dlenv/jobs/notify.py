"""A command of the owner's that runs on the host when a job has ended."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import BinaryIO

from .records import Final, JobFolder, JobRecord

_TOLD = "notified"
_OUTPUT = "notify.log"
_LONGEST = 4096


def tell_once(folder: JobFolder, record: JobRecord, final: Final) -> None:
    """Run the job's command unless somebody has run it; what it writes goes to the job's folder."""
    if not record.notify:
        return
    try:
        os.close(os.open(folder.path / _TOLD, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except (FileExistsError, FileNotFoundError):
        return
    descriptor = os.open(folder.path / _OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        try:
            child = _run(record, final, output)
        except (OSError, ValueError) as error:
            output.write(f"{error}\n".encode())
            return
    threading.Thread(target=child.wait, name="dlenv-notify", daemon=True).start()  # so that it leaves no zombie


def _run(record: JobRecord, final: Final, output: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        record.notify,
        shell=True,
        env={**os.environ, **variables(record, final)},
        cwd=record.cwd if os.path.isdir(record.cwd) else None,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def variables(record: JobRecord, final: Final) -> dict[str, str]:
    """Return what the command is told of the job, as variables. Pure."""
    status = final.status
    seconds = (status.finished_at or 0) - (status.started_at or status.finished_at or 0)
    told = {
        "DLENV_JOB": record.id,
        "DLENV_JOB_NAME": record.name,
        "DLENV_JOB_STATE": status.state.value,
        "DLENV_JOB_EXIT_CODE": "" if status.exit_code is None else str(status.exit_code),
        "DLENV_JOB_MESSAGE": status.message,
        "DLENV_JOB_SECONDS": f"{max(seconds, 0):.0f}",
    }
    return {name: text[:_LONGEST].replace("\0", "") for name, text in told.items()}
