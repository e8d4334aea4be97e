"""The shim around real processes: what is merged, what is told, how things end."""

from __future__ import annotations

import ast
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import shims

from jupyter_dlenv.engines import shim
from jupyter_dlenv.engines.folder import RunFolder, ShimResult
from jupyter_dlenv.engines.shim import lines, terminal
from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.spec import RankLogs

PATIENCE_S = 30
NO_CTYPES = (
    "import sys, runpy; del sys.argv[0]; sys.modules['ctypes'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
)
until = functools.partial(shims.until, patience_s=PATIENCE_S)
RANKS = RankLogs("ranks/*/attempt_*/*/std*.log", -2)


def other_pythons() -> list[str]:
    """Return every other minor version's interpreter on this machine."""
    found = {}
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    for candidate in [*map(str, pyenv), *(shutil.which(f"python3.{minor}") for minor in range(6, 16))]:
        if candidate:
            asked = [candidate, "-c", "import sys; print(sys.version_info[:2])"]
            answer = subprocess.run(asked, capture_output=True, text=True, check=False)
            if answer.returncode == 0 and answer.stdout.strip() != str(sys.version_info[:2]):
                found[answer.stdout.strip()] = candidate
    return list(found.values())


@dataclass
class Run:
    """A run folder, and the shim that works on it."""

    folder: RunFolder
    prefix: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=lambda: [sys.executable, "-I", "-S"])
    env: dict[str, str] | None = None
    shim: subprocess.Popen[bytes] | None = None

    def start(self, code: str, *, argv: list[str] | None = None, **launch: Any) -> subprocess.Popen[bytes]:
        """Start the shim around a Python program, or another command."""
        launch = {"cwd": "/", "env": {"PYTHONUNBUFFERED": "1"}, "grace_s": (0.5, 0.5), **launch}
        self.folder.write_launch(argv or [sys.executable, "-c", code], **launch)
        command = [*self.prefix, *self.python, shim.FOLDER, str(self.folder.path)]
        self.shim = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return self.shim

    def finish(self) -> tuple[int, str]:
        """Return the shim's exit code and what it wrote itself."""
        assert self.shim
        output, _ = self.shim.communicate(timeout=PATIENCE_S)
        return self.shim.returncode, output.decode()

    def run(self, code: str, **launch: Any) -> ShimResult:
        """Run to the end and return the result, which agrees with the exit status."""
        self.start(code, **launch)
        exit_code, output = self.finish()
        assert output == ""
        result = self.folder.result()
        assert result
        assert result.exit_code == exit_code
        assert result.log_bytes == len(self.log)
        return result

    @property
    def log(self) -> bytes:
        return (self.folder.path / "log").read_bytes()

    @property
    def raw(self) -> bytes:
        path = self.folder.path / "raw" / "launcher.log"
        return path.read_bytes() if path.exists() else b""

    def says(self, text: bytes) -> None:
        until(lambda: (self.folder.path / "log").exists() and text in self.log, f"{text!r} in the log")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    made = Run(folder)
    yield made
    if made.shim and made.shim.poll() is None:
        folder.request_stop(kill=True)
        made.finish()


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a\rb", "b"),
        ("abcdef\rXY", "XYcdef"),
        ("50%\r100%", "100%"),
        ("done\r", "done"),
        ("\r  3%|   | 1/30\r 99%|## | 29/30\r", " 99%|## | 29/30"),
        ("working\r          \r", ""),
        ("working\r          \rEpoch 1", "Epoch 1"),
        ("long line\r\x1b[Kshort", "short"),
        ("long line\rshort\x1b[K", "short"),
        ("\x1b[31mred\x1b[0m line\r\x1b[32mok\x1b[0m", "\x1b[32mok\x1b[0md\x1b[0m line"),
        ("text\r\x1b[0m", "text"),
        ("abcdefgh\r进度    ", "进度"),
        ("进度进度\rab", "ab度进度"),
        ("进度\ra", "a 度"),
        ("caf\u00e9s\rX", "Xaf\u00e9s"),
        ("cafe\u0301s\rtea!!", "tea!!"),
        ("1/2 [=>] loss: 2.5" + "\b" * 18 + "\r2/2 [==] loss: 2", "2/2 [==] loss: 2.5"),
        ("2/2 [==] loss: 2.5" + "\b" * 18, "2/2 [==] loss: 2.5"),
        ("\x1b[1m1/2\x1b[0m bar" + "\b" * 15 + "\r\x1b[1m2/2\x1b[0m bar", "\x1b[1m2/2\x1b[0m bar"),
        ("abc\b\bX", "aXc"),
        ("\b\bab\b\b\b\bc", "cb"),
        ("|\b/\b-\bdone", "done"),
        ("50%\b\b\b   \b\b\b", ""),
        ("long line\r\x1b[Ka\bb", "b"),
        ("进度\bX", "进 X"),
        ("进度\b\b\b\bab", "ab度"),
        ("进度\b\b\b\ba", "a 度"),
    ],
)
def test_collapse_shows_what_a_terminal_shows(line: str, shown: str) -> None:
    assert terminal.collapse(line.encode()).decode() == shown


