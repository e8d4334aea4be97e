"""The catalogue of causes: how each is recognised, what it is in words, and what helps. Data. Pure.

A text is searched for one cause after the other, so the special ones come before the general ones; among several
texts those that are a consequence of another's failure come last. ``docs/failures.md`` shows it as a table.
"""

from __future__ import annotations

from ..i18n import _
from ..spec import Reason
from .causes_code import CODE_CAUSES, IMAGE_CAUSES, REACH_CAUSES
from .causes_end import END_CAUSES
from .causes_gpu import GPU_CAUSES, RANK_CAUSES
from .facts import Cause, Facts, Found


def _in_shm(_facts: Facts, found: Found) -> bool:
    return any(word in found.block for word in ("/dev/shm", "shared_memory.py", "multiprocessing/heap.py", "</torch_"))


def _bus_error(_facts: Facts, found: Found) -> bool:
    """Tell whether the loader's worker that ended, if that is all that is said, ended for that."""
    return not found.groups.get("ended") or "bus error encountered in" in found.before.lower()


def _is_file(_facts: Facts, found: Found) -> bool:
    """Tell whether a path is one of a file: shared memory has names that look like one."""
    return "shared_memory.py" not in found.block and not found.groups.get("path", "").startswith("/psm_")


def _outside(facts: Facts, found: Found) -> bool:
    path = found.groups.get("path", "")
    if not _is_file(facts, found) or ("." in path and path.rfind("/") == 0):  # nobody mounts the top folder
        return False
    known = (*facts.mounts, facts.workdir or "/", "/usr", "/etc", "/tmp", "/proc", "/sys", "/dev", "/opt", "/dlenv")
    inside = any(path == top or path.startswith(top.rstrip("/") + "/") for top in known if top != "/")
    return facts.engine != "process" and path.startswith("/") and not inside


def _is_program(_facts: Facts, found: Found) -> bool:
    """Tell whether a program was looked for by its name; a path may be the folder that it was to be started in."""
    path = found.groups.get("path", "")
    folder = f"cwd='{path}'" in found.block or f'cwd="{path}"' in found.block
    return "_execute_child" in found.block and "/" not in path and not folder


_NO_FILE = (r"No such file or directory: b?'(?P<path>[^'\n]{1,300})'",)
_NO_FILES = (
    *_NO_FILE,
    r"No such file or directory: b?\"(?P<path>[^\"\n]{1,300})\"",
    r"nable to open file: name = '(?P<path>[^'\n]{1,300})', errno = 2\b",
    r"FileNotFoundError: (?P<path>[^\s:'\"]{0,200}/[^\s:'\"]{1,200}?)(?: (?:not found|does not exist))?\.?$",
)
_FULL = (r"No space left on device", r"\[Errno 28\](?! inotify)")
_LOADER_ENDED = (
    r"DataLoader worker \(pid.{1,80} (?P<ended>exited unexpectedly)",
    r"\(Fatal\) DataLoader process (?P<ended>\(pid)",
)

