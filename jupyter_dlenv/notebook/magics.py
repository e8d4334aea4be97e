"""The magics: parse a line, call the job API, show what comes back.

Standard library and IPython only, Python 3.8 syntax.
"""

import os
import shlex
import sys
import time
from dataclasses import asdict, replace
from typing import Any, Callable, Dict, List, Optional

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

from ..errors import EngineUnavailable, InvalidRequest, JobNotFound
from ..i18n import _
from ..lastwords import Notebook
from ..options import RunOptions, RunRequest, parse_run, usage
from .builds import BuildDisplay, apt_body, apt_parser, build_body, build_parser, summary, until_built
from .cell import own_cell
from .client import Client, Frame, find_client
from .follow import Display, lines_on, metrics_of, raise_for_state, state_line, submit, terminal_columns, until_ended
from .gpus import gpus_text, lost_here
from .jobs import details
from .links import show_hint
from .offer import restart_offer, restart_text
from .open import link, open_body, open_parser
from .packages import wrap_pip


def words_of(line: str) -> List[str]:
    """Return the words of a line, quoted as in a shell; nothing else of a shell's has a meaning.

    Raises:
        InvalidRequest: A quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidRequest(_("The line cannot be read: {error}.").format(error=error)) from None


def in_notebook(shell: Any) -> bool:
    """True where outputs can be replaced in place, false in a terminal."""
    return hasattr(shell, "kernel")


class Session:
    """What the magics of one shell share."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._client: Optional[Client] = None

    @property
    def client(self) -> Client:
        """The job API, found on first use."""
        if self._client is None:
            self._client = find_client()
        return self._client

    def run(self, request: RunRequest, options: RunOptions) -> None:
        """Submit a job and show it to its end.

        Raises:
            JobFailed: It did not succeed.
        """
        with own_cell(self.shell):
            complete = replace(request, python=sys.executable)
            job = submit(self.client, asdict(complete))
            if job.get("debugger"):
                print(job["debugger"])
            if complete.dry_run:
                print(job["command"])
            elif options.detach:
                waits, runs = _("Job {id} waits. Its log: %dlattach {id}"), _("Job {id} runs. Its log: %dlattach {id}")
                print((waits if job["state"] == "PENDING" else runs).format(id=job["id"]))
            else:
                self.attach(job, plain=options.plain)

    def attach(self, job: Dict[str, Any], *, plain: bool = False) -> None:
        """Show a job's log to its end.

        Raises:
            JobFailed: It did not succeed.
        """
        with own_cell(self.shell):
            ended = until_ended(self.client, job, self._viewer(job, plain))
        raise_for_state(ended)

    def build(self, what: str, body: Dict[str, Any]) -> None:
        """Build an image and show it to its end; offer the kernel anew where its own image changed.

        Raises:
            DLEnvError: It was refused, or a step failed.
        """
        built = until_built(self.client, body, self._build_viewer(what))
        print("\n".join(summary(built)))
        if built["changed"] and built["environment"] == os.environ.get("DLENV_ENVIRONMENT"):
            self.offer_restart(built["environment"], restart_text())

    def offer_restart(self, environment: str, text: str) -> None:
        """Offer the kernel anew, with a button where there can be one."""
        print(text)
        if in_notebook(self.shell):
            self.shell.display_pub.publish(data=restart_offer(environment), metadata={})

    def _build_viewer(self, what: str) -> Callable[[Frame], None]:
        if not in_notebook(self.shell):
            return lines_on(sys.stdout, terminal_columns(sys.stdout)).add
        return BuildDisplay(what, _publisher(self.shell)).add

    def _viewer(self, job: Dict[str, Any], plain: bool) -> Callable[[Any], None]:
        if plain or not in_notebook(self.shell):
            return lines_on(sys.stdout, terminal_columns(sys.stdout)).add
        return Display(job, _publisher(self.shell), lambda: metrics_of(self.client, job["id"])).add