def test_collapse_keeps_bytes_that_are_no_utf8() -> None:
    assert terminal.collapse(b"\xff\xfe\x00abc\r\xfd") == b"\xfd\xfe\x00abc"


@pytest.mark.parametrize("seed", range(20))
def test_lines_do_not_depend_on_how_the_bytes_arrive(seed: int) -> None:
    pick = random.Random(seed)
    text = "".join(pick.choices(["a", "bc", "\r", "\r\n", "\n", "é", "进", "\x1b[K", " ", "\0", "\b"], k=300)).encode()
    whole = lines.Lines(b"[3] ")
    expected = whole.feed(text) + whole.finish()
    pieces = lines.Lines(b"[3] ")
    got, rest = b"", text
    while rest:
        size = pick.randint(1, 9)
        got += pieces.feed(rest[:size])
        rest = rest[size:]
    assert got + pieces.finish() == expected
    assert all(line.startswith(b"[3] ") for line in expected.splitlines() if line)


def test_an_endless_line_is_cut_and_the_next_one_is_whole() -> None:
    cut = lines.Lines()
    got = b"".join(cut.feed(b"x" * (1 << 20)) for _ in range(9)) + cut.feed(b"xyz\nnext\n")
    first, second = got.split(b"\n", 1)
    assert first == b"x" * lines.MAX_LINE + b" [dlenv] line cut at 4 MiB"
    assert second == b"next\n"


def test_a_long_line_in_two_pieces_is_cut() -> None:
    cut = lines.Lines()
    got = cut.feed(b"x" * lines.MAX_LINE) + cut.feed(b"xx\nnext\n")
    assert got == b"x" * lines.MAX_LINE + b" [dlenv] line cut at 4 MiB\nnext\n"


def test_an_endless_progress_bar_takes_no_memory() -> None:
    bar = lines.Lines()
    for step in range(20000):
        bar.feed(b"\r%d/20000 " % step + b"#" * 1000)
    assert bar.open_text() == "19999/20000 " + "#" * 1000
    assert len(bar.finish()) == 1013
    for step in range(2100):  # longer than the longest line
        bar.feed(b"\b" * 1012 + b"%4d/20000 " % step + b"#" * 1000)
    assert bar.open_text().startswith("2099/20000 ")


@pytest.mark.parametrize(
    ("seen", "now", "lines_over"),
    [
        (b"one\ntwo\n", b"", None),
        (b"one\ntwo\n", b"one\n", None),
        (b"one\ntwo\n", b"new\ntoo\n", None),
        (b"one\ntwo\n", b"new\ntwo\n", b"new\n"),
        (b"one\ntwo\n", b"one\ntoo\n", b"too\n"),
        (b"one\ntwo\nthree\n", b"one\ntoo\nthree\n", b"too\n"),
        (b"one\ntwo\nthree\n", b"one\ntwelve\nee\n", b"twelve\n"),
        (b"one\ntwo\n", b"one\nlong", b"long"),
        (b"one\ntwo\nthree\n", b"one\ntoo\nfours\n", None),
    ],
)
def test_lines_that_lie_over_others_are_found(seen: bytes, now: bytes, lines_over: bytes | None) -> None:
    assert lines.written_over(seen, now) == lines_over


# The log --------------------------------------------------------------------------------------------------------------


def test_plain_output_is_merged_byte_for_byte(run: Run) -> None:
    result = run.run("import sys\nfor i in range(100000): print('line', i)\nprint('to stderr', file=sys.stderr)")
    assert run.log == b"".join(b"line %d\n" % i for i in range(100000)) + b"to stderr\n" == run.raw
    assert (result.exit_code, result.signal, result.cause) == (0, None, "exited")
    assert result.started_at < result.finished_at


