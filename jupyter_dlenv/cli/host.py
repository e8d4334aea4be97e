"""``doctor`` and ``demo``: whether this host can do it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from .output import FAILED, show


def check_host(arguments: argparse.Namespace) -> int:
    """Print what this host has and lacks; a problem is a failure."""
    from ..doctor import examine

    findings = examine()
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    lines = [
        f"{marks[item.level]}  {item.subject}: {item.message}" + f"\n         {item.remedy}" * bool(item.remedy)
        for item in findings
    ]
    show(arguments, [asdict(item) for item in findings], lambda: "\n".join(lines))
    return FAILED if any(item.level == "problem" for item in findings) else 0


def run_demo(words: Sequence[str]) -> int:
    """Run the quickstart."""
    from ..demo import main as demo

    return demo(words)
