"""Images of a person's own: pure rules first, then ``%%dlbuild`` and ``%dlapt`` with a real builder."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook
from docker_images import base_image, engine, image_id

from jupyter_dlenv.engines.docker.builds import BuildTracker
from jupyter_dlenv.errors import BuildFailed, Conflict, Denied, InvalidRequest, UnusableImage
from jupyter_dlenv.images.build import (
    APT_LABEL,
    DOCKERFILE,
    ENVIRONMENT_LABEL,
    OWNER_LABEL,
    BuildPlan,
    BuildRequest,
    ImageAbout,
    apt_dockerfile,
    apt_tag,
    archive,
    build_args,
    build_request_from_json,
    build_tag,
    require_apt,
    require_free_tag,
    require_packages,
)
from jupyter_dlenv.kernels.environments import EnvironmentManager
from jupyter_dlenv.notebook.offer import SWITCH_MIME

BASE = ImageAbout("sha256:1", {}, ("a", "b"), "")


# Rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ffmpeg", "libstdc++6", "g++", "libc6:arm64", "vim=2:9.0.1378-2+b1", "python3.11"])
def test_names_of_packages(name: str) -> None:
    require_packages([name])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-y",
        "--allow-unauthenticated",
        "vim-",
        "a b",
        "a;id",
        "$(id)",
        "./x.deb",
        "/tmp/x.deb",
        "vim/sid",
        "Vim",
        "x",
        'a"',
        "a\nRUN id",
        "a*",
        "ü",
    ],
)
def test_what_apt_would_take_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not the name"):
        require_packages([name])


def test_the_same_packages_have_the_same_name() -> None:
    assert apt_tag("lab.1", BASE, ["b", "a"]) == apt_tag("lab.1", BASE, ["a", "b"])
    assert apt_tag("lab.1", BASE, ["a"]).startswith("dlenv-built/lab-1:apt-")
    assert apt_tag("lab", BASE, ["a"]) != apt_tag("lab", BASE, ["ab"])
    assert apt_tag("lab", BASE, ["a"]) != apt_tag("lab", ImageAbout("sha256:2", {}, (), ""), ["a"])


@pytest.mark.parametrize("user", ["", "root", "0"])
def test_packages_leave_root_as_it_was(user: str) -> None:
    lines = apt_dockerfile(ImageAbout("sha256:1", {}, (), user), ["a", "b"]).splitlines()
    assert lines[0] == "FROM sha256:1"
    assert [line.split()[0] for line in lines] == ["FROM", "RUN"]
    shell, option, script = json.loads(lines[1].removeprefix("RUN "))
    assert (shell, option) == ("/bin/sh", "-c")
    assert "--no-install-recommends a b && rm -rf /var/lib/apt/lists/*" in script


def test_packages_leave_another_user_as_it_was() -> None:
    lines = apt_dockerfile(ImageAbout("sha256:1", {}, (), "1234:5"), ["a"]).splitlines()
    assert (lines[1], lines[-1]) == ("USER 0", "USER 1234:5")


@pytest.mark.parametrize(
    ("text", "default", "tag"),
    [
        ("", "torch", "dlenv-built/torch:latest"),
        ("", "", "dlenv-built/image:latest"),
        ("mine", "torch", "dlenv-built/mine:latest"),
        ("", "a..b_-", "dlenv-built/a-b:latest"),
        ("mine:2", "", "mine:2"),
        ("lab/mine", "", "lab/mine:latest"),
    ],
)
def test_names_of_what_is_built(text: str, default: str, tag: str) -> None:
    assert build_tag(text, default) == tag


@pytest.mark.parametrize("text", ["--rm", "UPPER", "a b", "x@sha256:" + "0" * 64])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        build_tag(text, "")


def test_a_kernel_names_only_what_is_its_own() -> None:
    def there(owner: str, name: str) -> ImageAbout:
        return ImageAbout("sha256:2", {OWNER_LABEL: owner, ENVIRONMENT_LABEL: name}, (), "")

    require_free_tag("dlenv-built/x:latest", None, "me", "lab")
    require_free_tag("dlenv-built/x:latest", there("me", "lab"), "me", "lab")
    require_free_tag("pytorch/pytorch:latest", BASE, "me", None)
    for tag, image in (
        ("pytorch/pytorch:latest", None),
        ("dlenv-built/x:latest", BASE),
        ("dlenv-built/x:latest", there("me", "other")),
    ):
        with pytest.raises(Denied, match="rule: image name"):
            require_free_tag(tag, image, "me", "lab")
    for kernel in ("lab", None):
        with pytest.raises(Conflict, match="built by you"):
            require_free_tag("dlenv-built/x:latest", there("you", "lab"), "me", kernel)


def test_an_image_without_apt_is_told_what_else_to_do() -> None:
    require_apt("a", "/usr/bin/apt-get\n")
    with pytest.raises(UnusableImage, match="it has apk") as caught:
        require_apt("alpine:3", "/sbin/apk\n")
    assert "%%dlbuild" in caught.value.hint
    assert "RUN apk add PACKAGE" in caught.value.hint
    with pytest.raises(UnusableImage, match="no package tool"):
        require_apt("scratch", "")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"dockerfile": " "},
        {"dockerfile": "FROM a", "apt": ["b"]},
        {"apt": "vim"},
        {"apt": [1]},
        {"dockerfile": "FROM a", "environment": "../x"},
        {"dockerfile": "FROM a", "build_args": {"A B": "c"}},
        {"dockerfile": "FROM a", "build_args": {"A": 1}},
        {"dockerfile": "FROM a", "network": "host"},
        {"dockerfile": "FROM a", "no_cache": "yes"},
        {"dockerfile": "x" * (2 << 20)},
    ],
)
def test_bad_requests(body: object) -> None:
    with pytest.raises(InvalidRequest):
        build_request_from_json(body)


def test_proxies_pass_and_the_rest_of_the_host_does_not() -> None:
    environ = {"HTTP_PROXY": "http://p:1", "no_proxy": "x", "PIP_INDEX_URL": "http://i", "SSL_CERT_FILE": "/c"}
    assert build_args("FROM a", "lab:1", {}, environ) == {"HTTP_PROXY": "http://p:1", "no_proxy": "x"}
    asked = {"HTTP_PROXY": "http://other:1"}
    assert build_args("ARG DLENV_IMAGE", "lab:1", asked, environ)["DLENV_IMAGE"] == "lab:1"
    assert build_args("ARG DLENV_IMAGE", "", asked, environ)["HTTP_PROXY"] == "http://other:1"


def context(**members: tarfile.TarInfo) -> str:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members.values():
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return base64.b64encode(buffer.getvalue()).decode()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 1) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.size = kind, size if kind == tarfile.REGTYPE else 0
    about.uid = about.mode = 0o600
    return about


def test_the_builder_gets_the_dockerfile_and_the_caller_s_files() -> None:
    packed = context(a=member("./a.py"), d=member(DOCKERFILE), link=member("l", tarfile.SYMTYPE))
    with archive(BuildPlan("FROM a", {}, {}, packed)) as file, tarfile.open(fileobj=file) as tar:
        assert [(found.name, found.size, found.uid) for found in tar] == [
            (DOCKERFILE, 6, 0),
            ("a.py", 1, 0),
            ("l", 0, 0),
        ]


@pytest.mark.parametrize(
    "text",
    [
        "no base64!",
        base64.b64encode(b"no archive").decode(),
        context(a=member("../a")),
        context(a=member("/etc/a")),
        context(a=member("a", tarfile.CHRTYPE)),
        context(a=member("a", tarfile.LNKTYPE)),
        context(a=member("a/../../b")),
        context(a=member("a"))[:-40],
    ],
    ids=["text", "no archive", "outside", "absolute", "device", "link", "around", "cut"],
)
def test_a_context_that_is_no_folder_of_files_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        archive(BuildPlan("FROM a", {}, {}, text))


def test_a_few_bytes_that_stand_for_very_many_are_refused() -> None:
    text = context(a=member("a", size=(256 << 20) + 1))
    assert len(text) < 1 << 20
    with pytest.raises(InvalidRequest, match="larger than 256 MiB"):
        archive(BuildPlan("FROM a", {}, {}, text))


def test_a_failing_step_is_named_with_its_code_and_its_last_lines() -> None:
    tracker = BuildTracker()
    ends = (" ---> Running in 1\n", "of b\n", "Removing intermediate container 1\n")
    for text in ("Step 1/2 : RUN a", "\n", "of a\n", "Step 2/2 : RUN b", "\n", *ends):
        assert tracker.step({"stream": text}).text == text
    with pytest.raises(BuildFailed) as caught:
        tracker.step({"errorDetail": {"code": 3, "message": "returned a non-zero code: 3"}, "error": "x"})
    assert caught.value.message == "Step 2/2: RUN b ended with exit code 3.\nof b"
    tracker = BuildTracker()
    tracker.step({"stream": "Step 1/1 : FROM nowhere/never"})
    with pytest.raises(BuildFailed) as caught:
        tracker.step({"error": "pull access denied"})
    assert (caught.value.message, caught.value.hint) == (
        "Step 1/1: FROM nowhere/never failed: pull access denied",
        "jupyter dlenv images",
    )
    with pytest.raises(BuildFailed, match="cannot be built: dockerfile parse error"):
        BuildTracker().step({"error": "dockerfile parse error line 1"})
    with pytest.raises(BuildFailed) as caught:
        BuildTracker().step({"error": "COPY failed: file not found in build context"})
    assert "--context" in caught.value.hint


def test_a_request_has_defaults() -> None:
    assert build_request_from_json({"apt": ["vim"]}) == BuildRequest(apt=("vim",))


# With a builder -------------------------------------------------------------------------------------------------------


@pytest.fixture
def made() -> Iterator[set[str]]:
    """What was built in a test, to be forgotten after it."""
    before = tags()
    found: set[str] = set()
    yield found
    for tag in tags() - before:
        if tag.startswith("dlenv-built/") or tag in found:
            engine().remove_image(tag, force=True)


def tags() -> set[str]:
    return {tag for image in engine().images() for tag in image.get("RepoTags") or []}


def cell(*lines: str, options: str = "") -> str:
    return "\n".join([f"%%dlbuild {options}".rstrip(), *lines])


@pytest.mark.docker
async def test_a_cell_becomes_an_image_and_an_environment(notebook_dir: Path, made: set[str]) -> None:
    environment("builder", image=base_image())
    (notebook_dir / "secret.txt").write_text("not asked for")
    async with notebook("builder", notebook_dir) as book:
        code = cell("ARG DLENV_IMAGE", "FROM $DLENV_IMAGE", "RUN echo made-here > /made", options="--env fresh")
        first = await book.run(code)
        assert first.status == "ok", first.error
        assert "made-here" in first.shown
        assert first.shown.splitlines()[0].startswith("fresh · SUCCEEDED · ")
        assert "dlenv-built/fresh:latest is ready." in first.text
        assert "Restart" not in first.text
        again = await book.run(cell(*code.splitlines()[1:], options="-t other"))
        assert "Using cache" in again.shown
        assert image_id("dlenv-built/other:latest") == image_id("dlenv-built/fresh:latest")
        copied = await book.run(cell(f"FROM {base_image()}", "COPY secret.txt /", options="-t copy"))
        assert "--context" in copied.error
        sent = await book.run(cell(f"FROM {base_image()}", "COPY secret.txt /", options="-t copy --context ."))
        assert sent.status == "ok", sent.error
    about = engine().inspect_image("dlenv-built/fresh:latest")
    assert about["Config"]["Labels"][ENVIRONMENT_LABEL] == "builder"
    async with notebook("fresh", notebook_dir) as book:
        assert (await book.run("print(open('/made').read())")).text.strip() == "made-here"


@pytest.mark.docker
async def test_a_failing_step_is_the_error_and_the_log_is_complete(notebook_dir: Path, made: set[str]) -> None:
    environment("builder", image=base_image())
    before = tags()
    async with notebook("builder", notebook_dir) as book:
        failed = await book.run(
            cell(f"FROM {base_image()}", "RUN for i in $(seq 400); do echo line $i; done; exit 3", options="-t bad")
        )
        assert failed.status == "error"
        assert "BuildFailed" in failed.error
        assert "Step 2/5: RUN for i" in failed.error  # three more are our labels
        assert "exit code 3" in failed.error
        assert failed.error.rstrip().endswith("line 400")
        shown = failed.shown.splitlines()
        assert shown[0].startswith("bad · FAILED")
        assert [line for line in shown if line.startswith("line ")] == [f"line {i}" for i in range(1, 401)]
        wrong = await book.run(cell("FORM x"))
        assert "unknown instruction" in wrong.error
        assert (await book.run("print('alive')")).text == "alive\n"
    assert tags() == before


@pytest.mark.docker
async def test_an_interrupt_ends_the_build(notebook_dir: Path, made: set[str]) -> None:
    environment("builder", image=base_image())
    mark = os.urandom(4).hex()

    def steps() -> list[str]:
        return [item["Id"] for item in engine().containers() if mark in item["Command"]]

    async with notebook("builder", notebook_dir) as book:
        task = asyncio.create_task(
            book.run(cell(f"FROM {base_image()}", f"RUN : {mark}; sleep 600", options="-t long"))
        )
        while not steps():
            assert not task.done(), task.result()
            await asyncio.sleep(0.1)
        await book.manager.interrupt_kernel()
        result = await task
        assert "KeyboardInterrupt" in result.error
        assert "The build was stopped" in result.error
        for _ in range(300):
            if not steps():
                break
            await asyncio.sleep(0.1)
        assert steps() == []


@pytest.mark.docker
async def test_what_a_kernel_may_not_build(notebook_dir: Path, made: set[str]) -> None:
    environment("builder", image=base_image())
    environment("precious", image="dlenv-built/precious:latest")
    environment("sealed", image=base_image(), network="none")
    async with notebook("builder", notebook_dir) as book:
        for options, rule in (
            ("--env precious", "rule: environment"),
            ("-t precious", "rule: image name"),
            ("-t jupyter-dlenv/starter:1", "rule: image name"),
            (f"-t {base_image()}", "rule: image name"),
        ):
            refused = await book.run(cell(f"FROM {base_image()}", "RUN true", options=options))
            assert rule in refused.error, options
        other = await book.run(cell("FROM scratch", "ENV A=1", options="--env builder"))
        assert "rule: environment" in other.error, other
        assert "rule: environment" in (await book.run("%dlapt --env precious hello")).error
    async with notebook("sealed", notebook_dir) as book:
        assert "rule: network" in (await book.run(cell("FROM scratch"))).error
        assert "rule: network" in (await book.run("%dlapt hello")).error
    kept = {item.name: item.image for item in EnvironmentManager().list()}
    assert (kept["builder"], kept["precious"]) == (base_image(), "dlenv-built/precious:latest")


@pytest.mark.docker
def test_the_command_line_builds_by_itself(tmp_path: Path, made: set[str]) -> None:
    environment("cli", image=base_image())
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image()}\nARG WHO\nCOPY a /a\nRUN echo hello $WHO\n")
    (tmp_path / "a").write_text("a")
    made.add("dlenv-test/by-hand:1")
    proxies = {"HTTP_PROXY": "http://proxy.invalid:1", "https_proxy": "http://user:s3cr3t@proxy.invalid:1"}
    argv = [sys.executable, "-m", "jupyter_dlenv", "build", str(tmp_path), "-t", "dlenv-test/by-hand:1"]
    options = ["--env", "cli", "--context", str(tmp_path), "--build-arg", "WHO=you"]
    env = {**os.environ, **proxies, "SSL_CERT_FILE": "/nowhere/ca.pem"}
    done = subprocess.run([*argv, *options], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "hello you" in done.stdout
    assert EnvironmentManager().get("cli").image == "dlenv-test/by-hand:1"
    kept = json.dumps(engine().inspect_image("dlenv-test/by-hand:1")) + json.dumps(
        engine().history("dlenv-test/by-hand:1")
    )
    for word in ("proxy.invalid", "s3cr3t", "ca.pem"):
        assert word not in kept
    failed = subprocess.run(
        [*argv[:4], "-"], input="FROM scratch\nRUN x\n", capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "Step 2/5: RUN x" in failed.stderr


@pytest.mark.docker
async def test_packages_are_added_again_at_once_and_accumulate(notebook_dir: Path, made: set[str]) -> None:
    user = docker_images.image_from(f'FROM {base_image()}\nUSER 1234:1234\nSHELL ["/bin/false"]\n', "apt-user")
    environment("tools", image=user, memory="1g")
    async with notebook("tools", notebook_dir) as book:
        assert "not found" in (await book.run("!hello")).text
        first = await book.run("%dlapt hello")
        assert first.status == "ok", first.error
        assert "is ready" in first.text
        assert "Restart the kernel to use it." in first.text
        assert first.displays[-1][SWITCH_MIME] == {"name": "tools"}
        one = EnvironmentManager().get("tools")
        assert (one.image[:22], one.memory) == ("dlenv-built/tools:apt-", "1g")
        assert "already" in (await book.run("%dlapt hello")).text
        second = await book.run("%dlapt sl")
        assert second.status == "ok", second.error
        two = EnvironmentManager().get("tools")
        about = engine().inspect_image(two.image)["Config"]
        assert (about["User"], about["Labels"][APT_LABEL]) == ("1234:1234", "hello sl")
        environment("tools", image=user)
        again = await book.run("%dlapt hello")
        assert f"{one.image} was there already." in again.text
        unknown = await book.run("%dlapt no-such-package-anywhere")
        assert "Unable to locate package" in unknown.error
        environment("tools", image=two.image)
    async with notebook("tools", notebook_dir) as book:
        assert "Hello, world!" in (await book.run("!hello")).text
        assert "/usr/games/sl" in (await book.run("!ls /usr/games/sl")).text
        assert (await book.run("!ls /var/lib/apt/lists | wc -l")).text.strip() == "0"
        job = await book.run("%%dlrun --plain\nimport subprocess; print(subprocess.check_output(['hello']).decode())")
        assert "Hello, world!" in job.text


@pytest.mark.docker
async def test_a_restart_brings_the_new_image(notebook_dir: Path, made: set[str]) -> None:
    environment("renewed", image=base_image())
    async with notebook("renewed", notebook_dir) as book:
        done = await book.run(
            cell("ARG DLENV_IMAGE", "FROM $DLENV_IMAGE", "RUN echo 2 > /two", options="--env renewed")
        )
        assert done.status == "ok", done.error
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=120)
        assert (await book.run("print(open('/two').read())")).text.strip() == "2"
        assert (await book.run("%%dlrun --plain\nprint(open('/two').read())")).text.strip() == "2"


@pytest.mark.docker
async def test_an_image_without_apt_and_a_kernel_without_an_image(notebook_dir: Path, made: set[str]) -> None:
    bare = docker_images.image_from(f"FROM {base_image()}\nRUN rm /usr/bin/apt-get\n", "no-apt")
    environment("no-apt", image=bare)
    async with notebook("no-apt", notebook_dir) as book:
        refused = await book.run("%dlapt hello")
        assert "needs apt-get" in refused.error
        assert "%%dlbuild" in refused.error
        for line in ("", "-y", "'a; id'", "./x.deb"):
            assert (await book.run(f"%dlapt {line}")).status == "error", line
    environment("plain", engine="process")
    async with notebook("plain", notebook_dir) as book:
        assert "--env NAME" in (await book.run("%load_ext jupyter_dlenv\n%dlapt hello")).error
