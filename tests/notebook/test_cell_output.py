"""What a run leaves in a notebook, in real kernels: by nbclient, by papermill, from threads, after an interrupt."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import papermill
import pytest
from clients import PATIENCE_S, Notebook, notebook

from jupyter_dlenv.notebook.client import Client
from jupyter_dlenv.notebook.follow import MIME

Write = Callable[[str, str], Path]
SCRIPT = """
import time
for step in range(300):
    print(f"\\x1b[32mstep\\x1b[0m {step} <b>")
time.sleep(0.6)
print("the last line")
"""
SLOW = """
import os, time
open("up", "w").close()
while not os.path.exists("go"):
    time.sleep(0.05)
for tick in range(8):
    print("tick", tick, flush=True)
    time.sleep(0.1)
"""
RUN = "%load_ext jupyter_dlenv\n%dlrun a.py --engine process"


@pytest.fixture
async def host(notebook_dir: Path) -> AsyncIterator[Notebook]:
    """An ordinary kernel of this host, started without a server."""
    async with notebook("python3", notebook_dir) as book:
        assert (await book.run("%load_ext jupyter_dlenv")).status == "ok"
        yield book


def executed(cell: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])


def assert_readable(outputs: list[Any]) -> None:
    """Expect one output that shows the whole story without our extension."""
    (output,) = outputs
    assert set(output.data) == {"text/plain", "text/html", MIME}
    lines = output.data["text/plain"].splitlines()
    assert " · SUCCEEDED · exit code 0 · " in lines[0]
    assert re.fullmatch(r"… 101 earlier lines: /.*/run/log", lines[1])
    assert lines[-2:] == ["step 299 <b>", "the last line"]
    page = output.data["text/html"]
    assert " · SUCCEEDED · " in page
    assert "step</span> 299 &lt;b&gt;\nthe last line</pre>" in page
    assert output.data[MIME]["state"] == "SUCCEEDED"


def test_nbclient_keeps_a_readable_output(notebook_dir: Path, write: Write) -> None:
    write("a.py", SCRIPT)
    book = executed(RUN)
    nbclient.NotebookClient(
        book, timeout=PATIENCE_S, kernel_name="python3", resources={"metadata": {"path": str(notebook_dir)}}
    ).execute()
    assert_readable(book.cells[0].outputs)


def test_papermill_keeps_a_readable_output(notebook_dir: Path, write: Write) -> None:
    write("a.py", SCRIPT)
    nbformat.write(executed(RUN), notebook_dir / "in.ipynb")
    papermill.execute_notebook(
        str(notebook_dir / "in.ipynb"),
        str(notebook_dir / "out.ipynb"),
        cwd=str(notebook_dir),
        kernel_name="python3",
        progress_bar=False,
    )
    assert_readable(nbformat.read(notebook_dir / "out.ipynb", as_version=4).cells[0].outputs)


@pytest.mark.parametrize("plain", ["", " --plain"])
async def test_a_run_in_a_thread_stays_in_its_cell(host: Notebook, write: Write, plain: str) -> None:
    write("slow.py", SLOW)
    start = (
        "import os, threading, time\n"
        f"line = 'slow.py --engine process{plain}'\n"
        "run = threading.Thread(target=get_ipython().run_line_magic, args=('dlrun', line))\n"
        "run.start()\n"
        "while run.is_alive() and not os.path.exists('up'): time.sleep(0.05)"
    )
    first = host.client.execute(start)
    await reply(host, first)
    second = host.client.execute("print('the second cell')\nopen('go', 'w').close()\nrun.join()")
    shown = await outputs_until_idle(host, second)
    kinds = {"display_data", "update_display_data"} if not plain else {"stream"}
    ours = [message for message in shown if "tick" in str(message["content"])]
    assert {message["msg_type"] for message in ours} <= kinds
    assert "tick 7" in str(ours[-1]["content"])
    assert {message["parent_header"]["msg_id"] for message in ours} == {first}
    theirs = [message for message in shown if "the second cell" in str(message["content"].get("text"))]
    assert [message["parent_header"]["msg_id"] for message in theirs] == [second]


async def reply(book: Notebook, request: str) -> None:
    """Wait until a request was answered."""
    while (await book.client.get_shell_msg(timeout=PATIENCE_S))["parent_header"]["msg_id"] != request:
        continue


async def outputs_until_idle(book: Notebook, request: str) -> list[dict[str, Any]]:
    """Return all that was published until a request was done."""
    found: list[dict[str, Any]] = []
    while True:
        message = await book.client.get_iopub_msg(timeout=PATIENCE_S)
        done = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        if done and message["parent_header"]["msg_id"] == request:
            return found
        found.append(message)


async def test_an_interrupt_ends_a_run_that_says_nothing(host: Notebook, write: Write, notebook_dir: Path) -> None:
    write("silent.py", "import time\nopen('up', 'w').close()\ntime.sleep(600)\n")
    task = asyncio.create_task(host.run("%dlrun silent.py --engine process"))
    while not (notebook_dir / "up").exists() and not task.done():
        await asyncio.sleep(0.05)
    await host.manager.interrupt_kernel()
    result = await task
    assert "was stopped" in result.error
    assert result.displays[-1][MIME]["state"] == "CANCELLED"


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """A service that takes requests and never answers."""
    path = str(tmp_path / "mute")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield path


def test_an_interrupt_that_another_thread_got_is_answered_without_any_byte(mute: str) -> None:
    """The system may hand a process's signal to any thread, and then no wait of the main thread ends by itself."""
    done = threading.Event()
    late: list[bool] = []
    other = threading.Thread(target=done.wait)
    other.start()
    assert other.ident is not None
    main = threading.main_thread().ident
    assert main is not None

    def give_up() -> None:
        late.append(True)
        signal.pthread_kill(main, signal.SIGINT)

    timers = [
        threading.Timer(0.5, signal.pthread_kill, (other.ident, signal.SIGINT)),
        threading.Timer(PATIENCE_S, give_up),
    ]
    for timer in timers:
        timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(Client(mute).follow("5ab4c0de-0000-4000-8000-000000000000"))
    finally:
        done.set()
        for thread in (*timers, other):
            thread.cancel() if isinstance(thread, threading.Timer) else thread.join()
    assert not late
