"""``%pip`` in an image that has no pip.

Standard library and IPython only, Python 3.8 syntax.
"""

import glob
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, Callable, List, Mapping

from ..errors import UnusableImage
from ..i18n import _
from ..spec import CONTAINER_ROOT

_WHEEL_FOLDERS = ("/usr/share/python-wheels",)  # where Debian keeps what other Pythons have in ensurepip
_LAST_LINES = 5


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


def in_own_folder(environ: Mapping[str, str]) -> bool:
    """True where pip installs into a folder of ours; on the host, whose Python is nobody's to change, it does not."""
    return any(environ.get(name, "").startswith(CONTAINER_ROOT) for name in ("PIP_PREFIX", "PYTHONUSERBASE"))


def wrap_pip(shell: Any) -> None:
    """Let ``%pip`` make itself a pip the first time, where the image has none."""
    if not in_own_folder(os.environ) or find_spec("pip") is not None:
        return
    original: Callable[[str], Any] = shell.magics_manager.magics["line"]["pip"]

    def pip(line: str) -> Any:
        if subprocess.run([sys.executable, "-c", "import pip"], stderr=subprocess.DEVNULL, check=False).returncode:
            make_pip()
        return original(line)

    pip.__doc__ = original.__doc__
    shell.register_magic_function(pip, "line", "pip")