def test_any_bytes_pass(run: Run) -> None:
    data = bytes(set(range(256)) - set(b"\r\b")) * 3
    run.run(f"import os; os.write(1, {data!r})")
    assert run.raw == data
    assert run.log == data + b"\n"


def test_progress_bars_move_beside_the_log(run: Run) -> None:
    step = "sys.stderr.write(f'\\r{i} of 30'); time.sleep(.1)"
    process = run.start(f"import sys, time\nprint('start')\nfor i in range(30): {step}\nprint()")
    run.says(b"start\n")
    seen = set()
    while process.poll() is None:
        seen.add(run.folder.open_lines().get("launcher"))
        assert run.log in (b"start\n", b"start\n29 of 30\n")
        time.sleep(0.02)
    assert run.finish() == (0, "")
    assert len(seen - {None}) > 5
    assert run.log == b"start\n29 of 30\n"
    assert run.raw.count(b"\r") == 30
    assert run.folder.open_lines() == {}


def test_the_last_line_needs_no_newline(run: Run) -> None:
    run.run("import sys; sys.stdout.write('first\\nno newline')")
    assert run.log == b"first\nno newline\n"
    assert run.raw == b"first\nno newline"


def test_a_silent_command_leaves_an_empty_log(run: Run) -> None:
    assert run.run("pass").log_bytes == 0
    assert run.log == b""


WRITER = """
import os, random, sys, time
rank, folder = int(sys.argv[1]), sys.argv[2] + "/ranks/none_x/attempt_0/" + sys.argv[1]
os.makedirs(folder)
out = os.open(folder + "/stdout.log", os.O_WRONLY | os.O_CREAT)
err = os.open(folder + "/stderr.log", os.O_WRONLY | os.O_CREAT)
pick = random.Random(rank)
for number in range(400):
    for name, descriptor in (("out", out), ("err", err)):
        line = b"rank %d %s %d " % (rank, name.encode(), number) + b"x" * pick.randint(0, 300) + b"|\\n"
        while line:
            size = pick.randint(1, len(line))
            os.write(descriptor, line[:size])
            line = line[size:]
            time.sleep(pick.choice([0, 0, 0, 0.001]))
"""


def test_ranks_that_write_at_once_never_garble_a_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER)
    start_all = (
        "import subprocess, sys\n"
        f"every = [subprocess.Popen([sys.executable, {str(tmp_path / 'writer.py')!r}, str(rank), "
        f"{str(run.folder.path)!r}]) for rank in range(4)]\n"
        "print('started')\nsys.exit(max(one.wait() for one in every))"
    )
    assert run.run(start_all, rank_logs=RANKS).exit_code == 0
    lines = run.log.decode().splitlines()
    assert lines.count("started") == 1
    expected = {f"rank {rank} {name} {number}" for rank in range(4) for name in ("out", "err") for number in range(400)}
    shape = re.compile(r"(?:\[([1-9])\] )?(rank (\d) (?:out|err) \d+) x*\|")
    found = [shape.fullmatch(line) for line in lines if line != "started"]
    assert all(found)
    assert all((match[1] or "0") == match[3] for match in found if match)
    assert {match[2] for match in found if match} == expected
    assert len(found) == len(expected)


def test_a_rank_has_its_own_open_line(run: Run) -> None:
    path = run.folder.path / "ranks" / "r" / "attempt_0" / "2"
    path.mkdir(parents=True)
    (path / "stderr.log").write_bytes(b"whole\n\r 5%\r 6%")
    run.start("import time; time.sleep(60)", rank_logs=RANKS)
    until(lambda: run.folder.open_lines() == {"2": " 6%"}, "the open line")
    assert run.log == b"[2] whole\n"


def test_an_open_line_stays_while_others_write_lines(run: Run) -> None:
    path = run.folder.path / "ranks" / "r" / "attempt_0" / "2"
    path.mkdir(parents=True)
    (path / "stderr.log").write_bytes(b" 6%")
    run.start("import time\nprint('first')\ntime.sleep(.6)\nprint('second')\ntime.sleep(60)", rank_logs=RANKS)
    run.says(b"second\n")
    _data, cursor = run.folder.read_log()
    until(lambda: run.folder.open_lines(cursor) == {"2": " 6%"}, "the open line after the second line")


