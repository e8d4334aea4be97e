"""The options of a run: one table for ``%dlrun``, ``jupyter dlenv run`` and the job API.

Standard library only and Python 3.8 syntax: the magics parse inside containers.
"""

import difflib
import os
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

from .errors import InvalidRequest, UnknownOption
from .i18n import _
from .spec import from_json, new_id

NETWORKS = ("none", "bridge", "host")


@dataclass(frozen=True)
class RunRequest:
    """What a client asks to run; every field is what the person typed, checked later by the job manager.

    Attributes:
        request_id: Canonical UUID made by the client; it becomes the job's id.
        script, module: What to run, as seen from ``cwd``; neither for the image's own command.
        cell: Source of a ``%%dlrun`` cell; ``script`` is then the name it gets.
        secrets: Values of ``-e KEY``: handed on, kept nowhere.
        python: The caller's interpreter, for the process engine.
        nproc, gpus, memory, cpus: Of each node.
        node_rank, master: Which node of several hosts this one is, and ``HOST:PORT`` of node 0 (of all, by commas).
        servers, workers: Parameter servers and trainers of the whole job.
        retries: How many more attempts a failure has.
        plot: Patterns of metrics in the log.
        notify: What runs on the host when the job has ended.
        debug: The rank that waits for a debugger, empty for none.
    """

    request_id: str = field(default_factory=new_id)
    script: str = ""
    module: str = ""
    cell: str = ""
    args: Tuple[str, ...] = ()
    cwd: str = ""
    gpus: str = ""
    gpu_memory: str = ""
    shared: bool = False
    nproc: Optional[int] = None
    nodes: int = 1
    node_rank: Optional[int] = None
    master: str = ""
    servers: int = 0
    workers: int = 0
    image: str = ""
    launcher: str = ""
    engine: str = ""
    memory: str = ""
    cpus: Optional[float] = None
    shm_size: str = ""
    mounts: Tuple[str, ...] = ()
    network: str = ""
    rdma: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    timeout: Optional[float] = None
    retries: int = 0
    plot: Tuple[str, ...] = ()
    notify: str = ""
    debug: str = ""
    python: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class RunOptions:
    """A parsed command line: the request, and how the client shows it."""

    request: RunRequest
    detach: bool = False
    plain: bool = False
    help: bool = False


