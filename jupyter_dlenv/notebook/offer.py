"""The offer to start this notebook's kernel from an environment: a button in JupyterLab, a sentence elsewhere.

Standard library only, Python 3.8 syntax.
"""

from typing import Any, Dict

from ..i18n import _

SWITCH_MIME = "application/vnd.jupyter-dlenv.environment+json"
"""What JupyterLab shows as a button that switches this notebook's kernel."""


def switch_offer(name: str) -> Dict[str, Any]:
    """Return what offers another environment."""
    text = _("Choose it with Kernel > Change Kernel… > {name}.").format(name=name)
    return {"text/plain": text, SWITCH_MIME: {"name": name}}


def restart_text() -> str:
    """Return what to do when the image of a running kernel's environment has changed."""
    return _("Restart the kernel to use it.")


def restart_offer(name: str) -> Dict[str, Any]:
    """Return what offers the kernel's own environment anew: to switch to it starts it with its new image.

    The sentence is printed beside it, because JupyterLab shows the button alone.
    """
    return {"text/plain": _("Kernel > Restart Kernel…"), SWITCH_MIME: {"name": name}}
