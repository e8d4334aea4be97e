"""Exit code and last words -> cause and remedy. Pure.

:func:`explain` knows the end alone; :func:`diagnose` reads what every process wrote, finds the one that failed first,
and says what the catalogue in ``causes.py`` knows of it. A failure that follows from another's, a lost connection for
example, is the cause only where nothing else is.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..i18n import _
from ..resources import format_size
from ..spec import Reason
from .causes import BY_ID, CATALOGUE
from .facts import Cause, Diagnosis, Facts, Found, NodeFacts
from .packages import apt_package_of, package_of
from .reading import Reading, read
from .reports import Report, failing_rank, report_of

__all__ = ["Diagnosis", "Facts", "NodeFacts", "diagnose", "explain", "failing_rank"]

_EVIDENCE = 400
_VALUE = 200
_GIB = 1 << 30
_USUAL_SHM = 4 * _GIB
_BY_CODE = {code: cause for cause in CATALOGUE for code in cause.codes}
_BY_TEXT, _BY_SIGNAL, _BY_EXCEPTION, _BY_EXIT = 3, 2, 1, 0
_ABORTED = 134  # by a library that has said why
_FROM_OUTSIDE = (137, 143)  # whatever it wrote before, that did not end it
_NOT_FIRST = ("gang", "done", "stopped")


def explain(
    exit_code: int,
    oom_killed: bool = False,
    memory_limit: int | None = None,
    stopped_by_us: bool = False,
    timeout_s: float | None = None,
) -> tuple[Reason, str]:
    """Return why a job ended and a sentence for a person, empty when it just succeeded.

    Args:
        exit_code: As shells say it: 128 and more for a signal.
        oom_killed: Whether the kernel killed a process of the job for its memory.
        memory_limit: The job's memory limit in bytes, None or 0 for none.
        stopped_by_us: Whether its owner stopped it.
        timeout_s: The time limit in seconds when that ended it, else None.
    """
    facts = Facts(exit_code, oom_killed, memory_limit, stopped_by_us=stopped_by_us, timeout_s=timeout_s)
    if exit_code == 0 and not (stopped_by_us or timeout_s):
        return Reason.COMPLETED, ""
    said = _said(facts, _by_end(facts) or _by_code(exit_code), Found(exit_code=exit_code))
    return said.reason, f"{said.message} {said.remedy}".strip()


def diagnose(facts: Facts) -> Diagnosis:
    """Return why a job ended: the process that failed first, what it says, and what helps."""
    if facts.exit_code == 0 and _by_end(facts) is None:
        return Diagnosis("completed", Reason.COMPLETED)
    suspect = max(_suspects(facts), key=lambda each: each.weight)
    cause = _by_end(facts)
    if cause is None:
        return _told(facts, suspect)
    told = _told(facts, suspect, cause)
    return (
        told
        if cause.reason is Reason.OUT_OF_MEMORY
        else Diagnosis(told.cause, told.reason, told.message, "", told.remedy)
    )


def _by_end(facts: Facts) -> Cause | None:
    if facts.timeout_s is not None:
        return BY_ID["time-limit"]
    if facts.stopped_by_us:
        return BY_ID["stopped"]
    if facts.oom_killed:
        return BY_ID["memory-limit" if facts.memory_limit else "host-memory"]
    return None


def _by_code(exit_code: int) -> Cause:
    return _BY_CODE.get(exit_code) or BY_ID["signal" if _signal_of(exit_code) else "exit-code"]


def _signal_of(exit_code: int) -> str:
    number = exit_code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


# Who failed first -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Suspect:
    """One process, or one launcher, that may have failed first.

    Attributes:
        first: Whether it is the one that is reported to have failed first.
        level: How much its cause says.
    """

    cause: Cause
    found: Found
    evidence: str
    traceback: str
    node: NodeFacts
    rank: int | None
    first: bool
    level: int

    @property
    def weight(self) -> tuple[bool, bool, int, int, int]:
        """What sorts suspects: the last is the cause."""
        return not self.cause.consequence, self.first, self.level, -self.node.rank, -(self.rank or 0)


def _suspects(facts: Facts) -> list[_Suspect]:
    nodes = facts.nodes or (NodeFacts(),)
    reports = {node.rank: report_of(node.launcher) for node in nodes}
    first = _first_nodes(facts, nodes, reports)
    found = [each for node in nodes for each in _of_node(facts, node, reports[node.rank], node.rank in first)]
    return found or [_by_end_of(nodes[0], None, facts.exit_code)]


def _first_nodes(facts: Facts, nodes: tuple[NodeFacts, ...], reports: Mapping[int, Report | None]) -> set[int]:
    """Return the nodes on which the first failure was: as noted, else as their launchers' clocks say."""
    if facts.first_node is not None:
        return {facts.first_node}
    own = [node.rank for node in nodes if node.ended not in _NOT_FIRST and node.exit_code != 0]
    times = {rank: report.time for rank in own if (report := reports[rank]) and report.time}
    return {rank for rank, time in times.items() if time == min(times.values())} or set(own)


