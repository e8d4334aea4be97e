"""Bytes as whole lines. Pure."""

MAX_LINE = 4 << 20
MAX_OPEN_TEXT = 4096


def collapse(line: bytes) -> bytes:
    """Return what a terminal shows at last for a line with carriage returns."""
    from . import terminal  # most output never needs it

    return terminal.collapse(line)


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
        if b"\r" in whole:
            whole = without_returns(whole)
        if whole.find(b"\n") > MAX_LINE:
            whole = self._shortened(whole) + whole[whole.find(b"\n") + 1 :]
        if len(self._open) > MAX_LINE:
            whole += self._shortened(self._open)
            self._open, self.held, self.cutting = b"", 0, True
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
