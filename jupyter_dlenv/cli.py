"""``jupyter dlenv``: the same managers as the server, on the command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from .errors import DLEnvError, InvalidRequest
from .i18n import _
from .options import NETWORKS, parse_run, usage

_FAILED = 1
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] in (["run"], ["demo"]):  # have parsers of their own
            return _run(words[1:]) if words[0] == "run" else _demo(words[1:])
        arguments = parser().parse_args(words)
        return int(arguments.function(arguments) or 0)
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    except KeyboardInterrupt as error:
        sys.stderr.write((str(error) or _("Interrupted.")) + "\n")
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return _FAILED


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command but ``run``, whose options the magics share."""
    root = argparse.ArgumentParser("jupyter dlenv", description=_("Deep learning in containers, from Jupyter."))
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help=_("run a script: jupyter dlenv run train.py --nproc 2"), add_help=False)
    _listing(commands, "doctor", _doctor, _("what this host has and lacks"))
    _listing(commands, "gpus", _gpus, _("the GPUs of this host"))
    _listing(commands, "jobs", _jobs, _("the jobs, newest first"))
    _add_job_commands(commands)
    _add_shell_command(commands)
    _add_env_commands(commands)
    _add_build_command(commands)
    _add_image_commands(commands)
    commands.add_parser("demo", help=_("run the quickstart notebook on this host"), add_help=False)
    return root


def _listing(commands: Any, name: str, function: Callable[..., Any], text: str) -> None:
    command = commands.add_parser(name, help=text)
    command.add_argument("--json", action="store_true", help=_("print JSON"))
    command.set_defaults(function=function)


