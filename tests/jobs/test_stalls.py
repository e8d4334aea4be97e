"""A running job that hangs is remarked on; one that computes quietly is not. With real containers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker_images
import pytest

from jupyter_dlenv.jobs.manager import JobManager
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.jobs.stalls import STALLS, Stalls
from jupyter_dlenv.settings import load_settings

pytestmark = pytest.mark.docker

Write = Callable[[str, str], Path]
COMMAND = [sys.executable, "-m", "jupyter_dlenv"]


@pytest.mark.parametrize(("code", "hangs"), [("time.sleep(600)", True), ("while True: pass", False)])
async def test_a_silent_job_is_remarked_on_if_it_does_nothing(
    notebook_dir: Path, write: Write, code: str, hangs: bool
) -> None:
    write("quiet.py", f"import time\nprint('up', flush=True)\n{code}\n")
    words = ["run", "quiet.py", "--image", docker_images.base_image(), "--detach"]
    started = subprocess.run([*COMMAND, *words], cwd=notebook_dir, capture_output=True, text=True, check=True)
    job_id = started.stdout.split()[0]
    settings = load_settings()
    settings.stall_minutes = 4 / 60
    stalls, manager, me = Stalls(settings), JobManager(settings), Principal(settings.owner)
    try:
        for _look in range(12):
            await stalls.look()
            if job_id in STALLS:
                break
            await asyncio.sleep(2)
        assert (job_id in STALLS) is hangs
        view = await manager.get(me, job_id)
        assert ("it may hang" in view.status.message) is hangs
    finally:
        subprocess.run([*COMMAND, "stop", job_id], check=True, capture_output=True)
    shown = subprocess.run([*COMMAND, "jobs", job_id, "--json"], check=True, capture_output=True, text=True).stdout
    assert json.loads(shown)["state"] == "CANCELLED"
    await stalls.look()
    assert job_id not in STALLS
