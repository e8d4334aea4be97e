"""``%%dlbuild`` and ``%dlapt``: options, requests, and a build as a person sees it.

Standard library and IPython only, Python 3.8 syntax.
"""

import argparse
import os
import re
import sys
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NoReturn, Optional, Sequence

from ..errors import InvalidRequest, JobInterrupted
from ..i18n import _
from .client import Client, Frame
from .context import packed
from .follow import LAST_LINES, LogTail, clean

_PERIOD_S = 0.25  # at most four updates a second
_KEPT_LINES = 5000
_STEP = re.compile(r"Step (\d+/\d+) : ")


class MagicParser(argparse.ArgumentParser):
    """A parser whose refusals are errors, and whose help is a text: a magic must not end its kernel."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(message, hint=f"{self.prog} --help")

    def exit(self, status: int = 0, message: Optional[str] = None) -> NoReturn:
        raise InvalidRequest(message or "")


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``%%dlbuild`` and ``jupyter dlenv build`` share."""
    parser.add_argument("-t", "--tag", default="", metavar="NAME", help=_("name of the image"))
    parser.add_argument("--env", default="", metavar="NAME", help=_("environment that uses the image afterwards"))
    parser.add_argument("--context", default="", metavar="DIR", help=_("folder that COPY and ADD see"))
    parser.add_argument(
        "--build-arg",
        action="append",
        default=[],
        dest="build_args",
        metavar="KEY[=VALUE]",
        help=_("a value for ARG; it stays in the image's history"),
    )
    parser.add_argument("--no-cache", action="store_true", help=_("run every step anew"))


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of ``%%dlbuild``."""
    parser = MagicParser(program, add_help=False)
    add_build_options(parser)
    parser.add_argument("-h", "--help", action="store_true", help=_("print this"))
    return parser


def apt_parser() -> argparse.ArgumentParser:
    """Return the parser of ``%dlapt``."""
    parser = MagicParser("%dlapt", add_help=False)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=_("Debian package, NAME or NAME=VERSION"))
    parser.add_argument("--env", default="", metavar="NAME", help=_("environment; the kernel's own unless told"))
    parser.add_argument("--no-cache", action="store_true", help=_("install them anew"))
    parser.add_argument("-h", "--help", action="store_true", help=_("print this"))
    return parser


def build_body(options: argparse.Namespace, dockerfile: str) -> Dict[str, Any]:
    """Return the request of a build.

    Raises:
        InvalidRequest: The context cannot be sent, or a build argument has no value.
    """
    return {
        "dockerfile": dockerfile,
        "tag": options.tag,
        "environment": options.env,
        "context": packed(os.path.expanduser(options.context)) if options.context else "",
        "build_args": _build_args(options.build_args),
        "no_cache": options.no_cache,
    }


def dockerfile_text(path: str) -> str:
    """Return the text of a Dockerfile, of the one in a folder, or of standard input for ``-``.

    Raises:
        InvalidRequest: There is none.
    """
    if path == "-":
        return sys.stdin.read()
    file = os.path.join(path, "Dockerfile") if os.path.isdir(path) else path
    try:
        with open(file, encoding="utf-8") as source:
            return source.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(_("There is no Dockerfile: {error}").format(error=error), hint=f"ls '{path}'") from None


def _build_args(texts: Sequence[str]) -> Dict[str, str]:
    missing = [text for text in texts if "=" not in text and text not in os.environ]
    if missing:
        raise InvalidRequest(
            _("--build-arg {key}: this variable is not set here.").format(key=missing[0]),
            hint=f"--build-arg {missing[0]}=VALUE",
        )
    return {text.partition("=")[0]: text.partition("=")[2] if "=" in text else os.environ[text] for text in texts}


def apt_body(options: argparse.Namespace) -> Dict[str, Any]:
    """Return the request of ``%dlapt``."""
    if not options.packages:
        raise InvalidRequest(_("Which packages?"), hint="%dlapt ffmpeg libgl1")
    return {"apt": options.packages, "environment": options.env, "no_cache": options.no_cache}


class BuildDisplay:
    """One output that is replaced as the build goes on; when it fails, all of its log.

    Args:
        what: Name of the build in the first line.
        publish: Called with the data, the transient data and whether to replace.
    """

    def __init__(self, what: str, publish: Callable[..., None]) -> None:
        self._what, self._publish = what, publish
        self._tail = LogTail()
        self._every: Deque[str] = deque(maxlen=_KEPT_LINES)
        self._step = ""
        self._began = time.monotonic()
        self._id = f"dlenv-build-{time.monotonic_ns()}"
        self._shown: Optional[float] = None

    def add(self, frame: Frame) -> None:
        """Take in a frame and show it when a quarter of a second has passed."""
        self._tail.add(frame)
        text = frame.data.decode("utf-8", "replace")
        self._every.extend(text.splitlines())
        self._step = (_STEP.findall(text) or [self._step])[-1]
        now = time.monotonic()
        if self._shown is None or now - self._shown >= _PERIOD_S or frame.state != "RUNNING":
            failed = frame.state == "FAILED"
            log = "\n".join(clean(line) for line in self._every) if failed else self._tail.text()
            self._show(frame.state, log)

    def _show(self, state: str, log: str) -> None:
        words = [self._what, state, f"{time.monotonic() - self._began:.1f} s"]
        if self._step and state == "RUNNING":
            words.insert(2, _("step {step}").format(step=self._step))
        skipped = self._tail.count - LAST_LINES if state == "RUNNING" else 0
        parts = [" · ".join(words)] + [_("… {count} earlier lines").format(count=skipped)] * (skipped > 0)
        data = {"text/plain": "\n".join([*parts, log]).rstrip()}
        self._publish(data, transient={"display_id": self._id}, update=self._shown is not None)
        self._shown = time.monotonic()


def until_built(client: Client, body: Dict[str, Any], show: Callable[[Frame], None]) -> Dict[str, Any]:
    """Show a build to its end and return what was built.

    Raises:
        DLEnvError: It was refused or failed.
        JobInterrupted: The person interrupted it; the builder was told to stop.
    """
    built: Dict[str, Any] = {}
    try:
        for frame in client.build(body):
            show(frame)
            built = frame.job or built
    except KeyboardInterrupt:  # the connection is closed by now, which ends the build
        raise JobInterrupted(_("The build was stopped.")) from None
    return built


def summary(built: Dict[str, Any]) -> List[str]:
    """Return what was built as sentences."""
    name, tag = built["environment"], built["tag"]
    if name and not built["changed"]:
        return [_("{name} has these packages already.").format(name=name)]
    there = _("{tag} was there already.") if built["cached"] else _("{tag} is ready.")
    lines = [there.format(tag=tag)]
    if name:
        lines.append(_("The environment {name} uses it from the next start of a kernel.").format(name=name))
    return lines
