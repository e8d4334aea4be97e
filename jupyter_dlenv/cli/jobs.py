"""Jobs, what they wait for, and terminals."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ..errors import DLEnvError, InvalidRequest
from ..i18n import _
from ..options import RunRequest, parse_run, usage
from .output import FAILED, connect, lines, say, show


def run_job(words: Sequence[str]) -> int:
    """Start a job, and follow it unless told otherwise."""
    from ..notebook.follow import submit

    options = parse_run(words)
    if options.help:
        print(usage("jupyter dlenv run"))
        return 0
    if options.detach:
        refuse_detached(options.request)
    client = connect()
    job = submit(client, asdict(replace(options.request, python=sys.executable)))
    if job.get("debugger"):
        say(job["debugger"])
    if options.request.dry_run:
        print(job["command"])
    elif options.detach:
        if job["state"] == "PENDING":
            withdraw_detached(client, job, options.request)
        print(job["id"])
        if job["state"] == "PENDING":
            say(job["message"])
            say(_("A Jupyter server of yours starts it when it can, or: jupyter dlenv agent"))
        elif options.request.notify or options.request.retries:
            say(_("A Jupyter server of yours looks after its end, or: jupyter dlenv agent"))
    else:
        return follow_job(client, job)
    return 0


def follow_job(client: Any, job: dict[str, Any]) -> int:
    """Print a job's log to its end and return its exit status."""
    from ..notebook.follow import has_ended, until_ended
    from ..notebook.page import summary

    try:
        ended = until_ended(client, job, lines(say).add)
    except BrokenPipeError:
        if not has_ended(client.call("GET", f"/jobs/{job['id']}")):
            goes_on = _("Nobody reads any more, and job {name} goes on. To read it: {read}  To stop it: {stop}")
            read, stop = f"jupyter dlenv logs --follow {job['id']}", f"jupyter dlenv stop {job['id']}"
            say(goes_on.format(name=job["name"], read=read, stop=stop))
        raise
    if ended["state"] != "SUCCEEDED":
        sys.stderr.write(f"{summary(ended)}\n")
        return int(ended["exit_code"] or FAILED)
    return 0


def refuse_detached(request: RunRequest) -> None:
    """Refuse what only this process could do, which would have ended by then.

    Raises:
        InvalidRequest: Names the option.
    """
    for option, given in (("--debug", request.debug), ("--retries", request.retries and by_process(request))):
        if given:
            message = _("{option} needs this command as long as the job runs, so it does not go with --detach.")
            raise InvalidRequest(
                message.format(option=option), hint=_("Leave --detach out, or run it from a notebook.")
            )


def withdraw_detached(client: Any, job: dict[str, Any], request: RunRequest) -> None:
    """Stop a job that waits and that nobody could start once this process has ended.

    Raises:
        InvalidRequest: It was stopped.
    """
    if by_process(request):
        client.call("POST", f"/jobs/{job['id']}/cancel", {"force": True})
        message = _("Job {name} has to wait for GPUs, and only this command can start it, so --detach was refused.")
        raise InvalidRequest(message.format(name=job["name"]), hint=_("Leave --detach out, or run it from a notebook."))


def by_process(request: RunRequest) -> bool:
    """Return whether a job can be started only by the process that it is submitted to, which alone has all it needs."""
    return request.engine == "process" or not request.image or bool(request.secrets)


def list_gpus(arguments: argparse.Namespace) -> int:
    """List the GPUs of this host."""
    from ..gpus.leases import Leases
    from ..gpus.report import report
    from ..notebook.gpus import gpus_text
    from ..settings import load_settings

    found = report(Leases(load_settings()).overview())
    return show(arguments, found, lambda: gpus_text(found))


def run_agent(arguments: argparse.Namespace) -> int:
    """Start waiting jobs until interrupted, or print a unit that does."""
    from ..jobs.agent import run, systemd_unit

    if arguments.systemd:
        print(systemd_unit())
    else:
        run(say)
    return 0


def list_jobs(arguments: argparse.Namespace) -> int:
    """List the jobs, or tell all about one."""
    from ..notebook.follow import state_line
    from ..notebook.jobs import details
    from ..notebook.magics import find_job

    client = connect()
    if arguments.job:
        job = find_job(client, [arguments.job])
        return show(arguments, job, lambda: details(job))
    jobs = client.call("GET", "/jobs")["jobs"]
    return show(arguments, jobs, lambda: "\n".join(state_line(job, job["state"], time.time()) for job in jobs))


def show_log(arguments: argparse.Namespace) -> int:
    """Print a job's log."""
    from ..notebook.magics import find_job

    client = connect()
    viewer = lines()
    for frame in client.follow(find_job(client, [arguments.job])["id"], follow=arguments.follow):
        viewer.add(frame)
    return 0


def stop_job(arguments: argparse.Namespace) -> int:
    """Stop a job."""
    from ..notebook.magics import stop

    print(stop(connect(), [arguments.job]))
    return 0


def remove_job(arguments: argparse.Namespace) -> int:
    """Remove an ended job."""
    from ..notebook.magics import find_job

    client = connect()
    client.call("DELETE", f"/jobs/{find_job(client, [arguments.job])['id']}")
    return 0


def open_shell(arguments: argparse.Namespace) -> int:
    """Open a terminal in what the target names."""
    from ..settings import load_settings
    from ..shell.session import run_shell

    settings = load_settings()
    if arguments.owner:
        settings.owner = arguments.owner
    try:
        return run_shell(arguments.target, settings, gpus=arguments.gpus)
    except DLEnvError as error:
        if not arguments.stay:
            raise
        sys.stderr.write(f"{error}\n" + _("Press Enter to close."))
        sys.stderr.flush()
        sys.stdin.readline()
        return FAILED
