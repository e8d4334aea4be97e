"""Bytes as whole lines. Pure."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

MAX_LINE = 4 << 20
MAX_OPEN_TEXT = 4096
WRITTEN_ANEW = (
    b"[dlenv] This output was opened anew, which emptied it: lines from just before may be missing. "
    b"Append instead (>> /dev/stdout, tee -a).\n"
)


def collapse(line: bytes) -> bytes:
    """Return what a terminal shows at last for a line with carriage returns or backspaces."""
    from . import terminal  # most output never needs it

    return terminal.collapse(line)


def goes_back(text: bytes) -> bool:
    """Tell whether later text may lie over earlier text."""
    return b"\r" in text or b"\b" in text


def squeeze(line: bytes) -> bytes:
    """Return an unfinished line that shows the same with less: what is overwritten for good is dropped."""
    head, carriage_return, last = line.rpartition(b"\r")
    if b"\b" in last:
        from . import terminal

        last = terminal.without_backspaces(last)
    return (collapse(head) if goes_back(head) else head) + carriage_return + last


def without_returns(whole: bytes) -> bytes:
    """Return whole lines with each line collapsed that goes back."""
    whole = whole.replace(b"\r\n", b"\n")
    if not goes_back(whole):
        return whole
    return b"\n".join(collapse(line) if goes_back(line) else line for line in whole.split(b"\n"))


def written_over(seen: bytes, now: bytes, whole: bool = True) -> "Optional[bytes]":
    """Return the lines that lie where others were seen; None where those are gone, as from a file that was emptied.

    Args:
        seen: What was there.
        now: What is there.
        whole: Whether that is the whole file, which then may have been emptied and filled with much the same lines.
    """
    if len(now) < len(seen):
        return None
    changed = [place for place, (old, new) in enumerate(zip(seen, now)) if old != new] or [0]
    between = range(changed[0], changed[-1])
    if whole and any(now[place] == seen[place] == ord("\n") for place in between):
        return None  # several lines, each in the place of another
    begin = now.rfind(b"\n", 0, changed[0]) + 1
    end = now.find(b"\n", changed[-1]) + 1 or len(now)
    return now[begin:end] if end - begin < len(now) else None


class Lines:
    """Makes whole lines of the bytes of one raw file, each with the same prefix.

    Attributes:
        held: How many of the bytes fed belong to no line that was returned: those of the unfinished line.
        cutting: Whether what comes next is the rest of a line that was cut, up to its end.
    """

    def __init__(self, prefix: bytes = b"", cutting: bool = False) -> None:
        self.held = 0
        self.cutting = cutting
        self._prefix = prefix
        self._open = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines that these bytes finish."""
        if self.cutting:
            _, newline, data = data.partition(b"\n")
            self.cutting = not newline
        end = data.rfind(b"\n") + 1
        self.held = len(data) - end if end else self.held + len(data)
        whole = self._open + data[:end] if end else b""
        self._open = squeeze(data[end:] if end else self._open + data)
        if goes_back(whole):
            whole = without_returns(whole)
        if whole.find(b"\n") > MAX_LINE:
            whole = self._shortened(whole) + whole[whole.find(b"\n") + 1 :]
        if len(self._open) > MAX_LINE:
            whole += self._shortened(self._open)
            self._open, self.held, self.cutting = b"", 0, True
        return self._prefixed(whole)

    def finish(self) -> bytes:
        """Return the unfinished line as a whole one; a progress bar that wiped itself leaves nothing."""
        left = collapse(self._open) if goes_back(self._open) else self._open
        return self.feed(b"\n") if left else b""

    def open_text(self) -> str:
        """Return what a terminal shows for the unfinished line."""
        shown = collapse(self._open) if goes_back(self._open) else self._open
        return shown[: 4 * MAX_OPEN_TEXT].decode("utf-8", "replace")[:MAX_OPEN_TEXT]

    def _shortened(self, line: bytes) -> bytes:
        return line[:MAX_LINE] + b" [dlenv] line cut at %d MiB\n" % (MAX_LINE >> 20)

    def _prefixed(self, whole: bytes) -> bytes:
        if not whole or not self._prefix:
            return whole
        return self._prefix + whole[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"
