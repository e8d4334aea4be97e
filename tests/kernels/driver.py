"""A kernel for tests: the runtime and its boot, started as the product starts them, talked to over sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from docker.errors import APIError
from docker_images import engine, image_id
from jupyter_client.blocking.client import BlockingKernelClient

from jupyter_dlenv.images.facts import PROBE_COMMAND, PROBE_SCRIPT, ImageFacts, parse_facts
from jupyter_dlenv.kernels.runtime import Runtime, kernel_argv, prepare
from jupyter_dlenv.resources import Mount

START_TIMEOUT_S = 90
STRICT: dict[str, Any] = {
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777", "/dlenv/home": "mode=1777"},
    "init": True,
}


def run_in(image: str, argv: Sequence[str], mounts: Sequence[Mount] = (), user: str = "") -> str:
    """Run a command in a container without network and return what it printed."""
    binds = {each.source: {"bind": each.target, "mode": "ro" if each.read_only else "rw"} for each in mounts}
    limits = engine().create_host_config(network_mode="none", binds=binds)
    container = engine().create_container(image, list(argv), host_config=limits, user=user, entrypoint=[])["Id"]
    try:
        engine().start(container)
        code = engine().wait(container)["StatusCode"]
        output = engine().logs(container).decode()
    finally:
        engine().remove_container(container, force=True)
    assert code == 0, output
    return str(output)


def probe(image: str) -> ImageFacts:
    """Return an image's facts."""
    script = "/dlenv/probe.py"
    return parse_facts(
        run_in(image, ["/bin/sh", "-c", PROBE_COMMAND, script], [Mount(str(PROBE_SCRIPT), script, True)])
    )


def probe_local(python: str) -> ImageFacts:
    """Return the facts of an interpreter on this host."""
    return parse_facts(subprocess.run([python, str(PROBE_SCRIPT)], capture_output=True, text=True, check=True).stdout)


def prepare_image(image: str, data_dir: Path) -> tuple[ImageFacts, Runtime]:
    """Return an image's facts and its runtime."""
    facts = probe(image)

    def compile_in(argv: Sequence[str], mounts: Sequence[Mount]) -> None:
        run_in(image, argv, mounts)

    return facts, prepare(
        facts, image_id=image_id(image), data_dir=data_dir, compile_in=compile_in, progress=lambda line: None
    )


class Kernel:
    """A running kernel. Use it as a context manager."""

    def __init__(self, start: Callable[[Path], Callable[[], None]], socket: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dlenv-k-"))
        self.folder.chmod(0o777)  # whoever the container runs as writes its sockets here
        ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
        about = {"transport": "ipc", "key": uuid.uuid4().hex, "signature_scheme": "hmac-sha256", "kernel_name": ""}
        socket = socket.format(folder=self.folder)
        (self.folder / "connection.json").write_text(json.dumps({**ports, **about, "ip": socket}))
        (self.folder / "connection.json").chmod(0o666)
        self._stop = start(self.folder)
        self.client = BlockingKernelClient()
        self.client.load_connection_info({**ports, **about, "ip": str(self.folder / "k")})

    def __enter__(self) -> Kernel:
        try:
            # A client without a manager takes a kernel that is still importing for a dead one.
            wait_until((self.folder / "k-5").exists, START_TIMEOUT_S)
            self.client.start_channels()
            self.client.wait_for_ready(timeout=START_TIMEOUT_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.stop_channels()
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, code: str) -> str:
        """Run a cell and return what it wrote, its result, or its traceback without colours."""
        pieces: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            pieces.append(content.get("text", ""))
            pieces.append(content.get("data", {}).get("text/plain", ""))
            pieces.extend(f"{kind}\n" for kind in content.get("data", {}) if kind.startswith("image/"))
            pieces.append(f"{content['ename']}: {content['evalue']}" if "ename" in content else "")

        self.client.execute_interactive(code, output_hook=collect, timeout=120, stop_on_error=False)
        return "".join(pieces)

    def value(self, expression: str) -> Any:
        """Return an expression's value; it must be JSON's."""
        return json.loads(self.run(f"import json as _json\nprint(_json.dumps({expression}))"))


def container_kernel(
    image: str,
    facts: ImageFacts,
    runtime: Runtime,
    env: Mapping[str, str] | None = None,
    more_binds: Sequence[str] = (),
) -> Kernel:
    """Return a kernel in a container as strict as it gets: uid 1000, no network, no capabilities, read-only root."""

    def start(folder: Path) -> Callable[[], None]:
        binds = [f"{folder}:/dlenv/run", f"{runtime.path}:/dlenv/runtime:ro", *more_binds]
        container = engine().create_container(
            image,
            list(kernel_argv(facts)),
            user="1000:1000",
            environment={"HOME": "/dlenv/home", **(env or {})},
            working_dir="/tmp",
            entrypoint=[],
            host_config=engine().create_host_config(**STRICT, binds=binds),
        )["Id"]
        (folder / "container").write_text(container)
        engine().start(container)
        return lambda: remove(container)

    return Kernel(start, "/dlenv/run/k")


def remove(container: str) -> None:
    """Remove a container that may be gone."""
    try:
        engine().remove_container(container, force=True)
    except APIError as error:
        if error.response is None or error.response.status_code not in (404, 409):
            raise


def local_kernel(facts: ImageFacts, runtime: Runtime, env: Mapping[str, str] | None = None) -> Kernel:
    """Return a kernel of an interpreter on this host, the runtime used where it lies."""

    def start(folder: Path) -> Callable[[], None]:
        argv = kernel_argv(facts, str(folder / "connection.json"))
        argv = tuple(part.replace("/dlenv/runtime", str(runtime.path)) for part in argv)
        clean = {"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})}
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(argv, cwd=folder, env=clean, stdout=log, stderr=log, start_new_session=True)
        (folder / "pid").write_text(str(process.pid))

        def stop() -> None:
            process.kill()
            process.wait()

        return stop

    return Kernel(start, "{folder}/k")


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait for a condition to become true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)


def interrupt(kernel: Kernel) -> None:
    """Send SIGINT to the kernel, as the engine does."""
    if (kernel.folder / "pid").exists():
        os.kill(int((kernel.folder / "pid").read_text()), signal.SIGINT)
    else:
        engine().kill((kernel.folder / "container").read_text(), signal.SIGINT)
