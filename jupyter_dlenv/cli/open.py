"""``open``: a page of a kernel or job, in a Jupyter server that runs or at a port of this command's own."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable, NotFound
from ..i18n import _
from .output import show


def open_page(arguments: argparse.Namespace) -> int:
    """Open it and print where."""
    from ..notebook.client import Client
    from ..notebook.open import open_body, title

    body = open_body(arguments)
    if arguments.local is not None:
        return _at_own_port(body, arguments.local)
    for path in server_sockets(Path.cwd()):
        try:
            opened = Client(str(path)).call("POST", "/open", body)
        except EngineUnavailable:  # a socket that a killed server left
            continue
        text = f"{title(body)}: {opened['url']}"
        return show(arguments, opened, text.__str__)
    raise NotFound(
        _("No Jupyter server of yours runs, and only one can show it."), hint="jupyter lab, jupyter dlenv open --local"
    )


def _at_own_port(body: dict[str, Any], port: int) -> int:
    """Listen until interrupted; only this account's programs are served."""
    import asyncio

    from ..jobs.principal import Principal
    from ..notebook.open import title
    from ..settings import load_settings
    from ..shell.opening import open_for, open_request_from_json

    principal = Principal(load_settings().owner)
    tunnel, _target = asyncio.run(open_for(principal, open_request_from_json(body), port=port))
    try:
        print(f"{title(body)}: http://127.0.0.1:{tunnel.port}/", flush=True)
        print(
            _("Until this is interrupted. From another machine: ssh -L {port}:127.0.0.1:{port} HOST").format(
                port=tunnel.port
            ),
            flush=True,
        )
        while tunnel.live:
            time.sleep(1)
    finally:
        tunnel.close_now()
    return 0


def server_sockets(here: Path) -> Sequence[Path]:
    """Return the job services of the Jupyter servers that run, the one whose folder this is in first."""
    from jupyter_core.paths import jupyter_runtime_dir

    from ..paths import server_socket

    found = []
    for path in Path(jupyter_runtime_dir()).glob("jpserver-*.json"):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            root, pid, began = str(about["root_dir"]), int(about["pid"]), path.stat().st_mtime
        except (OSError, ValueError, KeyError):
            continue  # it ends just now
        if server_socket(pid).exists():
            inside = here.is_relative_to(os.path.realpath(root))
            found.append((inside, len(root) if inside else 0, began, server_socket(pid)))
    return [socket for _inside, _length, _began, socket in sorted(found, reverse=True)]
