"""The GPUs of the host as text.

Standard library only, Python 3.8 syntax.
"""

import errno
import glob
import os
from typing import Any, Dict, List, Optional

from ..i18n import _
from ..resources import format_size

_NOT_TOLD = "n/a"


def gpus_text(answer: Dict[str, Any]) -> str:
    """Return the GPUs as lines with who holds them and who waits, or why there are none."""
    if not answer["gpus"]:
        none = _("No GPU: {message}").format(message=answer["message"] or _("no device"))
        return "\n".join([none, *_queue(answer["queue"])])
    head = _("Driver {driver}, CUDA up to {cuda}").format(
        driver=answer["driver"] or _NOT_TOLD, cuda=answer["cuda"] or _NOT_TOLD
    )
    trouble = [answer["message"]] if answer["state"] != "ok" and answer["message"] else []
    return "\n".join([head, *trouble, *_table(answer["gpus"]), *_queue(answer["queue"])])


def lost_here() -> List[str]:
    """Return the GPUs' device nodes that this process may not open any more, as after a reload of systemd's units."""
    lost = []
    for path in glob.glob("/dev/nvidia[0-9c]*"):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            lost += [path] if error.errno == errno.EPERM else []
    return sorted(lost)


def _table(gpus: List[Dict[str, Any]]) -> List[str]:
    rows = [_cells(gpu) for gpu in gpus]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for gpu, row in zip(gpus, rows):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        lines += [f"    {text}" for text in _notes(gpu)]
    return lines


def _cells(gpu: Dict[str, Any]) -> List[str]:
    states = {
        "free": _("free"),
        "leased": _("leased"),
        "busy": _("busy"),
        "draining": _("draining"),
        "faulty": _("faulty"),
        "unknown": _("unknown"),
    }
    return [
        str(gpu["index"]),
        " ".join(filter(None, [gpu["name"], gpu["mig"]])),
        gpu["uuid"],
        f"{_size(gpu['memory_used_bytes'])} / {_size(gpu['memory_total_bytes'])}",
        _with_unit(gpu["utilization_percent"], "%"),
        _with_unit(gpu["temperature_c"], "°C"),
        _with_unit(gpu["power_w"], "W"),
        states.get(gpu["state"], gpu["state"]),
    ]


def _notes(gpu: Dict[str, Any]) -> List[str]:
    """Return who holds a GPU with what he uses of it, or else why it cannot be had."""
    if not gpu["holders"]:
        return [gpu["reason"]] if gpu["reason"] else []
    return [_holder(holder) for holder in gpu["holders"]] + ([gpu["problem"]] if gpu["problem"] else [])


def _holder(holder: Dict[str, Any]) -> str:
    kinds = {"kernel": _("kernel"), "trainer": _("job"), "shell": _("shell")}
    words = [kinds.get(holder["role"], holder["role"]), holder["name"], holder["id"][:8]]
    who = _("{what} of {owner}").format(what=" ".join(filter(None, words)), owner=holder["owner"] or _NOT_TOLD)
    used = f"{_size(holder['memory_bytes'])}, {_with_unit(holder['utilization_percent'], '%')}"
    return f"{who} ({used})" + (" " + _("shared") if holder["shared"] else "")


def _queue(queue: List[Dict[str, Any]]) -> List[str]:
    if not queue:
        return []
    return [_("Waiting:"), *(f"{item['place']:>3}. {_asked(item)}: {item['reason']}" for item in queue)]


def _asked(item: Dict[str, Any]) -> str:
    return f"{item['name']} {item['id'][:8]} ({item['owner']}), --gpus {item['gpus']}"


def _size(value: Optional[int]) -> str:
    return _NOT_TOLD if value is None else format_size(value)


def _with_unit(value: Optional[float], unit: str) -> str:
    return _NOT_TOLD if value is None else f"{value:.0f} {unit}"