# Outputs that are written anew ----------------------------------------------------------------------------------------

WAITS = """
import os, sys, time
def step(text):
    print(text, flush=True)
    while not os.path.exists(os.path.join({go!r}, text.split()[0])): time.sleep(.01)
"""
REMARK = lines.WRITTEN_ANEW.decode().strip()


def go_on(run: Run, step: str, mark: str = "") -> None:
    """Let a program go on that waits after a step, once its line is in the log."""
    run.says(f"{mark}{step}\n".encode())
    (run.folder.path / step).touch()


@pytest.mark.parametrize(
    "after", ["os.system('echo again > /dev/stdout')", "os.system('echo again | tee /dev/stderr > /dev/null')"]
)
@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_output_that_is_emptied_goes_on(run: Run, after: str, count: int, processes: int) -> None:
    """What was read stays, what comes is read from the start, and whoever appends leaves no hole."""
    begin = WAITS.format(go=str(run.folder.path)) + "for i in range(20): print('early', i)\n"
    again = f"{after}\nfor i in range({count}): print('late', number, i)\nstep(f'step-{{number}}')\n"
    code = f"{begin}step('begun')\nfor number in range(3):\n    " + again.replace("\n", "\n    ").rstrip()
    if "stderr" in after:
        code = f"import os; os.dup2(1, 2)\n{code}"
    argv = [sys.executable, "-c", code]
    ranks = [{"argv": argv, "env": {}}, {"argv": ["sleep", "0.1"], "env": {}}]
    launched = {"processes": ranks[:processes]} if processes > 1 else {"argv": argv}
    run.start("", **launched)  # type: ignore[arg-type]
    for step in ("begun", "step-0", "step-1", "step-2"):
        go_on(run, step)
    assert run.finish() == (0, "")
    expected = [f"early {i}" for i in range(20)] + ["begun", REMARK]
    for number in range(3):
        expected += ["again", *(f"late {number} {i}" for i in range(count)), f"step-{number}"]
    assert run.log.decode().splitlines() == expected


def test_an_output_that_is_emptied_and_not_appended_to(run: Run) -> None:
    """Such as torchrun opens: whoever goes on where he was leaves a hole behind what lies at the begin."""
    path = run.folder.path / "ranks" / "r" / "attempt_0" / "1"
    path.mkdir(parents=True)
    code = (
        WAITS.format(go=str(run.folder.path))
        + f"""
os.dup2(os.open({str(path / "stdout.log")!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
print('x' * 100000)
print('bar 50%', end='')
step('\\nbegun')
os.system('echo again > /dev/stdout')
step('step-0')
os.system('> /dev/stdout')
step('step-1')
"""
    )
    run.start(code.replace("text.split()[0]", "text.strip()"), rank_logs=RANKS)
    for step in ("begun", "step-0", "step-1"):
        go_on(run, step, "[1] ")
    assert run.finish() == (0, "")
    found = [line.replace("[1] ", "") for line in run.log.decode().splitlines()]
    assert found == ["x" * 100000, "bar 50%", "begun", REMARK, "again", "step-0", "step-1"]


def test_lines_that_lie_over_others_are_merged_too(run: Run) -> None:
    """``logging.FileHandler("/dev/stdout", "w")`` writes from the begin on, and ``print`` at the end."""
    code = (
        WAITS.format(go=str(run.folder.path))
        + """
log = open('/dev/stdout', 'w')
for number in range(4):
    step(f'step-{number}')
    print(f'logged-{number}', file=log)
    log.flush()
    while not os.path.exists(f'{sys.argv[1]}/logged-{number}'): time.sleep(.01)
"""
    )
    run.start("", argv=[sys.executable, "-c", code, str(run.folder.path)])
    expected = []
    for number in range(4):
        for step in (f"step-{number}", f"logged-{number}"):
            go_on(run, step)
            expected.append(step)
    assert run.finish() == (0, "")
    assert [line for line in run.log.decode().splitlines() if line != REMARK] == expected


