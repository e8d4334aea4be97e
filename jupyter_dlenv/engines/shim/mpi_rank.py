"""Runs a Python program as one rank of MPI.

A rank that fails leaves the others waiting for it, for ever. mpi4py ends them all when it runs the program itself.
"""

import os
import sys
from importlib import import_module


def main() -> None:
    """Run what follows on the command line, as ``python -m mpi4py`` does, or plainly where there is no mpi4py."""
    if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
        sys.path[0] = os.getcwd()  # for ``-m``; a script's own folder takes its place
    try:
        run = import_module("mpi4py.run")
    except ImportError:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    run.main()


if __name__ == "__main__":
    main()
