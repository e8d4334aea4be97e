"""Deep learning in containers, from Jupyter.

Only the hooks that Jupyter and IPython call; what they need is imported inside them, because this file is also
imported in bare images (Python 3.8, standard library).
"""

from typing import Any, Dict, List


def _jupyter_server_extension_points() -> List[Dict[str, Any]]:
    from .server.app import DLEnvApp

    return [{"module": "jupyter_dlenv", "app": DLEnvApp}]


def _jupyter_labextension_paths() -> List[Dict[str, str]]:
    return [{"src": "labextension", "dest": "jupyter-dlenv"}]


def load_ipython_extension(shell: Any) -> None:
    """Add ``%dlrun`` and its like; called by ``%load_ext jupyter_dlenv`` and at the start of our own kernels."""
    from .notebook.magics import register

    register(shell)


def __getattr__(name: str) -> Any:
    if name == "Environments":
        from .notebook.widgets import Environments

        return Environments
    if name == "__version__":
        from importlib.metadata import version

        return version("jupyter-dlenv")
    raise AttributeError(name)
