"""Raw files that others write, merged into one log."""

import contextlib
import errno
import glob
import os
import stat
import time

from .files import LAUNCHER_LOG
from .limits import CHUNK, FINISH_S, LOOK_S, POLL_S
from .lines import WRITTEN_ANEW, Lines, written_over
from .log import Log, give_back
from .merged import CHECK_BYTES, MAX_PATH, Entry, Progress
from .nodes import Mark, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Set, Tuple

SEEN_BYTES = 16 << 10


class Source:
    """One raw file that somebody else writes.

    Args:
        run_dir: The run folder.
        name: The file's path below it.
        mark: Whose lines they are.
    """

    def __init__(self, run_dir: bytes, name: bytes, mark: Mark) -> None:
        self.mark = mark
        self.changed_at = 0.0
        self.lines = Lines(mark.prefix)
        self._path = os.path.join(run_dir, name)
        self._merged = Progress(name)
        self._offset = self._left_out = 0
        self._seen = b""  # the last bytes before the offset
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode) or len(name) > MAX_PATH:
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, "not a regular file")

    def read(self) -> "Tuple[bytes, bool]":
        """Return what was written since the last call, at most a chunk, and whether more may be waiting."""
        self._skip_hole()
        try:
            data = os.pread(self._descriptor, CHUNK, self._offset)
        except OSError:
            return b"", False  # a network file system's trouble; the next call asks again
        if data:
            self._offset += len(data)
            self._seen = (self._seen + data[-SEEN_BYTES:])[-SEEN_BYTES:]
            self.changed_at = time.monotonic()
        more = len(data) == CHUNK
        return (data.replace(b"\0", b"") if self._merged.anew else data), more

    def rewritten(self) -> "Optional[bytes]":
        """Return what is where the last bytes were that were read, None where they still are."""
        try:
            now = os.pread(self._descriptor, len(self._seen), self._offset - len(self._seen))
        except OSError:
            return None
        return None if now == self._seen else now

    def begin_anew(self, now: bytes) -> "Tuple[bytes, Entry]":
        """Go on after somebody emptied the file or wrote over it, as ``> /dev/stdout`` and who opened it so do.

        Return the remark about it, the first time, and the lines that lie over others, with their entry.
        """
        remark = b"" if self._merged.anew else self.mark.prefix + WRITTEN_ANEW
        text = written_over(self._seen, now, self._offset == len(self._seen))
        if text is None:
            self._offset = self._left_out = 0
        self._seen = b"" if text is None else now
        self.lines = Lines(self.mark.prefix)
        lines = self.lines.feed((text or b"").replace(b"\0", b""))
        self._merged.move(self._offset - self.lines.held)
        return remark + lines, self.origin()

    def origin(self) -> Entry:
        """Return which bytes the lines are from that were made since the last call."""
        merged = self._seen[: max(0, len(self._seen) - self.lines.held)]
        return self._merged.advance(self._offset - self.lines.held, self.lines.cutting, merged[-CHECK_BYTES:])

    def _skip_hole(self) -> None:
        """Pass by what an emptied file lacks up to where somebody goes on who does not append."""
        if self._merged.anew:
            with contextlib.suppress(OSError):  # it ends here, or the file system does not know its holes
                begin = os.lseek(self._descriptor, self._offset, os.SEEK_DATA)
                self._seen = self._seen if begin == self._offset else b""
                self._offset = begin

    def leave_out_middle(self, cap: int) -> None:
        """Keep a file that was merged already below a limit on disk; its begin and end stay."""
        end = self._merged.end - cap // 2
        if self._merged.end <= cap or end - max(self._left_out, cap // 2) < cap // 8:
            return
        self._left_out = end
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return
        give_back(descriptor, cap // 2, end)
        self._seen = self._seen[max(0, len(self._seen) - (self._offset - end)) :]
        os.close(descriptor)


class Merger:
    """Follows every raw file of all replicas and merges whole lines into the log."""

    def __init__(self, run_dir: bytes, nodes: "List[Node]", cap: int, log: Log) -> None:
        self._run_dir = run_dir
        self._nodes = nodes
        self._begun: Set[Node] = set()
        self._cap = cap
        self._log = log
        self._seen: Set[bytes] = set()
        self._sources: List[Source] = []
        self._looked_at = 0.0

    def step(self, at_end: bool = False) -> "Tuple[bool, bool]":
        """Merge one chunk of each file; return whether anything came, and whether more is waiting."""
        self._discover(at_end)
        self._log.flush()
        came = more = False
        for source in self._sources:
            if self._log.blocked:
                break
            now = source.rewritten()
            if now is not None:
                self._append(source, source.lines.finish())
                self._log.append(*source.begin_anew(now))
            data, waiting = source.read()
            if data:
                self._append(source, source.lines.feed(data))
                if not self._log.blocked:
                    source.leave_out_middle(self._cap // len(self._sources))
            came, more = came or bool(data) or waiting or now is not None, more or waiting
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
            self._append(source, source.lines.finish())
        self._log.finish()

    def open_lines(self) -> "Dict[str, str]":
        """Return each rank's unfinished line, the newer one where a rank has two."""
        texts = {}
        for source in sorted(self._sources, key=lambda source: source.changed_at):
            text = source.lines.open_text()
            if text:
                texts[source.mark.name] = text
        return texts

    def _append(self, source: Source, lines: bytes) -> None:
        if lines:
            self._log.append(lines, source.origin())

    def _discover(self, now: bool) -> None:
        due = now or time.monotonic() - self._looked_at >= LOOK_S
        if due:
            self._looked_at = time.monotonic()
        for node in self._nodes:
            # Until the first of a node is there, somebody waits for its first line.
            if due or node not in self._begun:
                self._look(node)

    def _look(self, node: Node) -> None:
        folder = os.path.join(self._run_dir, node.folder.encode())
        pattern = os.path.join(glob.escape(folder), os.fsencode(node.pattern))
        for path in sorted(glob.glob(pattern), reverse=True) if node.pattern else ():  # stdout before stderr
            name = path[len(folder) :]
            self._add(node, name, node.rank(name.decode("utf-8", "replace")))
        self._add(node, LAUNCHER_LOG.encode(), node.launcher())

    def _add(self, node: Node, name: bytes, mark: Mark) -> None:
        """Follow one more file; one that cannot be opened yet is tried again later."""
        name = node.folder.encode() + name
        if name in self._seen:
            return
        try:
            self._sources.append(Source(self._run_dir, name, mark))
            self._sources.sort(key=lambda source: source.mark.order)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return
        self._seen.add(name)
        if not (node.pattern and name.endswith(LAUNCHER_LOG.encode())):
            self._begun.add(node)
