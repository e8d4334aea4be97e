"""Jobs as text: one of them with all that is kept of it.

Standard library only and Python 3.8 syntax.
"""

import time
from typing import Any, Dict, List, Tuple

from ..i18n import _
from ..resources import format_size


def details(job: Dict[str, Any]) -> str:
    """Return what is kept of a job as lines of name and value."""
    rows = [(name, value) for name, value in _rows(job) if value]
    width = max(len(name) for name, _value in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(job: Dict[str, Any]) -> List[Tuple[str, str]]:
    options = ", ".join(f"{name}={_plain(value)}" for name, value in sorted(job.get("options", {}).items()))
    code = job.get("exit_code")
    return [
        (_("job"), job["id"]),
        (_("name"), job["name"]),
        (_("state"), job["state"]),
        (_("exit code"), "" if code is None else str(code)),
        (_("message"), job.get("message", "")),
        (_("evidence"), job.get("evidence", "")),
        (_("remedy"), job.get("remedy", "")),
        (_("command"), job["command"]),
        (_("folder"), job.get("cwd", "")),
        (_("commit"), job.get("commit", "")),
        (_("code"), job.get("code", "")),
        (_("options"), options),
        (_("secrets"), ", ".join(job.get("secrets", []))),
        (_("launcher"), job["launcher"]),
        (_("nodes"), _count(job)),
        (_("image"), job["image"]),
        (_("image ID"), job.get("image_id", "")),
        (_("attempt"), _attempt(job)),
        (_("submitted"), _when(job["created_at"])),
        (_("duration"), _duration(job)),
        (_("log"), _("{path} ({size})").format(path=job["log_path"], size=format_size(job.get("log_bytes", 0)))),
    ]


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _count(job: Dict[str, Any]) -> str:
    nodes, nproc = job.get("nodes", 1), job["nproc"]
    total = _("{nodes} with {nproc} processes each, {total} in all")
    return total.format(nodes=nodes, nproc=nproc, total=nodes * nproc)


def _attempt(job: Dict[str, Any]) -> str:
    most = job.get("attempts", 1)
    return _("{number} of {most}").format(number=job.get("attempt", 1), most=most) if most > 1 else ""


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _duration(job: Dict[str, Any]) -> str:
    begin, end = job.get("started_at"), job.get("finished_at") or time.time()
    return f"{max(end - begin, 0):.1f} s" if begin else ""