def test_an_unfinished_line_is_kept_when_its_output_is_emptied(run: Run) -> None:
    code = f"""
import os, time
os.write(1, b'first\\n\\r 5%\\r 6%')
while not os.path.exists({str(run.folder.path / "go")!r}): time.sleep(.01)
os.system('echo wiped; printf "\\r   \\r" > /dev/stdout')
"""
    run.start(code)
    until(lambda: run.folder.open_lines() == {"launcher": " 6%"}, "the open line")
    (run.folder.path / "go").touch()
    assert run.finish() == (0, "")
    assert run.log.decode().splitlines() == ["first", " 6%", REMARK]


def test_what_is_no_plain_file_is_not_followed(run: Run) -> None:
    path = run.folder.path / "ranks" / "r" / "attempt_0" / "0"
    path.mkdir(parents=True)
    os.mkfifo(path / "stdout.log")
    (path / "stderr.log").symlink_to("/etc/passwd")
    assert run.run("print('fine')", rank_logs=RANKS).exit_code == 0
    assert run.log == b"fine\n"


CHATTER = "import sys\nfor i in range(200000): sys.stdout.write(f'{i:08d} ' + 'x' * 90 + '\\n')"  # 20 MB
LIMIT = 8 << 20


@pytest.mark.parametrize("holes", [True, False])
def test_beyond_its_limit_the_log_keeps_begin_and_end(run: Run, holes: bool) -> None:
    if not holes:  # what a Python without ctypes, or a file system without holes, comes to
        run.python = [sys.executable, "-c", NO_CTYPES]
    run.run(CHATTER, log_cap_bytes=LIMIT, env={})
    used = {path.name: path.stat().st_blocks * 512 for path in run.folder.path.rglob("*log")}
    if holes and used["launcher.log"] > 2 * LIMIT:
        pytest.skip("this file system makes no holes")
    text, cursor = b"", ""
    while (piece := run.folder.read_log(cursor))[1] != cursor:
        text, cursor = text + piece[0], piece[1]
    lines = text.decode().splitlines()
    assert lines[0].startswith("00000000 ")
    assert lines[-1].startswith("00199999 ")
    assert sum(line.startswith(f"[dlenv] The log passed its limit of {LIMIT} bytes") for line in lines) == 1
    numbers = [int(line[:8]) for line in lines if not line.startswith("[dlenv]")]
    assert all(len(line) == 99 for line in lines if not line.startswith("[dlenv]"))
    assert numbers == sorted(numbers)
    assert len(numbers) < 150000
    assert used["log"] < 1.5 * LIMIT
    assert used["launcher.log"] < 1.5 * LIMIT or not holes


# The command's surroundings -------------------------------------------------------------------------------------------

SHOW_ENV = "import os, json; print(json.dumps({k: v for k, v in os.environ.items()}))"


def test_the_environment_is_the_callers_plus_ours(run: Run) -> None:
    run.env = {"PATH": "/usr/bin:/bin", "GREETING": "hello", "PYTHONPATH": "/nowhere"}
    run.folder.write_secrets({"TOKEN": "gehe\u00efm"})
    run.run("", argv=["env"], env={"MORE": "gr\u00fc\u00df dich", "GREETING": "changed"})
    ours = ["GREETING=changed", "MORE=gr\u00fc\u00df dich", "TOKEN=gehe\u00efm"]
    assert sorted(run.log.decode().splitlines()) == sorted(["PATH=/usr/bin:/bin", "PYTHONPATH=/nowhere", *ours])
    assert not (run.folder.path / "secrets.json").exists()
    assert "gehe" not in (run.folder.path / "launch.json").read_text()


def test_the_command_starts_in_its_folder_without_input(run: Run, tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), repr(sys.stdin.read()), os.getpid() == os.getsid(0) == os.getpgid(0))"
    run.run(code, cwd=str(tmp_path))
    assert run.log.decode() == f"{tmp_path} '' True\n"


def test_signals_have_their_usual_meaning_for_the_command(run: Run) -> None:
    signal_was_ignored = ["sh", "-c", "trap '' INT TERM HUP USR1; exec \"$@\"", "sh"]
    run.prefix = signal_was_ignored
    code = "import re; text = open('/proc/self/status').read(); print(*re.findall('Sig(?:Blk|Ign):\\t(\\w+)', text))"
    run.run("", argv=["/bin/sh", "-c", f'exec {sys.executable} -c "{code}"'])
    blocked, ignored = run.log.split()
    python_ignores = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    settable = (1 << 31) - 1  # glibc keeps the next two for itself, and make leaves them ignored
    assert (int(blocked, 16), int(ignored, 16) & settable & ~python_ignores) == (0, 0)