def _publisher(shell: Any) -> Callable[..., None]:
    def publish(data: Dict[str, Any], transient: Dict[str, Any], update: bool) -> None:
        shell.display_pub.publish(data=data, metadata={}, transient=transient, update=update)

    return publish


@magics_class
class DLEnvMagics(Magics):
    """``%dlrun`` and its like."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._session = Session(shell)

    @no_var_expand
    @line_magic
    def dlrun(self, line: str) -> None:
        """Run a script in containers: %dlrun train.py --nproc 2 -- --lr 0.1"""
        options = parse_run(words_of(line))
        if options.help:
            print(usage("%dlrun"))
        else:
            self._session.run(options.request, options)

    @no_var_expand
    @cell_magic("dlrun")  # type: ignore[arg-type]  # IPython types its decorator for plain functions
    def dlrun_cell(self, line: str, cell: str) -> None:
        """Run the cell as a script: %%dlrun --nproc 2"""
        options = parse_run(words_of(line))
        if options.help:
            print(usage("%%dlrun"))
            return
        if options.request.script or options.request.module:
            raise InvalidRequest(
                _("%%dlrun runs the cell, so {what!r} has no place.").format(
                    what=options.request.script or options.request.module
                ),
                hint="%dlrun " + line,
            )
        self._session.run(replace(options.request, cell=cell, script="cell.py"), options)

    @line_magic
    def dljobs(self, line: str) -> None:
        """List the jobs, newest first, or tell all about one: %dljobs JOB"""
        if line.strip():
            print(details(self._session.client.call("GET", f"/jobs/{self._job(line)['id']}")))
            return
        for job in self._session.client.call("GET", "/jobs")["jobs"]:
            print(state_line(job, job["state"], time.time()))

    @line_magic
    def dllogs(self, line: str) -> None:
        """Print a job's log as it is now: %dllogs JOB"""
        viewer = lines_on(sys.stdout)
        for frame in self._session.client.follow(self._job(line)["id"], follow=False):
            viewer.add(frame)

    @line_magic
    def dlattach(self, line: str) -> None:
        """Show a job's log from its first line on, to its end: %dlattach JOB"""
        self._session.attach(self._job(line))

    @line_magic
    def dlstop(self, line: str) -> None:
        """Stop a job, or a kernel that waits for GPUs: %dlstop JOB"""
        print(stop(self._session.client, words_of(line)))

    @line_magic
    def dlrm(self, line: str) -> None:
        """Remove an ended job with its log: %dlrm JOB"""
        job = self._job(line)
        self._session.client.call("DELETE", f"/jobs/{job['id']}")

    @no_var_expand
    @line_magic
    def dlopen(self, line: str) -> None:
        """Open a page of this kernel or of a job: %dlopen 8000, %dlopen --tensorboard runs"""
        parser = open_parser()
        options = parser.parse_args(words_of(line))
        if options.help:
            print(parser.format_help())
            return
        body = open_body(options)
        shown = link(body, self._session.client.call("POST", "/open", body))
        if in_notebook(self._session.shell):
            self._session.shell.display_pub.publish(data=shown, metadata={})
        else:
            print(shown["text/plain"])

    @line_magic
    def dlgpus(self, line: str) -> None:
        """List the GPUs of the host, who holds them, and who waits."""
        _no_words(line, "%dlgpus")
        print(gpus_text(self._session.client.call("GET", "/gpus")))
        lost = lost_here()
        if lost:
            print(_("This kernel has lost its GPUs: the host took back {nodes}.").format(nodes=", ".join(lost)))
            again = _("Restart the kernel to get them back.")
            self._session.offer_restart(os.environ.get("DLENV_ENVIRONMENT", ""), again)

    @no_var_expand
    @cell_magic
    def dlbuild(self, line: str, cell: str) -> None:
        """Build an image from the cell, which is a Dockerfile: %%dlbuild -t NAME --env NAME"""
        parser = build_parser("%%dlbuild")
        options = parser.parse_args(words_of(line))
        if options.help:
            print(parser.format_help())
        else:
            self._session.build(options.tag or options.env or "%%dlbuild", build_body(options, cell))

    @no_var_expand
    @line_magic
    def dlapt(self, line: str) -> None:
        """Add Debian packages to the kernel's image: %dlapt ffmpeg libgl1"""
        parser = apt_parser()
        options = parser.parse_args(words_of(line))
        if options.help:
            print(parser.format_help())
        else:
            self._session.build("%dlapt " + " ".join(options.packages), apt_body(options))

    @line_magic
    def dlimages(self, line: str) -> None:
        """List the images of the host."""
        _no_words(line, "%dlimages")
        for image in self._session.client.call("GET", "/images")["images"]:
            print(f"{image['ref']}  {image['size_bytes'] / 1e9:.2f} GB")

    @line_magic
    def dlenv(self, line: str) -> Any:
        """Show the picker of environments."""
        _no_words(line, "%dlenv")
        from .widgets import Environments

        return Environments(self._session.client)

    def _job(self, line: str) -> Dict[str, Any]:
        return find_job(self._session.client, words_of(line))


