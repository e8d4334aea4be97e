"""The catalogue's causes that the end itself tells, without any log: data. Pure."""

from __future__ import annotations

from ..i18n import _
from ..spec import Reason
from .facts import Cause


def _nothing() -> str:
    return ""


END_CAUSES = (
    Cause(
        "time-limit",
        Reason.TIMEOUT,
        lambda: _("Stopped at its time limit of {seconds} s."),
        lambda: _("Raise it with --timeout, and save checkpoints."),
    ),
    Cause("stopped", Reason.STOPPED, lambda: _("Stopped by its owner."), _nothing),
    Cause(
        "memory-limit",
        Reason.OUT_OF_MEMORY,
        lambda: _("It needed more than its memory limit of {limit}."),
        lambda: _("Raise it, for example --memory {more}."),
    ),
    Cause(
        "host-memory",
        Reason.OUT_OF_MEMORY,
        lambda: _("The host ran out of memory and killed a process."),
        lambda: _("Use smaller batches or fewer loader workers."),
    ),
    Cause(
        "not-run",
        Reason.ENGINE,
        lambda: _("Nothing was run: its run folder was not usable."),
        _nothing,
        codes=(125,),
    ),
    Cause(
        "not-executable",
        Reason.USER_ERROR,
        lambda: _("The command is there but could not be run."),
        lambda: _("Is it executable (chmod +x), and for this machine's architecture?"),
        codes=(126,),
    ),
    Cause(
        "no-command",
        Reason.USER_ERROR,
        lambda: _("The command was not found."),
        lambda: _("Is it installed in this image? Another image is named by --image."),
        codes=(127,),
    ),
    Cause(
        "interrupted",
        Reason.KILLED,
        lambda: _("Interrupted from outside (SIGINT)."),
        _nothing,
        (r"^KeyboardInterrupt$",),
        codes=(130,),
        consequence=True,
    ),
    Cause(
        "aborted",
        Reason.USER_ERROR,
        lambda: _("It aborted (SIGABRT): a native library gave up."),
        lambda: _("The last lines of the log say why."),
        (r"Fatal Python error: ", r"terminate called ", r"what\(\): ", r"Assertion .{1,300} failed", r"Check failed: "),
        codes=(134,),
        when=lambda _facts, found: found.exit_code == 134,
    ),
    Cause(
        "killed",
        Reason.KILLED,
        lambda: _("Killed from outside (SIGKILL), not for its memory limit: by a person, or a host short of memory."),
        _nothing,
        codes=(137,),
    ),
    Cause(
        "terminated",
        Reason.KILLED,
        lambda: _("Terminated from outside (SIGTERM)."),
        _nothing,
        codes=(143,),
        consequence=True,
    ),
    Cause("signal", Reason.USER_ERROR, lambda: _("Ended by signal {signal}."), _nothing),
    Cause("exception", Reason.USER_ERROR, lambda: _("It ended with an exception: {error}"), _nothing),
    Cause("exit-code", Reason.USER_ERROR, lambda: _("Ended with exit code {code}."), _nothing),
)
