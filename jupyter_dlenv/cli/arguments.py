"""The words of every command, and which function each one calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..i18n import _
from ..options import NETWORKS
from . import environments, host, images, jobs
from .open import open_page


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command but ``run``, whose options the magics share."""
    root = argparse.ArgumentParser("jupyter dlenv", description=_("Deep learning in containers, from Jupyter."))
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help=_("run a script: jupyter dlenv run train.py --nproc 2"), add_help=False)
    _listing(commands, "doctor", host.check_host, _("what this host has and lacks"))
    _listing(commands, "gpus", jobs.list_gpus, _("the GPUs of this host"))
    agent = commands.add_parser("agent", help=_("start waiting jobs when there is no Jupyter server"))
    agent.add_argument("--systemd", action="store_true", help=_("print a systemd user unit that runs it"))
    agent.set_defaults(function=jobs.run_agent)
    listed = _listing(commands, "jobs", jobs.list_jobs, _("the jobs, newest first, or all about one"))
    listed.add_argument("job", nargs="?", default="", help=_("the job's id, or its beginning"))
    _add_job_commands(commands)
    _add_shell_command(commands)
    _add_open_command(commands)
    _add_env_commands(commands)
    _add_build_command(commands)
    _add_image_commands(commands)
    commands.add_parser("demo", help=_("run the quickstart notebook on this host"), add_help=False)
    return root


def _listing(commands: Any, name: str, function: Callable[..., Any], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    command.add_argument("--json", action="store_true", help=_("print JSON"))
    command.set_defaults(function=function)
    return command


def _add_job_commands(commands: Any) -> None:
    for name, function, text in (
        ("logs", jobs.show_log, _("print a job's log")),
        ("stop", jobs.stop_job, _("stop a job")),
        ("rm", jobs.remove_job, _("remove an ended job with its log")),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("job", help=_("the job's id, or its beginning"))
        command.set_defaults(function=function)
        if name == "logs":
            command.add_argument("-f", "--follow", action="store_true", help=_("go on until the job has ended"))


def _add_shell_command(commands: Any) -> None:
    shell = commands.add_parser("shell", help=_("a terminal in a kernel, a job, an environment or an image"))
    shell.add_argument("target", help=_("an environment, an image, or a running kernel's or job's id or its beginning"))
    shell.add_argument("--gpus", default="", help=_("GPUs of a new container, in place of the environment's own"))
    shell.add_argument("--owner", default="", help=_("whose kernels and jobs; your own by default"))
    shell.add_argument("--stay", action="store_true", help=_("after an error wait for Enter before the window closes"))
    shell.set_defaults(function=jobs.open_shell)


def _add_open_command(commands: Any) -> None:
    from ..notebook.open import add_open_options

    page = commands.add_parser("open", help=_("a page of a running kernel or job: its port, or TensorBoard"))
    add_open_options(page)
    local = _("listen at a port of this command's own, without a Jupyter server")
    page.add_argument("--local", nargs="?", type=int, const=0, metavar="PORT", help=local)
    page.add_argument("--json", action="store_true", help=_("print JSON"))
    page.set_defaults(function=open_page)


def _add_env_commands(commands: Any) -> None:
    env = commands.add_parser("env", help=_("environments: images as kernels")).add_subparsers(
        metavar="", required=True
    )
    add = env.add_parser("add", help=_("write an environment's kernelspec"))
    add.add_argument("name")
    add.add_argument("--image", default="", help=_("the image, such as pytorch/pytorch:latest"))
    add.add_argument("--engine", default="docker", help=_("docker, or process for no container"))
    add.add_argument("--gpus", default="", help=_("a number, all, indices or UUIDs; +busy and +cc8.0 behind it"))
    add.add_argument("--gpu-memory", default="", metavar="SIZE", help=_("least memory of each GPU, such as 40g"))
    add.add_argument("--shared", action="store_true", help=_("share the GPUs with others who say so, too"))
    add.add_argument("--memory", default="", help=_("memory limit, such as 8g"))
    add.add_argument("--cpus", type=float, help=_("CPU cores"))
    add.add_argument("--shm-size", default="", help=_("size of /dev/shm"))
    add.add_argument("--network", default="bridge", choices=NETWORKS)
    add.add_argument("--mount", action="append", default=[], dest="mounts", metavar="SRC:DST[:ro]")
    add.add_argument("--display-name", default="", help=_("what launchers show"))
    add.add_argument("--pool", type=int, default=0, metavar="N", help=_("kernels that a server keeps ready"))
    add.set_defaults(function=environments.add)
    _listing(env, "list", environments.list_environments, _("the environments"))
    remove = env.add_parser("remove", help=_("remove an environment"))
    remove.add_argument("name")
    remove.set_defaults(function=environments.remove)
    reset = env.add_parser("reset", help=_("remove what was installed into an environment"))
    reset.add_argument("name")
    reset.add_argument("-y", "--yes", action="store_true", help=_("do not ask"))
    reset.add_argument("--force", action="store_true", help=_("even while its kernels or jobs run"))
    reset.set_defaults(function=environments.reset)


def _add_build_command(commands: Any) -> None:
    from ..notebook.builds import add_build_options

    build = commands.add_parser("build", help=_("build an image from a Dockerfile"))
    build.add_argument("path", metavar="PATH", help=_("a Dockerfile, a folder that holds one, or - for standard input"))
    add_build_options(build)
    build.set_defaults(function=images.build_image)


def _add_image_commands(commands: Any) -> None:
    every = commands.add_parser("images", help=_("the images of this host, and how to get more"))
    every.add_argument("--json", action="store_true", help=_("print JSON"))
    every.set_defaults(function=images.list_images)
    more = every.add_subparsers(metavar="")
    for name, function, text in (
        ("pull", images.pull_image, _("fetch an image from its registry")),
        ("probe", images.probe_image, _("look into an image")),
    ):
        command = more.add_parser(name, help=text)
        command.add_argument("image")
        command.set_defaults(function=function)
    bootstrap = more.add_parser("bootstrap", help=_("build the starter image without a registry"))
    bootstrap.add_argument("--suite", help=_("Debian suite"))
    bootstrap.add_argument("--mirror", help=_("address of a Debian archive"))
    bootstrap.add_argument("--rebuild", action="store_true", help=_("build it although it is there"))
    bootstrap.add_argument("--install", action="store_true", help=_("install debootstrap where it is missing"))
    bootstrap.set_defaults(function=images.bootstrap_image)