def find_job(client: Client, words: List[str]) -> Dict[str, Any]:
    """Return the one job that an id or the beginning of one names.

    Raises:
        InvalidRequest: No id was given, or it names several jobs.
        JobNotFound: It names none.
    """
    if len(words) != 1:
        raise InvalidRequest(_("Name one job by its id."), hint="%dljobs")
    jobs = client.call("GET", "/jobs")["jobs"]
    found = [job for job in jobs if job["id"].startswith(words[0])]
    if len(found) > 1:
        raise InvalidRequest(_("{word} begins the ids of {count} jobs.").format(word=words[0], count=len(found)))
    return found[0] if found else dict(client.call("GET", f"/jobs/{words[0]}"))


def stop(client: Client, words: List[str]) -> str:
    """Stop what an id or its beginning names and return a line that says so.

    Raises:
        JobNotFound: It names neither a job nor a kernel that waits for GPUs.
    """
    try:
        found = find_job(client, words)
    except JobNotFound:
        kernel = _waiting_kernel(client, words[0])
        if not kernel:
            raise
        client.call("POST", f"/kernels/{kernel}/cancel", {})
        return _("The kernel {id} was taken out of the queue for GPUs.").format(id=kernel)
    job = client.call("POST", f"/jobs/{found['id']}/cancel", {})
    return state_line(job, job["state"], time.time())


def _waiting_kernel(client: Client, word: str) -> str:
    """Return the one kernel in the queue for GPUs that an id or its beginning names, empty where there is none."""
    try:
        queue = client.call("GET", "/gpus")["queue"]
    except EngineUnavailable:  # without Docker no kernel waits
        return ""
    found = [str(item["id"]) for item in queue if item["role"] == "kernel" and item["id"].startswith(word)]
    return found[0] if len(found) == 1 else ""


def _no_words(line: str, magic: str) -> None:
    if line.strip():
        raise InvalidRequest(_("{magic} takes no arguments.").format(magic=magic))


def note_last_words(shell: Any) -> None:
    """Note what runs and what is written, for the owner of a kernel that dies."""
    kernel = getattr(shell, "kernel", None)
    folder = os.path.dirname(os.environ.get("DLENV_API", ""))
    if kernel is None or "DLENV_ENVIRONMENT" not in os.environ or not os.access(folder, os.W_OK):
        return
    noted = Notebook(folder)
    shell.events.register("pre_run_cell", lambda info: noted.note_parent(kernel.get_parent().get("header", {})))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "echo"):
            stream.echo = noted  # ipykernel's streams hand on all that they get


def register(shell: Any) -> None:
    """Add the magics to a shell; a second time changes nothing."""
    if "dlrun" in shell.magics_manager.magics["line"]:
        return
    shell.register_magics(DLEnvMagics)
    note_last_words(shell)
    if "DLENV_ENVIRONMENT" in os.environ:
        shell.set_custom_exc((FileNotFoundError,), show_hint)
        wrap_pip(shell)
