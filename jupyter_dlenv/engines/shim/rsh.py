"""Stands for ssh where nodes share a folder: leaves a command there and waits for its end.

What the command writes stays on its node, in the log of whoever runs it there: ``remote.py``.
"""

import os
import re
import signal
import sys
import time

POLL_S = 0.05
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def leave(folder: str, name: str, text: str) -> None:
    """Put a file in place at once."""
    path = os.path.join(folder, name)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.rename(f"{path}.new", path)


def take(folder: str, name: str) -> str:
    """Return what a file holds, nothing where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def main(folder: str, *words: str) -> int:
    """Run a command on another node; return its exit code, 255 as ssh does where there is no such thing."""
    if len(words) < 2 or not HOST.fullmatch(words[0]):
        sys.stderr.write(f"dlenv: no host and command in {words}.\n")
        return 255
    host, command = words[0], " ".join(words[1:])

    def stop(signum: int, _frame: object) -> None:
        leave(folder, f"{host}.stop", "")
        sys.exit(128 + signum)

    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    leave(folder, f"{host}.command", command)
    while True:
        code = take(folder, f"{host}.exit")
        if code:
            return int(code)
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
