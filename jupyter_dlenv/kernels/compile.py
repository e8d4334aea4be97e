"""Compile the kernel runtime with the image's own interpreter: ``python compile.py OUT``.

The sources lie beside this file and may be read-only; bytecode goes to the same relative paths below OUT, one ``.pyc``
a source, by as many processes as there are cores. Standard library only, Python 3.6 syntax. A source that does not
compile (some packages carry Python 2 files) is left out.
"""

import os
import py_compile
import sys
from typing import Iterator, List

ROOT = "/dlenv/runtime"
"""Where containers see the runtime; tracebacks show this path whatever the folder is called here."""


def sources(root: str) -> Iterator[str]:
    """Yield the relative paths of all Python files, test suites left out."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in ("tests", "test", "__pycache__"))
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in sorted(files) if name.endswith(".py"))


def compile_all(root: str, out: str, paths: List[str]) -> None:
    """Compile sources into unchecked bytecode, which stays valid whatever time stamps a mount shows.

    Python 3.6 has bytecode with the time stamp of its source only.
    """
    modes = getattr(py_compile, "PycInvalidationMode", None)
    options = {"invalidation_mode": modes.UNCHECKED_HASH} if modes else {}
    for path in paths:
        target = os.path.join(out, path + "c")
        shown = os.path.join(ROOT, path)
        try:
            py_compile.compile(os.path.join(root, path), target, shown, doraise=True, **options)
        except py_compile.PyCompileError:
            continue


def main(root: str, out: str) -> int:
    """Compile everything and return the exit status."""
    os.umask(0)  # Whoever runs this, the host's user has to remove it.
    paths = list(sources(root))
    cores = len(os.sched_getaffinity(0))
    children = []
    for first in range(cores):
        child = os.fork()
        if child == 0:
            compile_all(root, out, paths[first::cores])
            os._exit(0)
        children.append(child)
    return max(os.waitpid(child, 0)[1] for child in children) and 1


if __name__ == "__main__":
    sys.exit(main(os.path.dirname(os.path.abspath(__file__)), sys.argv[1]))
