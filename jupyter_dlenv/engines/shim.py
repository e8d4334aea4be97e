"""Runs one command for its run folder: merges its logs, ends it when asked, writes down how it ended.

Usage: ``python3 -I -S shim.py RUN_DIR``. Both flags only make the start quick; the command gets a normal environment.

Standard library only and Python 3.6 syntax, because it runs on whatever Python the user's image holds; one file,
because one file is what a container is shown. The command writes its raw files itself, never through a pipe of ours:
should this process be slow or die, the command does not notice. Nothing outside RUN_DIR is written.
"""

import contextlib
import errno
import glob
import json
import os
import re
import select
import signal
import stat
import sys
import time

TYPE_CHECKING = False  # importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple

CHUNK = 1 << 20
MAX_LINE = 4 << 20
MAX_OPEN_TEXT = 4096
POLL_S = (0.02, 0.05)
LOOK_S = 0.2  # between looks for a stop request, new rank files and a changed open line
FINISH_S = 5.0  # how long the last lines and the result wait for a disk that refuses them
RESERVED = 1024
PR_SET_CHILD_SUBREAPER = 36
FALLOC_FL_PUNCH_HOLE_KEEP_SIZE = 3
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOMEM)
HANDLED = tuple(
    getattr(signal, "SIG" + name) for name in ("CHLD", "CONT", "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")
)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_CELL = re.compile("(?:\x1b\\[[0-?]*[ -/]*[@-~])*([^\x1b]|\x1b(?!\\[)|$)")
_ERASE = re.compile("\x1b\\[[0-2]?[JK]")


# Lines ----------------------------------------------------------------------------------------------------------------


def char_columns(char: str) -> int:
    """Return how many columns of a terminal a character takes."""
    import unicodedata  # costs a library load that plain ASCII output never needs

    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> "List[str]":
    """Return what a text puts into each column: a character with the escape sequences and marks that go with it."""
    found = []  # type: List[str]
    for match in _CELL.finditer(text):
        char = match.group(1)
        columns = char_columns(char) if char >= "\u0300" else len(char)
        if columns:
            found += [match.group()] + [""] * (columns - 1)
        elif found:
            found[-1] += match.group()
    return found


def collapse(line: bytes) -> bytes:
    """Return what a terminal shows at last for a line with carriage returns: later text lies over earlier text."""
    text = line.decode("utf-8", "surrogateescape")
    plain = "\x1b" not in text and max(text, default="") < "\u0300"
    shown = []  # type: List[str]
    for segment in reversed(text.split("\r")):
        below = (list(segment) if plain else cells(segment))[len(shown) :]
        if below:
            below[0] = below[0] or " "  # the right half of a wide character whose left half is covered
            shown += below
        if not plain and _ERASE.search(segment):
            break
    return _ERASE.sub("", "".join(shown)).rstrip(" ").encode("utf-8", "surrogateescape")


def squeeze(line: bytes) -> bytes:
    """Return an unfinished line that shows the same with less: what is overwritten for good is dropped."""
    head, carriage_return, last = line.rpartition(b"\r")
    return collapse(head) + carriage_return + last if b"\r" in head else line


def without_returns(whole: bytes) -> bytes:
    """Return whole lines with each line collapsed that holds carriage returns."""
    whole = whole.replace(b"\r\n", b"\n")
    if b"\r" not in whole:
        return whole
    return b"\n".join(collapse(line) if b"\r" in line else line for line in whole.split(b"\n"))