def _add_job_commands(commands: Any) -> None:
    for name, function, text in (
        ("logs", _logs, _("print a job's log")),
        ("stop", _stop, _("stop a job")),
        ("rm", _rm, _("remove an ended job with its log")),
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
    shell.set_defaults(function=_shell)


def _add_env_commands(commands: Any) -> None:
    env = commands.add_parser("env", help=_("environments: images as kernels")).add_subparsers(
        metavar="", required=True
    )
    add = env.add_parser("add", help=_("write an environment's kernelspec"))
    add.add_argument("name")
    add.add_argument("--image", default="", help=_("the image, such as pytorch/pytorch:latest"))
    add.add_argument("--engine", default="docker", help=_("docker, or process for no container"))
    add.add_argument("--gpus", default="", help=_("a number, all, or UUIDs"))
    add.add_argument("--memory", default="", help=_("memory limit, such as 8g"))
    add.add_argument("--cpus", type=float, help=_("CPU cores"))
    add.add_argument("--shm-size", default="", help=_("size of /dev/shm"))
    add.add_argument("--network", default="bridge", choices=NETWORKS)
    add.add_argument("--mount", action="append", default=[], dest="mounts", metavar="SRC:DST[:ro]")
    add.add_argument("--display-name", default="", help=_("what launchers show"))
    add.add_argument("--pool", type=int, default=0, metavar="N", help=_("kernels that a server keeps ready"))
    add.set_defaults(function=_env_add)
    _listing(env, "list", _env_list, _("the environments"))
    remove = env.add_parser("remove", help=_("remove an environment"))
    remove.add_argument("name")
    remove.set_defaults(function=_env_remove)
    reset = env.add_parser("reset", help=_("remove what was installed into an environment"))
    reset.add_argument("name")
    reset.add_argument("-y", "--yes", action="store_true", help=_("do not ask"))
    reset.add_argument("--force", action="store_true", help=_("even while its kernels or jobs run"))
    reset.set_defaults(function=_env_reset)


def _add_build_command(commands: Any) -> None:
    from .notebook.builds import add_build_options

    build = commands.add_parser("build", help=_("build an image from a Dockerfile"))
    build.add_argument("path", metavar="PATH", help=_("a Dockerfile, a folder that holds one, or - for standard input"))
    add_build_options(build)
    build.set_defaults(function=_build)


def _add_image_commands(commands: Any) -> None:
    images = commands.add_parser("images", help=_("the images of this host, and how to get more"))
    images.add_argument("--json", action="store_true", help=_("print JSON"))
    images.set_defaults(function=_images)
    more = images.add_subparsers(metavar="")
    for name, function, text in (
        ("pull", _image_pull, _("fetch an image from its registry")),
        ("probe", _image_probe, _("look into an image")),
    ):
        command = more.add_parser(name, help=text)
        command.add_argument("image")
        command.set_defaults(function=function)
    bootstrap = more.add_parser("bootstrap", help=_("build the starter image without a registry"))
    bootstrap.add_argument("--suite", help=_("Debian suite"))
    bootstrap.add_argument("--mirror", help=_("address of a Debian archive"))
    bootstrap.add_argument("--rebuild", action="store_true", help=_("build it although it is there"))
    bootstrap.add_argument("--install", action="store_true", help=_("install debootstrap where it is missing"))
    bootstrap.set_defaults(function=_image_bootstrap)


def _show(arguments: argparse.Namespace, data: Any, text: Callable[[], str]) -> int:
    print(json.dumps(data, indent=1, ensure_ascii=False) if arguments.json else text())
    return 0


def _client() -> Any:
    from .notebook.client import Client
    from .notebook.embedded import serve

    return Client(serve())


def _run(words: Sequence[str]) -> int:
    from .notebook.follow import Lines, summary, terminal_columns, until_ended

    options = parse_run(words)
    if options.help:
        print(usage("jupyter dlenv run"))
        return 0
    client = _client()
    job = client.call("POST", "/jobs", asdict(replace(options.request, python=sys.executable)))
    if options.request.dry_run:
        print(job["command"])
    elif options.detach:
        print(job["id"])
    else:
        ended = until_ended(client, job, Lines(_write, terminal_columns(sys.stdout)).add)
        if ended["state"] != "SUCCEEDED":
            sys.stderr.write(f"{summary(ended)}\n")
            return int(ended["exit_code"] or _FAILED)
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine()
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    lines = [
        f"{marks[item.level]}  {item.subject}: {item.message}" + f"\n         {item.remedy}" * bool(item.remedy)
        for item in findings
    ]
    _show(arguments, [asdict(item) for item in findings], lambda: "\n".join(lines))
    return _FAILED if any(item.level == "problem" for item in findings) else 0


def _gpus(arguments: argparse.Namespace) -> int:
    from .gpus.inventory import read_inventory
    from .notebook.magics import gpus_text

    inventory = asdict(read_inventory())
    return _show(arguments, inventory, lambda: gpus_text(inventory))


def _jobs(arguments: argparse.Namespace) -> int:
    from .notebook.follow import state_line

    jobs = _client().call("GET", "/jobs")["jobs"]
    return _show(arguments, jobs, lambda: "\n".join(state_line(job, job["state"], time.time()) for job in jobs))


def _logs(arguments: argparse.Namespace) -> int:
    from .notebook.follow import Lines, terminal_columns
    from .notebook.magics import find_job

    client = _client()
    viewer = Lines(_write, terminal_columns(sys.stdout))
    for frame in client.follow(find_job(client, [arguments.job])["id"], follow=arguments.follow):
        viewer.add(frame)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from .notebook.follow import state_line
    from .notebook.magics import find_job

    client = _client()
    job = client.call("POST", f"/jobs/{find_job(client, [arguments.job])['id']}/cancel", {})
    print(state_line(job, job["state"], time.time()))
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    from .notebook.magics import find_job

    client = _client()
    client.call("DELETE", f"/jobs/{find_job(client, [arguments.job])['id']}")
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    from .settings import load_settings
    from .shell.session import run_shell

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
        return _FAILED


def _env_add(arguments: argparse.Namespace) -> int:
    from .kernels.environments import Environment, EnvironmentManager

    keys = ("name", "image", "engine", "gpus", "memory", "cpus", "shm_size", "network", "display_name", "pool")
    chosen = {key: getattr(arguments, key) for key in keys}
    environment = Environment(**chosen, mounts=tuple(arguments.mounts))
    folder = EnvironmentManager().put(environment)
    print(_("{name} is a kernel now: {folder}").format(name=environment.name, folder=folder))
    return 0


def _env_list(arguments: argparse.Namespace) -> int:
    from .kernels.environments import EnvironmentManager

    found = EnvironmentManager().list()
    nowhere = _("no container")
    rows = [f"{item.name}  {item.image or nowhere}" for item in found]
    return _show(arguments, [asdict(item) for item in found], lambda: "\n".join(rows))


def _env_remove(arguments: argparse.Namespace) -> int:
    from .kernels.environments import EnvironmentManager

    EnvironmentManager().remove(arguments.name)
    return 0


def _env_reset(arguments: argparse.Namespace) -> int:
    from .kernels.environments import EnvironmentManager
    from .kernels.packages import refuse_while_used, removed_text
    from .settings import load_settings

    environments = EnvironmentManager()
    folders = environments.packages(arguments.name)
    if not folders:
        print(_("Nothing was installed into {name}.").format(name=arguments.name))
        return 0
    if not arguments.force:
        refuse_while_used(arguments.name, load_settings().owner)
    if not arguments.yes and not _agreed([folder.text() for folder in folders]):
        return _FAILED
    print(removed_text(environments.reset(arguments.name)))
    return 0


def _agreed(lines: Sequence[str]) -> bool:
    """Ask the person at the terminal whether to remove what the lines name."""
    if not sys.stdin.isatty():
        raise InvalidRequest(_("Nobody is there to be asked."), hint=_("Say it with --yes."))
    print("\n".join(lines))
    return input(_("Remove all of it? [y/N] ")).strip().lower() in ("y", "yes")


def _build(arguments: argparse.Namespace) -> int:
    from .notebook.builds import build_body, dockerfile_text, summary, until_built
    from .notebook.follow import Lines, terminal_columns

    body = build_body(arguments, dockerfile_text(arguments.path))
    built = until_built(_client(), body, Lines(_write, terminal_columns(sys.stdout)).add)
    print("\n".join(summary(built)))
    return 0


def _docker_engine() -> Any:
    from .engines.registry import load_engine

    return load_engine("docker")


def _images(arguments: argparse.Namespace) -> int:
    import asyncio

    from .spec import format_size

    found = asyncio.run(_docker_engine().images())
    rows = [f"{item.ref}  {format_size(item.size_bytes)}" for item in found]
    data = [{"id": item.id, "ref": item.ref, "size_bytes": item.size_bytes, "created": item.created} for item in found]
    return _show(arguments, data, lambda: "\n".join(rows))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _image_pull(arguments: argparse.Namespace) -> int:
    import asyncio

    from .images.pull import pull_with_progress

    asyncio.run(pull_with_progress(_docker_engine(), arguments.image, _say))
    return 0


def _image_probe(arguments: argparse.Namespace) -> int:
    import asyncio

    from .images.probe import probe

    async def ask() -> Any:
        engine = _docker_engine()
        return await probe(engine, (await engine.image(arguments.image)).id, arguments.image)

    facts = {key: value for key, value in asdict(asyncio.run(ask())).items() if key not in ("passwd", "group")}
    print(json.dumps(facts, indent=1, ensure_ascii=False))
    return 0


def _image_bootstrap(arguments: argparse.Namespace) -> int:
    from .engines.docker.images import DockerImages
    from .images.bootstrap import bootstrap

    ref = bootstrap(
        DockerImages.connect(),
        progress=_say,
        suite=arguments.suite,
        mirror=arguments.mirror,
        rebuild=arguments.rebuild,
        install=arguments.install,
    )
    print(ref)
    return 0


def _demo(words: Sequence[str]) -> int:
    from .demo import main as demo

    return demo(words)


if __name__ == "__main__":
    sys.exit(main())
