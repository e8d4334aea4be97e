"""``%dlopen`` and ``jupyter dlenv open``: words, request, and the link as a person sees it.

Standard library only, Python 3.8 syntax.
"""

import argparse
import html
import os
import sys
from typing import Any, Dict

from ..errors import InvalidRequest
from ..i18n import _
from .builds import MagicParser


def add_open_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``%dlopen`` and ``jupyter dlenv open`` share."""
    words = _("a running kernel's or job's id or its beginning, and a port; without an id this kernel")
    parser.add_argument("words", nargs="*", metavar="[TARGET] PORT", help=words)
    parser.add_argument("--tensorboard", default="", metavar="LOGDIR", help=_("start TensorBoard there on this folder"))


def open_parser() -> argparse.ArgumentParser:
    """Return the parser of ``%dlopen``."""
    parser = MagicParser("%dlopen", add_help=False)
    add_open_options(parser)
    parser.add_argument("-h", "--help", action="store_true", help=_("print this"))
    return parser


def open_body(options: argparse.Namespace) -> Dict[str, Any]:
    """Return the request.

    Raises:
        InvalidRequest: The words are not a target and a port, or a target with a folder for TensorBoard.
    """
    words = list(options.words)
    port = "" if options.tensorboard else (words.pop() if words else "")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if len(words) > 1 or not (options.tensorboard or 0 < number < 65536):
        raise InvalidRequest(
            _("Write a port, or --tensorboard and a folder; before it the job, where it is not this kernel."),
            hint="%dlopen 8000, %dlopen JOB 8000, %dlopen --tensorboard runs",
        )
    body: Dict[str, Any] = {"target": words[0] if words else "", "folder": os.getcwd(), "python": sys.executable}
    return (
        {**body, "logdir": os.path.expanduser(options.tensorboard)} if options.tensorboard else {**body, "port": number}
    )


def title(body: Dict[str, Any]) -> str:
    """Return what is open, in a few words."""
    what = "TensorBoard · " + body["logdir"] if body.get("logdir") else _("Port {port}").format(port=body["port"])
    return what + (" · " + body["target"] if body["target"] else "")


def link(body: Dict[str, Any], opened: Dict[str, Any]) -> Dict[str, str]:
    """Return a link to what is open, as an output of a notebook."""
    text = title(body)
    address = html.escape(opened["path"], quote=True)
    return {
        "text/plain": f"{text}: {opened['url']}",
        "text/html": f'<a href="{address}" target="_blank" rel="noopener">{html.escape(text)}</a>',
    }
