"""Gives a rank raw files of its own, then becomes it: for launchers that let the lines of their ranks run together."""

import os
import sys

STREAMS = ((1, "stdout.log"), (2, "stderr.log"))
LOCAL_RANK = "LOCAL_RANK"
WORD = "--local_rank={local_rank}"


def redirect(folder: str) -> None:
    """Send this process's output to files in a folder, where the folder takes them."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        files = [os.path.join(folder, name) for _, name in STREAMS]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        opened = [os.open(path, flags, 0o644) for path in files]
    except OSError as error:
        _tell(f"no raw log in {folder}: {error.strerror}.")
        return
    for (descriptor, _), file in zip(STREAMS, opened):
        os.dup2(file, descriptor)
        os.close(file)


def _tell(text: str) -> None:
    os.write(2, f"dlenv: {text}\n".encode("utf-8", "surrogateescape"))


def main(folder: str, variable: str, *command: str) -> int:
    """Run a command as the rank that a variable names; return only where that cannot be, with a shell's exit code.

    Where that variable is the local rank, the first ``--local_rank={local_rank}`` of the command is filled in, which
    is the launcher's; all behind it is the user's.
    """
    rank = os.environ.get(variable, "")
    if not rank.isdigit():
        _tell(f"{variable} is not set, so whoever started this is not the launcher that was meant.")
        return 125
    redirect(os.path.join(folder, rank))
    argv = list(command)
    if variable == LOCAL_RANK and WORD in argv:
        argv[argv.index(WORD)] = "--local_rank=" + rank
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        _tell(f"{argv[0]}: {error.strerror}.")
    return 127


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