def _of_node(facts: Facts, node: NodeFacts, report: Report | None, first: bool) -> list[_Suspect]:
    """Return what each of a node's texts says, and what its end alone says where no text says it better."""
    ended = node.exit_code if node.exit_code is not None else facts.exit_code
    failed, code = (report.rank, report.exit_code) if report else (None, ended)
    found = []
    for rank, texts in node.ranks.items():
        mine = failed is None or rank == failed
        shown = rank if report or len(node.ranks) > 1 or len(facts.nodes) > 1 else None
        for text in reversed(texts):
            found += _reading(facts, text, node, shown, code if mine else 1, first=first and mine)
    if not (node.ranks and report):
        own = report.own_words(node.launcher) if report else node.launcher
        lonely = not node.ranks
        found += _reading(facts, own, node, failed, code, first=first and lonely, mixed=report is not None)
    told = any(each.first for each in found) and (code == _ABORTED or not _signal_of(code))
    return found if told or not first else [*found, _by_end_of(node, failed, code)]


def _reading(
    facts: Facts, text: str, node: NodeFacts, rank: int | None, code: int, *, first: bool, mixed: bool = False
) -> list[_Suspect]:
    """Return what one text says, as a list of one or none."""
    if not text or (first and code in _FROM_OUTSIDE):
        return []
    reading = read(facts, text, code, mixed=mixed)
    return [_suspect(reading, node, rank, first, code)] if reading else []


def _suspect(reading: Reading, node: NodeFacts, rank: int | None, first: bool, code: int) -> _Suspect:
    if reading.cause is None and (_signal_of(code) or not reading.evidence):
        told = _by_end_of(node, rank, code)
        return replace(told, first=first, traceback="" if code in _FROM_OUTSIDE else reading.traceback)
    cause, level = reading.cause or BY_ID["exception"], _BY_TEXT if reading.cause else _BY_EXCEPTION
    return _Suspect(cause, reading.found, reading.evidence, reading.traceback, node, rank, first, level)


def _by_end_of(node: NodeFacts, rank: int | None, code: int) -> _Suspect:
    """Return what the end alone says of the process that failed first on its node."""
    level = _BY_SIGNAL if code in _BY_CODE or _signal_of(code) else _BY_EXIT
    return _Suspect(_by_code(code), Found(exit_code=code), "", "", node, rank, True, level)


# What is said ---------------------------------------------------------------------------------------------------------


def _told(facts: Facts, suspect: _Suspect, cause: Cause | None = None) -> Diagnosis:
    found = suspect.found
    said = _said(facts, cause or suspect.cause, found, suspect.evidence)
    return Diagnosis(
        said.cause,
        said.reason,
        said.message,
        suspect.evidence[:_EVIDENCE],
        said.remedy,
        suspect.rank,
        suspect.node.rank if len(facts.nodes) > 1 else None,
        suspect.traceback,
    )


def _said(facts: Facts, cause: Cause, found: Found, evidence: str = "") -> Diagnosis:
    values = values_of(facts, found, evidence)
    message, remedy = (text().format_map(values).strip() for text in (cause.describe, cause.advise))
    return Diagnosis(cause.id, cause.reason, message, "", remedy)


def values_of(facts: Facts, found: Found, evidence: str = "") -> Mapping[str, str]:
    """Return what a cause's sentences may name, beside the groups of its signs."""
    groups = {name: (value or "")[:_VALUE] for name, value in found.groups.items()}
    module, path = groups.get("module", ""), groups.get("path", "")
    known = {
        "path": _("a file"),
        "apt": apt_package_of(module),
        "code": str(found.exit_code),
        "error": evidence[:_VALUE],
        "folder": path.rpartition("/")[0] or path,
        "gpus": str(facts.gpus),
        "limit": format_size(facts.memory_limit or 0),
        "more": doubled(facts.memory_limit or 0),
        "more_shm": doubled(facts.shm_bytes or _USUAL_SHM),
        "package": package_of(module),
        "seconds": f"{facts.timeout_s or 0:g}",
        "signal": _signal_of(found.exit_code),
        "workdir": facts.workdir,
    }
    return _Values({**known, **{name: text for name, text in groups.items() if text}})


class _Values(dict[str, str]):
    """What is not known is nothing."""

    def __missing__(self, _key: str) -> str:
        return ""


def doubled(size: int) -> str:
    """Return twice a size as ``--memory`` takes it."""
    twice = 2 * size
    return f"{-(-twice // _GIB)}g" if twice >= _GIB else f"{max(1, -(-twice // (1 << 20)))}m"
