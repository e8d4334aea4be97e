"""``%pip`` in images that have no pip, or whose packages are in a venv.

Standard library and IPython only, Python 3.8 syntax.
"""

import glob
import importlib
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, List, Mapping

from ..errors import UnusableImage
from ..i18n import _
from ..spec import CONTAINER_ROOT

_WHEEL_FOLDERS = ("/usr/share/python-wheels",)  # where Debian keeps what other Pythons have in ensurepip
_LAST_LINES = 5
_IN_VENV = (
    "import os, runpy, sys; os.environ.pop('PIP_PREFIX', None); "
    "os.environ.update(PIP_USER='1', PIP_BREAK_SYSTEM_PACKAGES='1'); sys.base_prefix = sys.prefix; "
    "sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
"""Runs pip as if its venv were none: it then takes the user's folder for a place to install to, upgrade in and remove
from, and leaves alone what is the image's. By a prefix it would do the first only."""


def bundled_pip() -> str:
    """Return the pip wheel that comes with this Python, empty when there is none."""
    spec = find_spec("ensurepip")
    own = [os.path.join(os.path.dirname(spec.origin), "_bundled")] if spec and spec.origin else []
    found = [path for folder in (*own, *_WHEEL_FOLDERS) for path in glob.glob(os.path.join(folder, "pip-*.whl"))]
    return found[0] if found else ""


def install_argv(python: str, wheel: str) -> List[str]:
    """Return the command by which a pip wheel installs itself; where to, the container's variables say."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-warn-script-location", "--disable-pip-version-check"]
    return [python, os.path.join(wheel, "pip"), "install", *options, wheel]


def make_pip() -> None:
    """Install pip into the environment's own folder.

    Raises:
        UnusableImage: This Python brings none.
    """
    wheel = bundled_pip()
    if not wheel:
        raise UnusableImage(
            _("The Python of this image has no pip, and nothing to make one from."),
            hint=_("Add it to the image: %dlapt python3-pip, or %%dlbuild with a RUN step that installs pip."),
        )
    done = subprocess.run(
        install_argv(sys.executable, wheel), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    importlib.invalidate_caches()
    if done.returncode:
        last = "\n".join(done.stdout.decode(errors="replace").splitlines()[-_LAST_LINES:])
        raise UnusableImage(_("pip could not be installed:\n{last}").format(last=last))


def pip_command(python: str, line: str, environ: Mapping[str, str]) -> str:
    """Return the shell's command for a line of ``%pip``."""
    words = ["-c", shlex.quote(_IN_VENV)] if environ.get("PIP_PREFIX") else ["-m", "pip"]
    return " ".join([shlex.quote(python), *words, line])


def wrap_pip(shell: Any) -> None:
    """Give ``%pip`` a pip the first time where the image has none, and let it work in a venv that is root's.

    Only in containers: on the host, the Python is nobody's to change.
    """
    ours = os.environ.get("PYTHONUSERBASE", "").startswith(CONTAINER_ROOT)
    if not ours or (find_spec("pip") is not None and not os.environ.get("PIP_PREFIX")):
        return
    original = shell.find_line_magic("pip")

    def pip(line: str) -> None:
        if subprocess.run([sys.executable, "-c", "import pip"], stderr=subprocess.DEVNULL, check=False).returncode:
            make_pip()
        shell.system(pip_command(sys.executable, line, os.environ))
        importlib.invalidate_caches()

    pip.__doc__ = original.__doc__
    shell.register_magic_function(pip, "line", "pip")
