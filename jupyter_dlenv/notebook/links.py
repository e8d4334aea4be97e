"""Names the link behind a missing file: in a container a link out of the mounts leads nowhere.

Standard library only, Python 3.8 syntax.
"""

import os
import sys
from typing import Any, Optional, Tuple

from ..i18n import _


def dangling_link(path: str) -> Optional[Tuple[str, str]]:
    """Return the first link on a path that leads nowhere, with its end; None when there is none."""
    at = os.sep
    for part in os.path.abspath(path).split(os.sep)[1:]:
        at = os.path.join(at, part)
        if os.path.islink(at) and not os.path.exists(at):
            return at, os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at)))
    return None


def hint_for(error: BaseException) -> str:
    """Return what to do about a missing file, empty when it is not about a link."""
    name = getattr(error, "filename", None)
    found = dangling_link(os.fsdecode(name)) if isinstance(name, (str, bytes)) else None
    if found is None:
        return ""
    link, end = found
    option = f"--mount 'src={end},dst={end}'" if ":" in end else f"--mount {end}:{end}"
    return _("{link} is a link to {end}, which this container does not see. Add to the environment: {option}").format(
        link=link, end=end, option=option
    )


def show_hint(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: Optional[int] = None) -> None:
    """Show the traceback as always, and below it the hint; IPython calls this for a missing file."""
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    hint = hint_for(error)
    if hint:
        sys.stderr.write(f"{hint}\n")