@pytest.mark.parametrize(
    ("argv", "exit_code", "line"),
    [
        (["no-such-program-anywhere"], 127, "[dlenv] no-such-program-anywhere: no such program.\n"),
        (["/etc/passwd"], 126, "[dlenv] /etc/passwd cannot be run: Permission denied.\n"),
    ],
)
def test_a_command_that_cannot_run(run: Run, argv: list[str], exit_code: int, line: str) -> None:
    result = run.run("", argv=argv)
    assert (result.exit_code, result.signal, result.cause) == (exit_code, None, "exited")
    assert run.log.decode() == line


def test_a_script_without_its_interpreter(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o755)
    assert run.run("", argv=[str(script)]).exit_code == 127
    assert run.log.decode() == f"[dlenv] {script} cannot be run: the interpreter named in its first line is missing.\n"


def test_a_working_folder_that_is_missing(run: Run) -> None:
    assert run.run("", cwd="/no/such/folder").exit_code == 126
    assert run.log == b"[dlenv] The working folder /no/such/folder: No such file or directory.\n"


def test_secrets_that_cannot_be_read_stop_the_start(run: Run) -> None:
    (run.folder.path / "secrets.json").write_text("garbage")
    assert run.run("print('ran')").exit_code == 125
    assert run.log.startswith(b"[dlenv] The secrets could not be taken: ")


def test_a_folder_without_a_launch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, shim.FOLDER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("dlenv: nothing to run: ")


@pytest.mark.parametrize(("argv", "env"), [([], {}), (["a\0b"], {}), (["a"], {"A=B": "c"}), (["a"], {"": "c"})])
def test_what_no_process_can_be_given_is_refused(run: Run, argv: list[str], env: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        run.folder.write_launch(argv, "/", env)


# Ends -----------------------------------------------------------------------------------------------------------------


def test_exit_codes_pass_through(run: Run) -> None:
    result = run.run("import sys; sys.exit(42)")
    assert (result.exit_code, result.signal, result.cause) == (42, None, "exited")


def test_a_signal_is_told(run: Run) -> None:
    result = run.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.exit_code, result.signal, result.cause) == (139, signal.SIGSEGV, "exited")


