"""Keeps what a thread shows in the cell that it was started from.

Standard library only, Python 3.8 syntax.
"""

import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List

_THREAD = threading.local()


@contextmanager
def own_cell(shell: Any) -> Iterator[None]:
    """Show all that this thread shows meanwhile in the cell that runs now.

    A kernel sends what a thread shows to whichever cell ran last, unless the thread says where it belongs. In the main
    thread, where there are no cells, and within another such block nothing changes.
    """
    publisher = getattr(shell, "display_pub", None)
    header = getattr(publisher, "parent_header", None)
    nested = getattr(_THREAD, "kept", False)
    if threading.current_thread() is threading.main_thread() or not header or nested:
        yield
        return
    with ExitStack() as kept:
        _THREAD.kept = True
        kept.callback(setattr, _THREAD, "kept", False)
        kept.enter_context(_addressed(publisher, dict(header)))
        streams: List[Any] = [sys.stdout, sys.stderr]
        for stream in streams:
            if hasattr(stream, "set_thread_parent"):
                token = stream.set_thread_parent({"header": header})
                kept.callback(stream.reset_thread_parent, token)
        yield


@contextmanager
def _addressed(publisher: Any, header: Dict[str, Any]) -> Iterator[None]:
    """Address this thread's displays; every ipykernel calls such hooks in the thread that shows something."""

    def address(message: Dict[str, Any]) -> Dict[str, Any]:
        return {**message, "parent_header": header}

    publisher.register_hook(address)
    try:
        yield
    finally:
        publisher.unregister_hook(address)
