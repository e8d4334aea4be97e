"""What a job's output holds: a bundle that every reader of notebooks can show, small enough for four a second.

Standard library only, Python 3.8 syntax.
"""

import html
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from ..i18n import _
from .chart import chart_html
from .tail import LogTail
from .terminal_text import html_line, plain

MIME = "application/vnd.jupyter-dlenv.job+json"
_PLAIN_BYTES = 28_000
_HTML_BYTES = 44_000
_HEAD_CHARS = 6_000
_BOX = "margin:0;max-height:30em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere"


class Rows(NamedTuple):
    """The shown lines in both forms, and how many lines of the log come before them."""

    plain: List[str]
    html: List[str]
    skipped: int


def state_line(job: Mapping[str, Any], state: str, now: float) -> str:
    """Return one line that says where a job stands."""
    begin, end = job.get("started_at") or job["created_at"], job.get("finished_at") or now
    place = job["image"] or _("plain processes, no container")
    words = [job["name"], state, f"{max(end - begin, 0):.1f} s", place, job["id"]]
    if (job.get("attempts") or 1) > 1:
        attempt = _("attempt {number} of {most}").format(number=job.get("attempt") or 1, most=job["attempts"])
        words.insert(2, attempt)
    if state == "PENDING" and job.get("message"):
        words.insert(2, job["message"])
    code = job.get("exit_code")
    if code is not None and job["state"] == state:
        words.insert(2, _("exit code {code}").format(code=code))
    return " · ".join(words)


def summary(job: Mapping[str, Any]) -> str:
    """Return how a failed job ended: why, what helps, the line and the traceback that say so."""
    head = _("Job {name} {state}: {message}").format(name=job["name"], state=job["state"], message=job["message"])
    traceback, evidence = job.get("traceback", "").rstrip(), job.get("evidence", "")
    told = evidence in traceback or evidence in head
    where = _("Full log: {path}").format(path=job["log_path"])
    first = " ".join(part for part in (head, _exit_code(job, head), _failed_first(job)) if part)
    parts = [first, job.get("remedy", ""), "" if told else evidence, traceback, where]
    return "\n".join(part for part in parts if part)


def _exit_code(job: Mapping[str, Any], head: str) -> str:
    code = job.get("exit_code")
    said = _("exit code {code}").format(code=code)
    return "" if code is None or said in head.lower() else f"({said})"


def _failed_first(job: Mapping[str, Any]) -> str:
    rank, node = job.get("failed_rank"), job.get("failed_node")
    if rank is None:
        return ""
    if node is not None and (job.get("nodes") or 1) > 1:
        return _("Rank {rank} on node {node} failed first.").format(rank=rank, node=node)
    return _("Rank {rank} failed first.").format(rank=rank)


def bundle(
    job: Mapping[str, Any],
    state: str,
    cursor: str,
    tail: LogTail,
    now: float,
    metrics: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Return an output's data: as text, as HTML, and for JupyterLab what it needs to find the job.

    Args:
        state: The state to show, which is newer than the job's.
        metrics: The job's table of metrics, drawn below the log.
    """
    rows = last_rows(tail)
    line = state_line(job, state, now)
    head = [line, *_notes(job, state, rows, tail)]
    return {
        "text/plain": "\n".join([*head, *rows.plain]).rstrip(),
        "text/html": _html_page(line, head[1:], rows.html, metrics),
        MIME: {"job_id": job["id"], "cursor": cursor, "state": state, "name": job["name"]},
    }


def last_rows(tail: LogTail) -> Rows:
    """Return as many of the last lines as fit; the very last one is always there."""
    texts: List[str] = []
    pages: List[str] = []
    room_plain, room_html, kept = _PLAIN_BYTES, _HTML_BYTES, 0
    rows = [*((line, len(line.ranks)) for line in tail.lines()), *((bar, 0) for bar in tail.bars())]
    for line, count in reversed(rows):
        text, page = plain(line.shown()), html_line(line.shown())
        room_plain -= _size(text)
        room_html -= _size(page)
        if texts and min(room_plain, room_html) < 0:
            break
        texts.append(text)
        pages.append(page)
        kept += count
    return Rows(texts[::-1], pages[::-1], tail.count - kept)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace")) + 1


def _notes(job: Mapping[str, Any], state: str, rows: Rows, tail: LogTail) -> List[str]:
    failed = state == "FAILED" and job["state"] == state
    notes = [_shortened(summary(job)), ""] if failed else []
    if rows.skipped > 0:
        notes.append(_("… {count} earlier lines: {path}").format(count=rows.skipped, path=job["log_path"]))
    elif tail.count and not failed:
        notes.append(_("Full log: {path}").format(path=job["log_path"]))
    return notes


def _shortened(text: str) -> str:
    """Return a text without its middle when it is too long."""
    half = _HEAD_CHARS // 2
    return text if len(text) <= _HEAD_CHARS else f"{text[:half]}\n…\n{text[-half:]}"


def _html_page(line: str, notes: List[str], rows: List[str], metrics: Optional[Mapping[str, Any]]) -> str:
    parts = [f"<div><strong>{html.escape(line)}</strong></div>"]
    text = "\n".join(plain(part) for note in notes for part in note.split("\n")).rstrip()
    parts += [f'<pre style="margin:0;white-space:pre-wrap">{html.escape(text)}</pre>'] * bool(text)
    parts += ['<pre style="{}">{}</pre>'.format(_BOX, "\n".join(rows))] * bool(rows)
    parts += [chart_html(metrics)] if metrics else []
    return "".join(parts)