PATIENT = """
import signal, sys, time
tell = lambda number, _: print("got", signal.Signals(number).name)
for name in {ignored!r}: signal.signal(getattr(signal, name), tell)
print("ready")
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("ignored", "log", "signum"),
    [
        ([], b"ready\n", signal.SIGINT),
        (["SIGINT"], b"ready\ngot SIGINT\n", signal.SIGTERM),
        (["SIGINT", "SIGTERM"], b"ready\ngot SIGINT\ngot SIGTERM\n", signal.SIGKILL),
    ],
)
@pytest.mark.parametrize("how", ["stop file", "SIGINT", "SIGTERM", "time limit"])
def test_the_ladder(run: Run, ignored: list[str], log: bytes, signum: int, how: str) -> None:
    code = PATIENT.format(ignored=ignored) if ignored else "import signal, time\nsignal.signal(2, signal.SIG_DFL)\n"
    code = code if ignored else code + "print('ready')\ntime.sleep(60)"
    process = run.start(code, timeout_s=1.5 if how == "time limit" else None)
    run.says(b"ready")
    if how == "stop file":
        run.folder.request_stop()
    elif how != "time limit":
        process.send_signal(getattr(signal, how))
    assert run.finish() == (128 + signum, "")
    result = run.folder.result()
    assert result
    assert (result.signal, result.cause) == (signum, "timeout" if how == "time limit" else "stopped")
    assert run.log == log


def test_a_command_may_end_well_when_interrupted(run: Run) -> None:
    process = run.start("import time\nprint('ready')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('saved')")
    run.says(b"ready")
    process.send_signal(signal.SIGINT)
    assert run.finish() == (0, "")
    result = run.folder.result()
    assert result
    assert (result.exit_code, result.cause) == (0, "stopped")
    assert run.log == b"ready\nsaved\n"


@pytest.mark.parametrize("how", ["stop file", "second SIGINT"])
def test_kill_at_once(run: Run, how: str) -> None:
    process = run.start(PATIENT.format(ignored=["SIGINT", "SIGTERM"]), grace_s=(600, 600))
    run.says(b"ready")
    if how == "stop file":
        run.folder.request_stop(kill=True)
    else:
        process.send_signal(signal.SIGINT)
        run.says(b"got SIGINT")
        process.send_signal(signal.SIGINT)
    assert run.finish() == (137, "")
    result = run.folder.result()
    assert result
    assert (result.signal, result.cause) == (signal.SIGKILL, "stopped")
    assert b"got SIGTERM" not in run.log


def test_a_kill_may_follow_a_polite_stop(run: Run) -> None:
    run.start(PATIENT.format(ignored=["SIGINT"]), grace_s=(600, 600))
    run.says(b"ready")
    run.folder.request_stop()
    run.says(b"got SIGINT")
    run.folder.request_stop(kill=True)
    run.folder.request_stop()  # does not take the kill back
    assert run.finish() == (137, "")


def test_signals_are_only_handed_on_when_asked_so(run: Run) -> None:
    names = ["SIGINT", "SIGTERM", "SIGUSR1"]
    process = run.start(PATIENT.format(ignored=names), forward_signals=True, grace_s=(0.1, 0.1))
    run.says(b"ready")
    for name in ["SIGINT", "SIGINT", "SIGTERM", "SIGUSR1"]:
        count = run.log.count(b"\n")
        process.send_signal(getattr(signal, name))
        until(lambda count=count: run.log.count(b"\n") > count, name)
    assert run.log == b"ready\ngot SIGINT\ngot SIGINT\ngot SIGTERM\ngot SIGUSR1\n"
    run.folder.request_stop()
    assert run.finish() == (137, "")


def test_other_signals_reach_a_job_too(run: Run) -> None:
    process = run.start(PATIENT.format(ignored=["SIGUSR1"]))
    run.says(b"ready")
    process.send_signal(signal.SIGUSR1)
    run.says(b"got SIGUSR1")


LEAVES_BEHIND = """
import os, subprocess, sys, time
code = "import os, signal, time\\n{ignore}print('child', os.getpid(), flush=True)\\ntime.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), end="", flush=True)
time.sleep(1)
os._exit(5)
"""


@pytest.mark.parametrize("python", [["-I", "-S"], ["-c", NO_CTYPES]], ids=["adopts orphans", "walks /proc"])
@pytest.mark.parametrize("ignore", ["", "signal.signal(15, signal.SIG_IGN); "], ids=["tame", "stubborn"])
def test_nothing_is_left_running(run: Run, python: list[str], ignore: str) -> None:
    run.python = [sys.executable, *python]
    result = run.run(LEAVES_BEHIND.replace("{ignore}", ignore))
    assert (result.exit_code, result.cause) == (5, "exited")
    first, note = run.log.decode().splitlines()
    assert note == "[dlenv] Processes that the command left running were ended: 1."
    assert not alive(int(first.split()[1]))


def test_a_kill_reaches_sessions_of_their_own(run: Run) -> None:
    stubborn = "signal.signal(15, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN); "
    run.start(LEAVES_BEHIND.replace("{ignore}", stubborn).replace("sleep(1)", "sleep(600)"), grace_s=(600, 600))
    run.says(b"child")
    run.folder.request_stop(kill=True)
    assert run.finish()[0] == 137
    until(lambda: not alive(int(run.log.split()[1])), "the end of the grandchild")


CROWD = """
import os, time
for _ in range(30):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(600)
        os._exit(0)
    os.wait()
"""


def test_a_forking_crowd_is_ended(run: Run) -> None:
    result = run.run(CROWD)
    assert result.exit_code == 0
    assert run.log == b"[dlenv] Processes that the command left running were ended: 30.\n"


def test_as_the_first_process_of_a_container(run: Run) -> None:
    probe = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs the right to make a process namespace")
    run.prefix = ["unshare", "--pid", "--fork", "--mount-proc"]
    result = run.run(LEAVES_BEHIND.replace("{ignore}", ""))
    assert (result.exit_code, result.cause) == (5, "exited")
    assert b"were ended: 1." in run.log


# Disks that fail ------------------------------------------------------------------------------------------------------


AT_ONCE = "import os; os.write(1, b''.join(b'%04d ' % i + b'x' * 70 + b'\\n' for i in range({lines})))"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A run folder on a disk of one MiB."""
    with shims.mounted_disk(tmp_path, "1m") as path:
        yield path


