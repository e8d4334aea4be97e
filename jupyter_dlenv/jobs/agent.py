"""``jupyter dlenv agent``: starts a user's waiting jobs where no Jupyter server does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from .. import background
from ..i18n import _
from ..settings import load_settings
from .manager import JobManager
from .waiting import advance_no_more


def run(say: Callable[[str], None]) -> None:
    """Start waiting jobs when it is their turn, until somebody ends this process by SIGINT or SIGTERM."""
    ends = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before a thread starts, so that none of them gets the signal
    manager = JobManager(load_settings())
    manager.advance("agent")
    say(_("Starts jobs that wait for GPUs, from {folder}. Ctrl-C ends it.").format(folder=manager.leases.ledger.folder))
    signal.sigwait(ends)
    leave_waiting()


def leave_waiting() -> None:
    """Leave the waiting jobs to others; on the thread that starts them, so that it is not in the middle of a step."""

    async def leave() -> None:
        advance_no_more()

    background.run(leave)


def systemd_unit() -> str:
    """Return a unit for ``systemctl --user``."""
    return f"""# jupyter dlenv agent --systemd > ~/.config/systemd/user/jupyter-dlenv-agent.service
# systemctl --user enable --now jupyter-dlenv-agent
# loginctl enable-linger   (so that it runs while you are logged out)
[Unit]
Description=jupyter-dlenv: starts jobs that wait for GPUs
After=default.target

[Service]
ExecStart={sys.executable} -m jupyter_dlenv agent
Restart=on-failure

[Install]
WantedBy=default.target
"""