_FILES = (
    Cause(
        "shm-full",
        Reason.OUT_OF_MEMORY,
        lambda: _("/dev/shm is full: processes pass data to each other there."),
        lambda: _("Raise it: --shm-size {more_shm}. Or use fewer loader workers."),
        (
            r"unable to (?:write to file|open shared memory object|allocate shared memory).{0,40}</torch_",
            r"unable to mmap \d{1,20} bytes from file </torch_",
            r"is killed by signal: Bus error",
            r"Unexpected (?:bus|BUS) error encountered in",
            r"insufficient shared memory \(shm\)",
            r"Error while creating shared memory segment",
            r"No space left on device: '?/dev/shm",
            *_LOADER_ENDED,
        ),
        when=_bus_error,
    ),
    Cause(
        "shm-full-write",
        Reason.OUT_OF_MEMORY,
        lambda: _("It wrote to /dev/shm until that was full."),
        lambda: _("Raise it: --shm-size {more_shm}. Or write to a folder instead."),
        _FULL,
        when=_in_shm,
    ),
    Cause(
        "disk-full",
        Reason.USER_ERROR,
        lambda: _("The disk that it wrote to is full."),
        lambda: _(
            "df -h shows which. Write to another one, for example --mount /big:/big, or make room; "
            "jupyter dlenv rm JOB removes an old job with its log."
        ),
        _FULL,
    ),
    Cause(
        "quota",
        Reason.USER_ERROR,
        lambda: _("Your quota on that file system is used up."),
        lambda: _("Remove files, or write to another file system, for example --mount /big:/big."),
        (r"Disk quota exceeded", r"\[Errno 122\]"),
    ),
    Cause(
        "script-missing",
        Reason.USER_ERROR,
        lambda: _("The script {path} is not there, as seen from inside."),
        lambda: _("Name it as seen from the working folder; a script must lie below a mount: --mount SRC:DST."),
        (r"can't open file '(?P<path>[^'\n]{1,300})': \[Errno 2\]",),
    ),
    Cause(
        "program-missing",
        Reason.USER_ERROR,
        lambda: _("The program {path} is not in this image."),
        lambda: _("Add it in a build, for example %dlapt {path}, or use an image that has it (--image)."),
        _NO_FILE,
        when=_is_program,
    ),
    Cause(
        "file-outside",
        Reason.USER_ERROR,
        lambda: _("{path} is not there: it lies outside what the container sees of the host."),
        lambda: _("Show its folder: --mount {folder}:{folder}:ro"),
        (*_NO_FILES, r"(?<=: )(?P<path>/[^:'\"\n]{1,300}): No such file or directory"),
        when=_outside,
    ),
    Cause(
        "file-missing",
        Reason.USER_ERROR,
        lambda: _("{path} is not there."),
        lambda: _("A relative path begins at the working folder, {workdir}. Folders of the host are shown by --mount."),
        (*_NO_FILES, r"(?<=: )(?P<path>[^:'\"\n]{1,300}): No such file or directory"),
        when=_is_file,
    ),
    Cause(
        "read-only",
        Reason.USER_ERROR,
        lambda: _("It wrote to {path}, which is read-only inside."),
        lambda: _("Write below the working folder or /tmp, or mount the folder without :ro: --mount SRC:DST."),
        (r"Read-only file system: '(?P<path>[^'\n]{1,300})'", r"Read-only file system", r"\[Errno 30\]"),
    ),
    Cause(
        "permission",
        Reason.USER_ERROR,
        lambda: _("It was not permitted to use {path}."),
        lambda: _(
            "Inside it runs as you: the file must be yours, or readable for you; ls -ln shows whose it is. "
            "What belongs to the image cannot be changed: write below the working folder or /tmp."
        ),
        (
            r"PermissionError: \[Errno \d{1,2}\] .{0,60}: '(?P<path>[^'\n]{1,300})'",
            r"PermissionError: ",
            r"(?<=: )(?P<path>/[^:'\"\n]{1,300}): Permission denied",
            r"Permission denied: '(?P<path>[^'\n]{1,300})'",
            r"\[Errno 13\]",
        ),
    ),
    Cause(
        "open-files",
        Reason.USER_ERROR,
        lambda: _("It opened more files than a process may."),
        lambda: _(
            "Close what is not needed, use fewer loader workers, or call "
            "torch.multiprocessing.set_sharing_strategy('file_system')."
        ),
        (r"Too many open files", r"\[Errno 24\]", r"received 0 items of ancdata"),
    ),
    Cause(
        "processes",
        Reason.USER_ERROR,
        lambda: _("It could not start one more process or thread: the limit is reached."),
        lambda: _("Use fewer workers, and fewer threads in each: -e OMP_NUM_THREADS=1."),
        (
            r"can't start new thread",
            r"Thread creation failed",
            r"pthread_create failed",
            r"BlockingIOError: \[Errno 11\]",
            r"[Ff]ork: (?:retry: )?Resource temporarily unavailable",
            r"std::system_error.{0,60}Resource temporarily unavailable",
        ),
    ),
    Cause(
        "allocation",
        Reason.OUT_OF_MEMORY,
        lambda: _("It asked for more memory at once than there is."),
        lambda: _("Use smaller batches, or read the data piece by piece; the memory limit is set by --memory."),
        (
            r"DefaultCPUAllocator: ",
            r"^MemoryError",
            r"ArrayMemoryError: ",
            r"std::bad_alloc",
            r"\[Errno 12\]",
            r"OOM when allocating tensor with shape",
            r"RESOURCE_EXHAUSTED: (?:Out of memory|Failed to allocate)",
            r"Cannot allocate memory",
        ),
    ),
    Cause(
        "worker-killed",
        Reason.KILLED,
        lambda: _("A loader worker was killed, mostly for memory."),
        lambda: _("Use fewer workers or smaller batches, or raise the limit with --memory."),
        (r"DataLoader worker \(pid.{1,80} is killed by signal", *_LOADER_ENDED),
    ),
)

_ENDS = tuple(cause for cause in END_CAUSES if cause.signs)
LOG_CAUSES = (
    *_FILES[:1],
    *GPU_CAUSES,
    *RANK_CAUSES[:6],
    *IMAGE_CAUSES,
    *_FILES[1:],
    *REACH_CAUSES,
    *CODE_CAUSES,
    *RANK_CAUSES[6:],
    *_ENDS,
)
"""What texts are searched for, in this order."""

CRASH_CAUSES = tuple(
    cause for cause in LOG_CAUSES if cause.id in ("shm-full", "cpu-instructions", "crash", "bus-error")
)
"""All that can have ended a process that crashed."""

CATALOGUE = (*END_CAUSES, *(cause for cause in LOG_CAUSES if cause not in _ENDS))
BY_ID = {cause.id: cause for cause in CATALOGUE}
