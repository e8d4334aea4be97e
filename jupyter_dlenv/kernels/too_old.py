"""Stands for our package in images whose Python is too old for it: every ``%dl...`` magic says so.

A runtime for Python 3.6 or 3.7 holds this file as ``jupyter_dlenv/__init__.py``, with ``i18n.py`` and the translations
beside it. Standard library and IPython only, Python 3.6 syntax.
"""

import sys
from importlib import import_module
from typing import Any

from jupyter_dlenv.i18n import _


def refuse(*_arguments: Any) -> None:
    """Say why there are no magics here.

    Raises:
        UsageError: Always; IPython shows it without a traceback.
    """
    version = "{}.{}".format(*sys.version_info[:2])
    usage_error: Any = import_module("IPython.core.error").UsageError
    raise usage_error(
        _("The magics of jupyter-dlenv need Python 3.8 or newer, and this image has {version}.").format(version=version)
    )


class Refusing(dict):  # type: ignore[type-arg]  # Python 3.6 cannot say of what
    """A table of magics in which every missing one that would be ours refuses."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a magic by its name."""
        found = super().get(name, default)
        return refuse if found is None and name.startswith("dl") else found


def load_ipython_extension(shell: Any) -> None:
    """Put the refusals in place; called by ``%load_ext jupyter_dlenv`` and at the start of our own kernels."""
    magics = shell.magics_manager.magics
    for kind in ("line", "cell"):
        magics[kind] = Refusing(magics[kind])