class Lines:
    """Makes whole lines of the bytes of one raw file, each with the same prefix."""

    def __init__(self, prefix: bytes = b"") -> None:
        self._prefix = prefix
        self._open = b""
        self._cutting = False

    def feed(self, data: bytes) -> bytes:
        """Return the lines that these bytes finish."""
        if self._cutting:
            _, newline, data = data.partition(b"\n")
            self._cutting = not newline
        end = data.rfind(b"\n") + 1
        whole = self._open + data[:end] if end else b""
        self._open = squeeze(data[end:] if end else self._open + data)
        if b"\r" in whole:
            whole = without_returns(whole)
        if whole.find(b"\n") > MAX_LINE:
            whole = self._shortened(whole) + whole[whole.find(b"\n") + 1 :]
        if len(self._open) > MAX_LINE:
            whole += self._shortened(self._open)
            self._open, self._cutting = b"", True
        return self._prefixed(whole)

    def finish(self) -> bytes:
        """Return the unfinished line as a whole one; a progress bar that wiped itself leaves nothing."""
        left = collapse(self._open) if b"\r" in self._open else self._open
        return self.feed(b"\n") if left else b""

    def open_text(self) -> str:
        """Return what a terminal shows for the unfinished line."""
        shown = collapse(self._open) if b"\r" in self._open else self._open
        return shown[: 4 * MAX_OPEN_TEXT].decode("utf-8", "replace")[:MAX_OPEN_TEXT]

    def _shortened(self, line: bytes) -> bytes:
        return line[:MAX_LINE] + b" [dlenv] line cut at %d MiB\n" % (MAX_LINE >> 20)

    def _prefixed(self, whole: bytes) -> bytes:
        if not whole or not self._prefix:
            return whole
        return self._prefix + whole[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"


# Files ----------------------------------------------------------------------------------------------------------------


def give_back(descriptor: int, start: int, end: int) -> bool:
    """Return a range's blocks to the file system, which leaves a hole; False where it cannot."""
    try:
        import ctypes

        fallocate = ctypes.CDLL(None).fallocate
    except (ImportError, OSError, AttributeError):
        return False
    long = ctypes.c_int64
    return bool(fallocate(descriptor, FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, long(start), long(end - start)) == 0)


class Log:
    """The merged log: append only, bounded on disk. What the disk refuses waits here, and the command goes on."""

    def __init__(self, path: bytes, cap: int) -> None:
        self.size = 0
        self.trouble = ""
        self.hopeless = False
        self._path = path
        self._cap = cap
        self._descriptor = -1
        self._waiting = b""
        self._gap = self._gap_end = 0  # the left-out middle; it begins where a line begins
        self._tail = None  # type: Optional[bytes]  # the last lines, where the file system makes no holes
        self.flush()

    @property
    def blocked(self) -> bool:
        """True while the disk refuses what was appended."""
        return bool(self._waiting)

    def append(self, whole_lines: bytes) -> None:
        """Write lines at the end."""
        if self._tail is not None:
            self._tail = (self._tail + whole_lines)[-min(CHUNK, self._cap // 4) :]
            return
        self._waiting += whole_lines
        self.flush()

    def note(self, text: str) -> None:
        """Write a line of our own."""
        self.append(b"[dlenv] %s\n" % text.encode("utf-8", "surrogateescape"))

    def flush(self) -> None:
        """Try again what the disk refused."""
        try:
            self._write()
            if self.size > self._cap and self._tail is None:
                self._leave_out_middle()
        except OSError as error:
            self.trouble = str(error.strerror)
            self.hopeless = error.errno not in PASSING

    def finish(self) -> None:
        """Write what was kept back, and say what went wrong on the way."""
        tail, self._tail = self._tail, None
        if tail:
            lines = self._notice() + tail[tail.find(b"\n") + 1 :]
            self._cap = sys.maxsize
            self.append(lines)
        if self.trouble and not self.blocked:
            self.note(f"Writing the log failed for a while: {self.trouble}.")

    def _write(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            self.size = os.fstat(self._descriptor).st_size
        while self._waiting:
            written = os.pwrite(self._descriptor, self._waiting, self.size)
            self.size += written
            self._waiting = self._waiting[written:]
        if not self._gap and self.size >= self._cap // 2:
            self._gap = self.size

    def _notice(self) -> bytes:
        return b"[dlenv] The log passed its limit of %d bytes: its middle is left out here.\n" % self._cap

    def _leave_out_middle(self) -> None:
        end = self.size - self._cap // 2
        notice = self._notice()
        if end - max(self._gap, self._gap_end) < (self._cap // 8 if self._gap_end else len(notice)):
            return
        if give_back(self._descriptor, self._gap + len(notice), end):
            os.pwrite(self._descriptor, notice, self._gap)
            self._gap_end = end
        else:
            self._tail = b""


class Source:
    """One raw file that somebody else writes."""

    def __init__(self, path: bytes, rank: str) -> None:
        self.rank = rank
        self.order = int(rank) if rank.isdigit() else sys.maxsize
        self.changed_at = 0.0
        self.lines = Lines(b"[%d] " % self.order if 0 < self.order < sys.maxsize else b"")
        self._path = path
        self._offset = self._left_out = 0
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, "not a regular file")

    def read(self) -> bytes:
        """Return what was written since the last call, at most a chunk."""
        try:
            data = os.read(self._descriptor, CHUNK)
        except OSError:
            return b""  # a network file system's trouble; the next call asks again
        if data:
            self._offset += len(data)
            self.changed_at = time.monotonic()
        return data

    def leave_out_middle(self, cap: int) -> None:
        """Keep a file that was merged already below a limit on disk; its begin and end stay."""
        end = self._offset - cap // 2
        if self._offset <= cap or end - max(self._left_out, cap // 2) < cap // 8:
            return
        self._left_out = end
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return
        give_back(descriptor, cap // 2, end)
        os.close(descriptor)


class Merger:
    """Follows every raw file and merges whole lines into the log."""

    def __init__(self, run_dir: bytes, launch: "Dict[str, Any]", log: Log) -> None:
        logs = launch.get("rank_logs") or {"pattern": "", "rank_part": -1}
        self._pattern = os.path.join(glob.escape(run_dir), os.fsencode(logs["pattern"]))
        self._rank_part = int(logs["rank_part"])
        self._cap = int(launch["log_cap_bytes"])
        self._log = log
        self._seen = set()  # type: Set[bytes]
        self._sources = []  # type: List[Source]
        self._looked_at = 0.0

    def add(self, path: bytes, rank: str) -> None:
        """Follow one more file; one that cannot be opened yet is tried again later."""
        try:
            self._sources.append(Source(path, rank))
            # Ranks first: the lines that caused an end then stand before what the launcher says about it.
            self._sources.sort(key=lambda source: source.order)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return
        self._seen.add(path)

    def step(self, at_end: bool = False) -> "Tuple[bool, bool]":
        """Merge one chunk of each file; return whether anything came, and whether more is waiting."""
        self._discover(at_end)
        self._log.flush()
        came = more = False
        for source in self._sources:
            if self._log.blocked:
                break
            data = source.read()
            if data:
                self._log.append(source.lines.feed(data))
                source.leave_out_middle(self._cap // len(self._sources))
                came, more = True, more or len(data) == CHUNK
        return came, more

    def finish(self) -> None:
        """Merge all that is left, unfinished lines too, as far as the disk takes it."""
        deadline = time.monotonic() + FINISH_S
        while self.step(at_end=True)[0] or self._log.blocked:
            if self._log.blocked:
                if self._log.hopeless or time.monotonic() > deadline:
                    return
                time.sleep(POLL_S[1])
        for source in self._sources:
            self._log.append(source.lines.finish())
        self._log.finish()

    def open_lines(self) -> "Dict[str, str]":
        """Return each rank's unfinished line, the newer one where a rank has two."""
        texts = {}
        for source in sorted(self._sources, key=lambda source: source.changed_at):
            text = source.lines.open_text()
            if text:
                texts[source.rank] = text
        return texts

    def _discover(self, now: bool) -> None:
        # Until the first rank is there, somebody waits for its first line.
        begun = self._sources and self._sources[0].order < sys.maxsize
        if begun and not now and time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        for path in sorted(set(glob.glob(self._pattern)) - self._seen, reverse=True):  # stdout before stderr
            self.add(path, path.split(b"/")[self._rank_part].decode("utf-8", "replace"))


class Tail:
    """``tail.json``: the unfinished lines, for those who follow."""

    def __init__(self, path: bytes, merger: Merger) -> None:
        self._path = path
        self._merger = merger
        self._written = {}  # type: Dict[str, str]
        self._written_at = 0.0

    def update(self, at_end: bool = False) -> None:
        """Replace the file when the lines changed, a few times a second at most."""
        if not at_end and time.monotonic() - self._written_at < LOOK_S:
            return
        self._written_at = time.monotonic()
        texts = {} if at_end else self._merger.open_lines()
        if texts == self._written:
            return
        try:
            with open(self._path + b".new", "w", encoding="utf-8") as file:
                json.dump({"open": texts}, file)
            os.rename(self._path + b".new", self._path)
            self._written = texts
        except OSError:
            return  # only a progress bar stands still; the log says that the disk failed


def count_oom_kills() -> "Optional[int]":
    """Return how many processes of this control group were killed for its memory, None where nobody counts.

    Engines do not see it when the process that was killed is not the container's first.
    """
    for path in (b"/sys/fs/cgroup/memory/memory.oom_control", b"/sys/fs/cgroup/memory.events"):
        try:
            with open(path, "rb") as file:
                for words in map(bytes.split, file):
                    if words[:1] == [b"oom_kill"]:
                        return int(words[1])
        except (OSError, ValueError, IndexError):
            continue
    return None


class Result:
    """``result.json``, whose room on the disk is taken at the start, so that a full disk cannot lose how it ended."""

    def __init__(self, run_dir: bytes) -> None:
        self._run_dir = run_dir
        self._new = os.path.join(run_dir, b"result.json.new")
        try:
            self._fill(b" " * RESERVED, durable=False)
        except OSError:
            return  # tried again at the end

    def write(self, values: "Dict[str, Any]") -> None:
        """Write the file, all of it or nothing.

        Raises:
            OSError: The disk kept refusing it.
        """
        data = json.dumps(values).encode().ljust(RESERVED)
        deadline = time.monotonic() + FINISH_S
        while True:
            try:
                self._fill(data, durable=True)
                os.rename(self._new, os.path.join(self._run_dir, b"result.json"))
                return
            except OSError as error:
                if error.errno not in PASSING or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S[1])

    def _fill(self, data: bytes, durable: bool) -> None:
        descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.pwrite(descriptor, data, 0)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Processes ------------------------------------------------------------------------------------------------------------


class CannotStart(Exception):
    """The command did not become a process.

    Attributes:
        exit_code: 127 for a missing program, 126 for one that cannot run, as shells say it; 125 for our own trouble.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def environment(launch: "Dict[str, Any]", secrets: "Dict[str, str]") -> "Dict[bytes, bytes]":
    """Return the command's environment: ours as it was before Python touched it, the launch's, the secrets."""
    result = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:
            if b"\0LC_CTYPE=" not in b"\0" + file.read():
                result.pop(b"LC_CTYPE", None)  # Python sets it in the C locale
    except OSError:
        pass  # no /proc: the variable does no harm
    for key, value in list(launch["env"].items()) + list(secrets.items()):
        result[_raw(key)] = _raw(value)
    return result


def take_secrets(run_dir: bytes) -> "Dict[str, str]":
    """Return what secrets.json holds, and remove it before the command could read it.

    Raises:
        CannotStart: It is there and cannot be read or removed.
    """
    path = os.path.join(run_dir, b"secrets.json")
    try:
        with open(path, encoding="utf-8") as file:
            secrets = dict(json.load(file))
        os.unlink(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CannotStart(125, f"The secrets could not be taken: {error}.") from error
    return secrets


def start(argv: "List[bytes]", env: "Dict[bytes, bytes]", cwd: bytes, output: "Optional[int]") -> int:
    """Start the command in a session of its own and return its process id.

    Raises:
        CannotStart: It did not become a process.
    """
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        raise CannotStart(125, f"No process for {os.fsdecode(argv[0])}: {error.strerror}.") from error
    if not pid:
        _become(argv, env, cwd, output, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        failure = report.read()  # ends when the new program begins: the pipe does not survive it
    if failure:
        os.waitpid(pid, 0)
        raise cannot_start(failure[:1], int(failure[1:]), argv[0].decode("utf-8", "replace"), cwd)
    return pid


def cannot_start(step: bytes, code: int, program: str, cwd: bytes) -> CannotStart:
    """Return the error for what the new process could not do."""
    if step == b"d":
        return CannotStart(126, f"The working folder {os.fsdecode(cwd)}: {os.strerror(code)}.")
    if code not in (errno.ENOENT, errno.ENOTDIR):
        return CannotStart(126, f"{program} cannot be run: {os.strerror(code)}.")
    if "/" in program and os.path.exists(program):
        return CannotStart(127, f"{program} cannot be run: the interpreter named in its first line is missing.")
    return CannotStart(127, f"{program}: no such program.")


def _become(argv: "List[bytes]", env: "Dict[bytes, bytes]", cwd: bytes, output: "Optional[int]", writer: int) -> None:
    """Turn this forked process into the command. Never returns."""
    step = b"d"
    try:
        os.setsid()
        for signum in (*HANDLED, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
            signal.signal(signum, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            os.dup2(descriptor if output is None else output, descriptor)
        os.chdir(cwd)
        step = b"x"
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(writer, step + str(error.errno).encode())
    except ValueError:  # a NUL, or a variable without a name
        os.write(writer, step + str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def adopt_orphans() -> bool:
    """Become the parent of descendants that lose theirs; False where the system does not offer it."""
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def processes() -> "Dict[int, Tuple[int, int, int]]":
    """Return parent, session and start time of every living process that this one can see, by id."""
    found = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (ValueError, OSError):
            continue  # not a process, or one that just ended
        if fields[0] not in (b"Z", b"X"):
            found[int(name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    return found


class Family:
    """The command and all that it started, sessions of their own included (torchrun gives each rank one)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status = None  # type: Optional[int]
        self._adopts = adopt_orphans()
        self._alone = False
        self._known = {}  # type: Dict[int, int]  # start times by id, where orphans go to somebody else

    def watch(self) -> None:
        """Remember who is there, where that cannot be told any more once a parent ends."""
        if not self._adopts:
            table = processes()
            self._known.update((pid, table[pid][2]) for pid in self._members(table))

    def reap(self) -> None:
        """Collect ended children."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self.pid:
                    self.status = status
                if not pid:
                    return
        except ChildProcessError:
            self._alone = True

    def members(self) -> "Set[int]":
        """Return the ids of everybody who lives."""
        return set() if self._adopts and self._alone else self._members(processes())

    def send(self, signum: int, everybody: bool = False) -> None:
        """Signal the command's process group, or all members."""
        if not everybody and self.status is None:
            _signal(-self.pid, signum)
        for pid in self.members() if everybody else ():
            _signal(pid, signum)

    def _members(self, table: "Dict[int, Tuple[int, int, int]]") -> "Set[int]":
        known = {pid for pid, start in self._known.items() if pid in table and table[pid][2] == start}
        known |= {pid for pid, (_, session, _) in table.items() if session == self.pid}
        level = known | {os.getpid()}
        while level:
            level = {pid for pid, (parent, _, _) in table.items() if parent in level} - known
            known |= level
        return known - {os.getpid()}


def _signal(pid: int, signum: int) -> None:
    # It may just have ended, or become another user's (sudo): then there is nothing that we may end.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signum)


class Ladder:
    """How a command is ended: interrupt, terminate, kill, each after its grace."""

    def __init__(self, grace_s: "List[float]") -> None:
        self.cause = "exited"
        self._grace_s = grace_s
        self._steps = []  # type: List[Tuple[float, int]]

    def begin(self, cause: str, now: float) -> None:
        """Start at the first step, once."""
        if self.cause != "exited":
            return
        self.cause = cause
        to_term, to_kill = self._grace_s
        self._steps = [
            (now, signal.SIGINT),
            (now + to_term, signal.SIGTERM),
            (now + to_term + to_kill, signal.SIGKILL),
        ]

    def kill(self, cause: str, now: float) -> None:
        """Go to the last step at once."""
        self.cause = cause if self.cause == "exited" else self.cause
        self._steps = [(now, signal.SIGKILL)]

    def leftovers(self, now: float) -> None:
        """Go on with what the ended command left running: terminate, and kill no later than planned."""
        planned = [when for when, signum in self._steps if signum == signal.SIGKILL]
        if self.cause == "exited" or planned:
            kill_at = min([*planned, now + self._grace_s[1]])
            self._steps = [(now, signal.SIGTERM), (kill_at, signal.SIGKILL)]
        else:
            self._steps = [(now, signal.SIGKILL)]

    def due(self, now: float) -> "List[int]":
        """Return the signals to send now."""
        due = [signum for when, signum in self._steps if when <= now]
        # The kill stays due: a process may have forked while the others were killed.
        self._steps = [step for step in self._steps if step[0] > now or step[1] == signal.SIGKILL]
        return due


class Signals:
    """The signals that this process got, read like data."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer)
        for signum in HANDLED:
            signal.signal(signum, lambda *_: None)

    def wait(self, timeout_s: float) -> "List[int]":
        """Return what arrived, waiting for the first."""
        ready, _, _ = select.select([self._reader], [], [], timeout_s)
        return list(os.read(self._reader, 4096)) if ready else []


# The run --------------------------------------------------------------------------------------------------------------


class Supervisor:
    """One run of one command."""

    def __init__(self, run_dir: bytes, launch: "Dict[str, Any]", signals: Signals) -> None:
        self._run_dir = run_dir
        self._launch = launch
        self._signals = signals
        self._ladder = Ladder(launch["grace_s"])
        self._interrupts = 0
        self._cause = "exited"
        self._looked_at = 0.0
        self._poll_s = POLL_S[0]
        self._result = Result(run_dir)
        self._log = Log(os.path.join(run_dir, b"log"), launch["log_cap_bytes"])
        self._merger = Merger(run_dir, launch, self._log)
        self._tail = Tail(os.path.join(run_dir, b"tail.json"), self._merger)

    def run(self) -> int:
        """Run the command to its end, write all down, return the exit code."""
        started_at, oom_kills = time.time(), count_oom_kills()
        try:
            exit_code, signum = _exit_code(self._command())
        except CannotStart as error:
            self._log.note(str(error))
            exit_code, signum = error.exit_code, None
        self._merger.finish()
        self._tail.update(at_end=True)
        result = {
            "exit_code": exit_code,
            "signal": signum,
            "cause": self._cause,
            "started_at": started_at,
            "finished_at": time.time(),
            "log_bytes": self._log.size,
            "log_error": self._log.trouble or None,
            "oom_kills": None if oom_kills is None else (count_oom_kills() or 0) - oom_kills,
        }
        self._write(result)
        return exit_code

    def _command(self) -> int:
        """Run the command and what it leaves behind; return its wait status."""
        env = environment(self._launch, take_secrets(self._run_dir))
        output = self._raw_log()
        family = Family(start([_raw(arg) for arg in self._launch["argv"]], env, _raw(self._launch["cwd"]), output))
        if output is not None:
            os.close(output)
        limit_s = self._launch.get("timeout_s")
        deadline = time.monotonic() + limit_s if limit_s is not None else None
        while family.status is None:
            self._turn(family)
            if deadline is not None and time.monotonic() >= deadline:
                self._ladder.begin("timeout", time.monotonic())
            for signum in self._ladder.due(time.monotonic()):
                family.send(signum, everybody=signum == signal.SIGKILL)
        self._cause = self._ladder.cause
        self._end_leftovers(family)
        return family.status

    def _raw_log(self) -> "Optional[int]":
        """Return a descriptor for the command's output, None (ours, then) where the folder takes no file."""
        path = os.path.join(self._run_dir, b"raw", b"launcher.log")
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            self._log.note(f"No raw log: {error.strerror}.")
            return None
        self._merger.add(path, "launcher")
        return descriptor

    def _turn(self, family: Family) -> None:
        """Wait for something to happen, then do what it asks."""
        for signum in self._signals.wait(self._poll_s):
            self._obey(signum, family)
        family.reap()
        if time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            self._look_for_stop()
            family.watch()
        came, more = self._merger.step()
        self._tail.update()
        self._poll_s = 0 if more else POLL_S[0] if came else min(max(self._poll_s, POLL_S[0]) * 1.5, POLL_S[1])

    def _obey(self, signum: int, family: Family) -> None:
        if signum == signal.SIGCHLD:
            return
        if self._launch.get("forward_signals") or signum not in STOPPING:
            family.send(signum)
            return
        self._interrupts += signum == signal.SIGINT
        if self._interrupts > 1:
            self._ladder.kill("stopped", time.monotonic())
        else:
            self._ladder.begin("stopped", time.monotonic())

    def _look_for_stop(self) -> None:
        path = os.path.join(self._run_dir, b"stop")
        if not os.path.lexists(path):
            return
        self._ladder.begin("stopped", time.monotonic())
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                kill = file.read(16).strip() == b"kill"
        except OSError:
            return  # that it is there says enough
        if kill:
            self._ladder.kill("stopped", time.monotonic())

    def _end_leftovers(self, family: Family) -> None:
        """Terminate, then kill what the ended command left running."""
        left = family.members()
        if left and self._cause == "exited":
            self._log.note(f"Processes that the command left running were ended: {len(left)}.")
        self._ladder.leftovers(time.monotonic())
        give_up_at = time.monotonic() + sum(self._launch["grace_s"]) + FINISH_S
        while left and time.monotonic() < give_up_at:
            for signum in self._ladder.due(time.monotonic()):
                family.send(signum, everybody=True)
            self._turn(family)
            left = family.members()

    def _write(self, result: "Dict[str, Any]") -> None:
        """Write the result; what the folder refuses goes to whoever reads our own output."""
        if self._log.blocked:
            _tell(f"the end of the log is lost: {self._log.trouble}.")
        try:
            self._result.write(result)
        except OSError as error:
            _tell(f"the result {json.dumps(result)} is lost: {error.strerror}.")


def _exit_code(status: int) -> "Tuple[int, Optional[int]]":
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _tell(text: str) -> None:
    """Say what the run folder cannot be told."""
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"dlenv: {text}\n".encode("utf-8", "surrogateescape"))


def main(run_dir: str) -> int:
    """Run what launch.json says; return the exit code, 125 where there is nothing to run."""
    signals = Signals()
    folder = os.fsencode(run_dir)
    try:
        with open(os.path.join(folder, b"launch.json"), encoding="utf-8") as file:
            launch = dict(json.load(file))
    except (OSError, ValueError) as error:
        _tell(f"nothing to run: {error}")
        return 125
    return Supervisor(folder, launch, signals).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
