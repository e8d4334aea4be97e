"""How it ended, written so that a full disk cannot lose it."""

import json
import os
import time

from .limits import FINISH_S, PASSING, POLL_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

RESERVED = 1024


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