def test_a_full_disk_delays_the_log_and_not_the_command(small_disk: Path) -> None:
    run = Run(RunFolder(small_disk / "run"))
    run.folder.create()
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (400 << 10))
    run.start(f"{AT_ONCE.format(lines=5000)}\nprint('ready')\nimport time; time.sleep(2)")
    until(lambda: b"ready" in run.raw, "the end of the output")
    time.sleep(0.5)
    assert b"ready" not in run.log
    filler.unlink()
    assert run.finish() == (0, "")
    assert run.log == run.raw + b"[dlenv] Writing the log failed for a while: No space left on device.\n"
    result = run.folder.result()
    assert result
    assert result.log_error == "No space left on device"


def test_a_disk_that_stays_full_does_not_hide_how_it_ended(small_disk: Path) -> None:
    run = Run(RunFolder(small_disk / "run"))
    run.folder.create()
    run.start(f"{AT_ONCE.format(lines=9000)}\nraise SystemExit(7)")
    exit_code, output = run.finish()
    assert exit_code == 7
    assert output == "dlenv: the end of the log is lost: No space left on device.\n"
    result = run.folder.result()
    assert result
    assert (result.exit_code, result.log_error) == (7, "No space left on device")
    assert run.log.startswith(b"0000 ")


def test_a_read_only_folder_leaves_the_command_alone(small_disk: Path) -> None:
    run = Run(RunFolder(small_disk / "run"))
    run.folder.create()
    run.folder.write_launch([sys.executable, "-c", "print('still runs'); raise SystemExit(3)"], "/")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = subprocess.run([sys.executable, shim.FOLDER, run.folder.path], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == "still runs\n"
    assert "the end of the log is lost: Read-only file system" in done.stderr
    assert re.search(r'the result \{"exit_code": 3, .*\} is lost: Read-only file system', done.stderr)


# Any Python -----------------------------------------------------------------------------------------------------------


def test_the_syntax_is_that_of_python_3_6() -> None:
    for path in Path(shim.FOLDER).glob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), path.name, feature_version=(3, 6))


@pytest.mark.parametrize("python", other_pythons(), ids=lambda path: re.findall(r"3\.\d+", path)[-1])
def test_other_pythons_run_it(run: Run, python: str, tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER)
    run.python = [python, "-I", "-S"]
    run.env = {"PATH": os.environ["PATH"]}
    run.folder.write_secrets({"SECRET": "s\u00fc\u00df"})
    script = 'echo "$SECRET ${LC_CTYPE-none}"; exec "$@"'
    argv = ["/bin/sh", "-c", script, "sh", sys.executable, str(tmp_path / "writer.py"), "1", str(run.folder.path)]
    assert run.run("", argv=argv, rank_logs=RANKS).exit_code == 0
    lines = run.log.decode().splitlines()
    assert "s\u00fc\u00df none" in lines
    assert sum(line.startswith("[1] rank 1 ") for line in lines) == 800
    result = json.loads((run.folder.path / "result.json").read_text())
    names = {"exit_code", "signal", "cause", "started_at", "finished_at", "log_bytes", "log_error", "oom_kills"}
    assert set(result) == names


@pytest.mark.parametrize("python", other_pythons(), ids=lambda path: re.findall(r"3\.\d+", path)[-1])
def test_other_pythons_run_processes_and_replicas(run: Run, python: str) -> None:
    run.folder.create(replicas=2)
    peers, env = ["localhost"], {"HERE": "{own-ip}"}
    for index in range(2):
        shared: dict[str, Any] = {"replicas": 2, "first_rank": 2 * index, "node_rank": index, "peers": peers}
        words = [{"argv": ["sh", "-c", f"echo {rank} $HERE | cut -d. -f1-2"], "env": env} for rank in "ab"]
        run.folder.node(index).write_launch([], "/", {}, processes=words, **shared)
    command = [python, "-I", "-S", shim.FOLDER, str(run.folder.path)]
    both = [subprocess.Popen([*command, str(index)], stderr=subprocess.STDOUT) for index in range(2)]
    assert [process.wait(PATIENCE_S) for process in both] == [0, 0]
    found = sorted(re.sub(r" \d+\.\d+$", " ADDRESS", line) for line in run.log.decode().splitlines())
    assert found == ["[1] b ADDRESS", "[2] a ADDRESS", "[3] b ADDRESS", "a ADDRESS"]
