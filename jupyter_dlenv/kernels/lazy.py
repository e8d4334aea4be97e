"""In the container: imports that a kernel's start can do without, put off until something asks for them.

Standard library only, Python 3.6 syntax.
"""

import asyncio
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Optional, Tuple

_DEBUGGER = "ipykernel.debugger"


class LaterModule(ModuleType):
    """A module with a few names given, which runs its own code when any other name is asked for."""

    def __getattr__(self, name: str) -> Any:
        # The import system asks for names like __path__ that are not there; they tell nothing of what is wanted.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        load(self)
        return getattr(self, name)


def load(module: ModuleType) -> None:
    """Run a put-off module's own code; it replaces the names that were given."""
    if isinstance(module, LaterModule):
        object.__setattr__(module, "__class__", ModuleType)
        spec = module.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(module)


class LaterDebugger:
    """Stands for ipykernel's debugger, whose import takes longer than any other part of a kernel's start.

    It becomes the real one at the first debug request; the client that opens a notebook sends one, after the kernel's
    first reply.
    """

    def __init__(self, *arguments: Any) -> None:
        state = self.__dict__
        state["_arguments"], state["_real"], state["_made"] = arguments, None, None

    def _debugger(self) -> Any:
        state = self.__dict__
        if state["_real"] is None:
            module = sys.modules[_DEBUGGER]
            load(module)
            state["_real"] = module.Debugger(*state["_arguments"])
            if state["_made"] is not None:
                state["_made"].set()
        return state["_real"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._debugger(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._debugger(), name, value)

    async def handle_stopped_event(self) -> Any:
        """Wait for a stop; ipykernel asks from the start, on the thread that debug requests arrive on."""
        state = self.__dict__
        if state["_real"] is None:
            state["_made"] = asyncio.Event()
            await state["_made"].wait()
        return await state["_real"].handle_stopped_event()


def put_off_debugger() -> None:
    """Let the next import of ipykernel's debugger give the stand-in, where there is a debugger at all."""
    if find_spec("debugpy") is not None:
        _put_off(_DEBUGGER, ("_is_debugpy_available", True), ("Debugger", LaterDebugger))


def _put_off(name: str, *given: Tuple[str, Any]) -> Optional[ModuleType]:
    spec = find_spec(name)  # imports the package around it
    if spec is None or name in sys.modules:
        return None
    module = LaterModule(name)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    module.__package__ = spec.parent
    module.__dict__.update(given)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    setattr(sys.modules[parent], leaf, module)
    return module