def _whole(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 100_000:
        return int(text)
    raise ValueError(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _whole(text)


def _rank(text: str) -> str:
    return str(_count(text))


def _positive(text: str) -> float:
    value = float(text)
    if 0 < value < 1e9:
        return value
    raise ValueError(text)


def _network(text: str) -> str:
    if text in NETWORKS:
        return text
    raise ValueError(text)


@dataclass(frozen=True)
class Option:
    """One option: its flag, the request field it fills, how its value reads, and its help.

    Attributes:
        describe: Returns the help; a function, because the language may differ from one call to the next.
    """

    flag: str
    target: str
    metavar: str
    read: Optional[Callable[[str], Any]]
    describe: Callable[[], str]

    @property
    def help(self) -> str:
        """What the option does, in the reader's language."""
        return self.describe()


OPTIONS: Tuple[Option, ...] = (
    Option("--gpus", "gpus", "N|all|UUID,...|0,1", str, lambda: _("GPUs per node; +busy and +cc8.0 behind it")),
    Option("--gpu-memory", "gpu_memory", "SIZE", str, lambda: _("least memory of each GPU, such as 40g")),
    Option("--shared", "shared", "", None, lambda: _("share the GPUs with others who say so, too")),
    Option("--nproc", "nproc", "N", _whole, lambda: _("processes per node; as many as GPUs unless told")),
    Option("--nodes", "nodes", "N", _whole, lambda: _("nodes: containers of one job, on a network of their own")),
    Option("--node-rank", "node_rank", "R", _count, lambda: _("which node this host is; with --nodes and --master")),
    Option("--master", "master", "HOST:PORT", str, lambda: _("where node 0 is, when each host starts its own node")),
    Option("--servers", "servers", "N", _whole, lambda: _("parameter servers of the whole job")),
    Option("--workers", "workers", "N", _whole, lambda: _("trainers of the whole job beside parameter servers")),
    Option("--image", "image", "REF", str, lambda: _("image to run in; the kernel's own unless told")),
    Option(
        "--launcher",
        "launcher",
        "NAME",
        str,
        lambda: _("torchrun, tensorflow, paddle, ...; chosen from the script's imports unless told"),
    ),
    Option("--engine", "engine", "NAME", str, lambda: _("docker, or process for plain processes without a container")),
    Option("--memory", "memory", "SIZE", str, lambda: _("memory limit per node, such as 8g")),
    Option("--cpus", "cpus", "N", _positive, lambda: _("CPU cores per node")),
    Option("--shm-size", "shm_size", "SIZE", str, lambda: _("size of /dev/shm")),
    Option("--mount", "mounts", "SRC:DST[:ro]", str, lambda: _("one more host folder; repeat it for more")),
    Option("--network", "network", "none|bridge|host", _network, lambda: _("network of the container")),
    Option("--rdma", "rdma", "", None, lambda: _("give the containers the host's RDMA devices")),
    Option("-e", "env", "KEY[=VALUE]", str, lambda: _("a variable; without a value the caller's, kept nowhere")),
    Option("--name", "name", "TEXT", str, lambda: _("name of the job")),
    Option("--timeout", "timeout", "SECONDS", _positive, lambda: _("stop the job after this time")),
    Option("--retries", "retries", "N", _count, lambda: _("how many more attempts after a failure")),
    Option("--plot", "plot", "PATTERN", str, lambda: _("pattern whose named groups are metrics; repeat it")),
    Option("--notify", "notify", "COMMAND", str, lambda: _("run this on the host when the job has ended")),
    Option("--debug", "debug", "[RANK]", _rank, lambda: _("let a rank wait for a debugger; rank 0 unless told")),
    Option("--detach", "detach", "", None, lambda: _("return at once; %dlattach JOB shows the log")),
    Option("--plain", "plain", "", None, lambda: _("print the lines themselves")),
    Option("--dry-run", "dry_run", "", None, lambda: _("print what would run")),
    Option("-m", "module", "MODULE", str, lambda: _("run a module instead of a script")),
)
_BY_FLAG: Dict[str, Option] = {option.flag: option for option in OPTIONS}
_REPEATED = ("mounts", "plot")
_LONGEST_PATH, _LONGEST_PART = 4095, 255  # bytes, as Linux has it


def usage(program: str) -> str:
    """Return the help text of a run."""
    rows = [(f"{option.flag} {option.metavar}".strip(), option.help) for option in OPTIONS]
    width = max(len(flag) for flag, _help in rows)
    lines = "\n".join(f"  {flag:<{width}}  {text}" for flag, text in rows)
    return f"{program} SCRIPT | -m MODULE [options] [-- script arguments]\n\n{lines}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the known word most like the given one, empty when none is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), "")


def _unknown(flag: str, as_argument: str) -> UnknownOption:
    """Return the error for an option that does not exist.

    Args:
        as_argument: The line in which it is an argument of the script, empty before a script is named.
    """
    close = nearest(flag, list(_BY_FLAG))
    hints = [
        _("Did you mean {flag}?").format(flag=close) if close else "",
        _("Arguments of the script come after '--': {line}").format(line=as_argument) if as_argument else "",
    ]
    hint = " ".join(filter(None, hints)) or _("See --help for the options.")
    return UnknownOption(_("There is no option {flag}.").format(flag=flag), hint=hint)


def _value(option: Option, text: str) -> Any:
    if option.read and not text:
        message = _("{flag} has an empty value.")
        raise InvalidRequest(message.format(flag=option.flag), hint=_("Is a variable of your shell empty, or not set?"))
    try:
        return option.read(text) if option.read else True
    except ValueError:
        message = _("{flag} takes {metavar}, not {text!r}.")
        raise InvalidRequest(message.format(flag=option.flag, metavar=option.metavar, text=text)) from None


def _environment(texts: Sequence[str], environ: Mapping[str, str]) -> Tuple[Dict[str, str], Dict[str, str]]:
    for text in texts:
        if "\0" in text or text.startswith("="):
            message = _("-e takes {metavar}, not {text!r}.")
            raise InvalidRequest(message.format(metavar=_BY_FLAG["-e"].metavar, text=text.partition("=")[0] + "=…"))
    given = dict(text.partition("=")[::2] for text in texts if "=" in text)
    asked = [text for text in texts if "=" not in text]
    missing = [key for key in asked if key not in environ]
    if missing:
        raise InvalidRequest(
            _("-e {key}: this variable is not set here.").format(key=missing[0]),
            hint=_("Set it, or write -e {key}=VALUE.").format(key=missing[0]),
        )
    return given, {key: environ[key] for key in asked}


def _split(argv: Sequence[str]) -> Tuple[List[str], List[str]]:
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def parse_run(argv: Sequence[str], *, environ: Optional[Mapping[str, str]] = None, cwd: str = "") -> RunOptions:
    """Read a command line's words, without the program's name.

    Raises:
        UnknownOption: An option does not exist; the nearest one is named.
        InvalidRequest: A value is missing or cannot be read, or there are two scripts.
    """
    words, script_args = _split(argv)
    values: Dict[str, Any] = {}
    texts: List[str] = []
    queue = deque(words)
    while queue:
        word = queue.popleft()
        if word in ("-h", "--help"):
            return RunOptions(RunRequest(), help=True)
        if not word.startswith("-") or word == "-":
            _take_target(values, "script", word)
            continue
        option, text = _take_option(word, queue, values)
        value = _value(option, text)
        if option.target == "module":
            _take_target(values, "module", value)
        elif option.target == "env":
            texts.append(value)
        elif option.target in _REPEATED:
            values[option.target] = (*values.get(option.target, ()), value)
        else:
            values[option.target] = value
    env, secrets = _environment(texts, os.environ if environ is None else environ)
    shown = {key: bool(values.pop(key, False)) for key in ("detach", "plain")}
    request = RunRequest(**values, env=env, secrets=secrets, args=tuple(script_args), cwd=cwd or os.getcwd())
    return RunOptions(request, detach=shown["detach"], plain=shown["plain"])


def _take_option(word: str, queue: Deque[str], values: Mapping[str, Any]) -> Tuple[Option, str]:
    """Return the option that a word names, and its value: inline, or the word behind it.

    Args:
        values: What was read before it.
    """
    flag, equals, inline = word.partition("=") if word.startswith("--") else (word, "", "")
    option = _BY_FLAG.get(flag)
    if option is None:
        target = [values["script"]] if "script" in values else ["-m", values["module"]] if "module" in values else []
        behind = [queue[0]] if queue and not queue[0].startswith("-") else []
        raise _unknown(flag, " ".join([*target, "--", word, *behind]) if target else "")
    if option.read is None and equals:
        raise InvalidRequest(_("{flag} takes no value.").format(flag=flag))
    if option.read is None or equals:
        return option, inline
    if option.metavar.startswith("["):
        return option, queue.popleft() if queue and queue[0].isdigit() else "0"
    if not queue:
        raise InvalidRequest(_("{flag} needs a value: {metavar}.").format(flag=flag, metavar=option.metavar))
    return option, queue.popleft()


def _take_target(values: Dict[str, Any], kind: str, word: str) -> None:
    """Note what to run, a script or a module; there is one."""
    if not word:
        raise InvalidRequest(_("The script's name is empty."), hint=_("Is a variable of your shell empty, or not set?"))
    if "script" in values or "module" in values:
        raise InvalidRequest(
            _("{word!r} is one word too many.").format(word=word),
            hint=_("Arguments of the script come after '--': %dlrun train.py --nproc 2 -- --lr 0.1"),
        )
    values[kind] = word


def request_from_json(data: Any) -> RunRequest:
    """Build a request from an API body.

    Raises:
        InvalidRequest: A field is unknown or has the wrong type.
    """
    if not isinstance(data, dict):
        raise InvalidRequest(_("A run request is a JSON object."))
    for key, value in data.items():
        _check_type(key, value)
        if key in ("env", "secrets") and any(not name or "=" in name for name in value):
            raise InvalidRequest(_("Field {key!r} of a run request has a variable without a name.").format(key=key))
    lists = {key: tuple(data[key]) for key in ("args", *_REPEATED) if key in data}
    request = from_json(RunRequest, {**data, **lists})
    module = request.module.replace(".", "/") + "/__main__.py"
    for key, path in (("cwd", ""), ("script", request.script), ("module", module), ("python", request.python)):
        _check_path(key, os.path.join(request.cwd, path))
    return request


def _check_type(key: str, value: Any) -> None:
    texts = isinstance(value, (list, tuple)) and all(map(_is_text, value))
    table = isinstance(value, dict) and all(_is_text(item) for pair in value.items() for item in pair)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 100_000
    good = {
        "args": texts,
        "mounts": texts,
        "plot": texts,
        "env": table,
        "secrets": table,
        "nproc": value is None or (number and count),
        "cpus": value is None or number,
        "timeout": value is None or number,
        "nodes": number and count,
        "node_rank": value is None or count,
        "servers": count,
        "workers": count,
        "retries": count,
        "dry_run": isinstance(value, bool),
        "shared": isinstance(value, bool),
        "rdma": isinstance(value, bool),
    }.get(key, _is_text(value))
    if not good:
        message = _("Field {key!r} of a run request cannot be {value!r}.")
        if key in ("env", "secrets"):  # what is in these is not shown
            message = _("Field {key!r} of a run request is an object of texts.")
        elif key in ("args", "mounts"):
            message = _("Field {key!r} of a run request is a list of texts.")
        raise InvalidRequest(message.format(key=key, value=str(value)[:80]))


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that a process can be given, as an argument or in a variable."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _check_path(key: str, path: str) -> None:
    """Refuse a path that no system takes.

    Raises:
        InvalidRequest: It is too long.
    """
    parts = path.encode("utf-8", "surrogateescape").split(b"/")
    if sum(map(len, parts)) + len(parts) > _LONGEST_PATH or max(map(len, parts)) > _LONGEST_PART:
        raise InvalidRequest(_("Field {key!r} of a run request makes a path that is too long.").format(key=key))
