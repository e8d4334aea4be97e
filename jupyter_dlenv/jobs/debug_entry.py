"""Stands for a job's script: one rank waits for a debugger before it runs the script, all others run it at once.

Run as ``python debug_entry.py [ARG…]``; what it stands for is in a file beside it. Standard library only, Python 3.6
syntax: it runs in users' images, and its text lies in the run folder.
"""

import json
import os
import runpy
import sys
import traceback
from typing import Any, List

RANKS = (
    "DLENV_RANK",
    "RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "HOROVOD_RANK",
    "PADDLE_GLOBAL_RANK",
    "PADDLE_TRAINER_ID",
    "SLURM_PROCID",
)
"""Where launchers say which rank a process is, ours first."""

_AGAIN = "DLENV_DEBUG_AGAIN"


def rank_of(environ: Any, first: int) -> int:
    """Return the rank of this process; with no word of it, that of the node's only one."""
    for name in RANKS:
        text = environ.get(name, "")
        if text.isdigit():
            return int(text)
    return first


def _import_debugpy(folder: str) -> Any:
    """Return debugpy: ours, of which nothing else in the same folder is seen, else the environment's own."""
    if not folder:
        import debugpy

        return debugpy
    sys.path.insert(0, folder)
    try:
        import debugpy
        import debugpy.server.api
    finally:
        sys.path.remove(folder)
    return debugpy


def _wait(folder: str, run_dir: str, rank: int) -> None:
    """Listen on a free port of the loopback, say where in a file, and return when a debugger is there."""
    try:
        debugpy = _import_debugpy(folder)
    except ImportError:
        sys.exit("[dlenv] debugpy is not installed for {}: {} -m pip install debugpy".format(*[sys.executable] * 2))
    debugpy.configure(subProcess=False)  # its processes would listen at ports that nobody reaches
    _host, port = debugpy.listen(("127.0.0.1", 0))
    path = os.path.join(run_dir, "debug.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"port": port, "rank": rank}, file)
    os.replace(path + ".new", path)
    sys.stderr.write(f"[dlenv] Rank {rank} waits for a debugger.\n")
    sys.stderr.flush()
    debugpy.wait_for_client()


def _show_without_ours() -> None:
    """Have a traceback printed as the script's own, without the frames that brought it there."""
    ours, show = (__file__, runpy.__file__, "<frozen runpy>"), traceback.print_exception

    def shown(kind: Any, error: Any, trace: Any) -> None:  # all that it names is its own: see below
        while trace is not None and trace.tb_frame.f_code.co_filename in ours:
            trace = trace.tb_next
        show(kind, error.with_traceback(trace), trace)

    sys.excepthook = shown


def _run(words: List[str]) -> None:
    """Run a script or module as an interpreter would that was started with it; it finds nothing of ours."""
    _show_without_ours()
    main, run_module = sys.modules["__main__"].__dict__, runpy._run_module_as_main  # type: ignore[attr-defined]
    sys.argv, path, code = list(words), words[0], None
    if path == "-m":
        sys.argv = words[1:]
        sys.path[0] = os.getcwd()
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
    kept = {key: main[key] for key in ("__builtins__", "__name__", "__loader__")}
    main.clear()
    main.update(kept, __file__=path, __doc__=None, __package__=None, __spec__=None, __cached__=None)
    if code is None:
        run_module(words[1], alter_argv=True)  # as `python -m` does it
    else:
        exec(code, main)


def start(words: List[str]) -> None:
    """Be the script, with or without a debugger."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "debug_entry.json"), encoding="utf-8") as file:
        about = json.load(file)
    rank = rank_of(os.environ, about["first_rank"])
    if rank != about["rank"]:
        os.execv(sys.executable, [sys.executable, "-u", *about["target"], *words])
    if sys.version_info >= (3, 11) and _AGAIN not in os.environ:
        os.environ[_AGAIN] = "1"  # a debugger misses breakpoints in frozen modules
        os.execv(sys.executable, [sys.executable, "-u", "-Xfrozen_modules=off", __file__, *words])
    os.environ.pop(_AGAIN, None)
    _wait(about["debugpy"], here, rank)
    _run(about["target"] + words)


if __name__ == "__main__":
    start(sys.argv[1:])
