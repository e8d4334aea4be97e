"""The starter image: what would be run, as whole golden values; then the engine's part of it on a real daemon."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker_images import base_image, engine, image_id

from jupyter_dlenv.engines.docker.images import DockerImages
from jupyter_dlenv.errors import Conflict, DLEnvError, EngineError, InvalidRequest, UnusableImage
from jupyter_dlenv.images.bootstrap import bootstrap, debootstrap_knows, host_source, starter
from jupyter_dlenv.images.recipe import (
    LABEL,
    WHEELS,
    Recipe,
    Source,
    Target,
    changes,
    choose_source,
    debootstrap_argv,
    install_command,
    load_recipe,
    parse_index_targets,
    parse_target,
    pip_download_argv,
    pip_install_argv,
    platform_tags,
    privilege,
    unpack_argv,
)
from jupyter_dlenv.resources import Mount

RECIPE = Recipe("7", "example/image:1", "bookworm", ("python3", "python3-pip"), ("torch==2.13.0", "tqdm"))
SITE = Source("noble", "http://mirror.example/ubuntu/", "/usr/share/keyrings/site.gpg", ("main", "universe"))


def known(suite: str) -> bool:
    return suite in ("bookworm", "noble", "trixie")


INDEX_TARGETS = """\
MetaKey: main/binary-amd64/Packages
Description: http://mirror.example/ubuntu noble/main amd64 Packages
Release: noble
Component: main
Repo-URI: http://mirror.example/ubuntu/
Signed-By: /usr/share/keyrings/site.gpg

MetaKey: universe/binary-amd64/Packages
Release: noble
Component: universe
Repo-URI: http://mirror.example/ubuntu/
Signed-By: /usr/share/keyrings/site.gpg

MetaKey: restricted/binary-amd64/Packages
Release: noble
Component: restricted
Repo-URI: http://mirror.example/ubuntu/

MetaKey: main/binary-amd64/Packages
Release: noble-security
Component: main
Repo-URI: http://security.example/ubuntu/
"""


def test_the_hosts_archive_is_read_from_apt() -> None:
    assert parse_index_targets(INDEX_TARGETS, "noble") == SITE


@pytest.mark.parametrize("uri", ["http://user:secret@mirror.example/debian", "mirror+file:/etc/list", "cdrom://x/", ""])
def test_an_archive_that_debootstrap_cannot_use_or_must_not_see_is_left_out(uri: str) -> None:
    text = f"Release: bookworm\nComponent: main\nRepo-URI: {uri}\n"
    assert parse_index_targets(text, "bookworm") == Source("bookworm")


def test_keys_that_are_no_file_are_left_to_debootstrap() -> None:
    text = "Release: bookworm\nComponent: main\nRepo-URI: https://m.example/debian\nSigned-By: 0x1234\n"
    assert parse_index_targets(text, "bookworm") == Source("bookworm", "https://m.example/debian", "", ("main",))


@pytest.mark.parametrize("text", ["", "\n\n", "Release: bookworm"])
def test_a_host_without_apt_sources_has_no_mirror(text: str) -> None:
    assert parse_index_targets(text, "bookworm") == Source("bookworm")
    assert parse_index_targets(INDEX_TARGETS, "") == Source("")


@pytest.mark.parametrize(
    ("host", "suite", "mirror", "expected"),
    [
        (SITE, None, None, SITE),
        (Source(""), None, None, Source("bookworm")),
        (Source("duke", "http://m.example/"), None, None, Source("bookworm")),
        (SITE, "trixie", None, Source("trixie")),
        (SITE, None, "file:///srv/ubuntu", replace(SITE, mirror="file:///srv/ubuntu")),
        (Source(""), "trixie", "https://m.example/", Source("trixie", "https://m.example/")),
    ],
)
def test_the_callers_choice_goes_before_the_hosts_and_that_before_the_default(
    host: Source, suite: str | None, mirror: str | None, expected: Source
) -> None:
    assert choose_source(RECIPE, host, known, suite=suite, mirror=mirror) == expected


@pytest.mark.parametrize("suite", ["duke", "", "../../etc/passwd", "--help", "Bookworm"])
def test_an_unknown_suite_is_refused(suite: str) -> None:
    with pytest.raises(InvalidRequest, match="knows no release"):
        choose_source(RECIPE, SITE, lambda name: name != "duke", suite=suite)


def test_a_mirror_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose_source(RECIPE, SITE, known, mirror="https://me:secret@mirror.example/debian")
    assert "secret" not in str(caught.value)
    assert "netrc" in caught.value.hint


def test_debootstrap_command() -> None:
    assert debootstrap_argv(RECIPE, SITE, "/var/tmp/x/root") == [
        "debootstrap",
        "--foreign",
        "--variant=minbase",
        "--include=python3,python3-pip",
        "--components=main,universe",
        "--keyring=/usr/share/keyrings/site.gpg",
        "noble",
        "/var/tmp/x/root",
        "http://mirror.example/ubuntu/",
    ]
    assert debootstrap_argv(RECIPE, Source("bookworm"), "/t") == [
        "debootstrap",
        "--foreign",
        "--variant=minbase",
        "--include=python3,python3-pip",
        "bookworm",
        "/t",
    ]


def test_privileges() -> None:
    def no() -> bool:
        return False

    def yes() -> bool:
        return True

    assert privilege(0, lambda name: False, no) == ()
    assert privilege(1000, lambda name: name == "fakeroot", yes) == ("fakeroot",)
    assert privilege(1000, lambda name: False, yes) == ("sudo", "-n")
    assert privilege(1000, lambda name: False, no) is None
    assert install_command(["debootstrap"], 1000)[:2] == ["sudo", "apt-get"]
    assert install_command(["debootstrap"], 0)[:1] == ["apt-get"]


def test_image_configuration_names_no_user() -> None:
    assert changes({LABEL: "abc"}) == [
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        'CMD ["python3"]',
        'LABEL io.jupyter-dlenv.starter="abc"',
    ]


def test_platform_tags_name_every_c_library_back_to_the_oldest() -> None:
    assert platform_tags(Target((3, 12), (2, 19), "aarch64")) == [
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
        "linux_aarch64",
    ]
    tags = platform_tags(Target((3, 11), (2, 36), "x86_64"))
    assert tags[0] == "manylinux_2_36_x86_64"
    assert tags[-3:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    assert "manylinux_2_28_x86_64" in tags


def test_pip_commands() -> None:
    target = Target((3, 11), (2, 17), "aarch64")
    assert pip_download_argv("/venv/bin/python", target, RECIPE.python, "/wheels") == [
        *("/venv/bin/python", "-m", "pip", "download", "--dest", "/wheels", "--progress-bar", "off"),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"),
        *("--platform", "manylinux_2_17_aarch64", "--platform", "manylinux2014_aarch64", "--platform", "linux_aarch64"),
        *("torch==2.13.0", "tqdm"),
    ]
    argv = pip_install_argv(RECIPE.python)
    assert argv[-6:] == ["install", "--no-index", "--find-links", WHEELS, "torch==2.13.0", "tqdm"]


def test_the_images_python_is_read_from_its_answer() -> None:
    answer = '{"python": [3, 11], "implementation": "cpython", "libc": ["glibc", "2.36"], "machine": "x86_64"}\n'
    assert parse_target("a banner\n" + answer) == Target((3, 11), (2, 36), "x86_64")
    with pytest.raises(UnusableImage, match="musl"):
        parse_target(answer.replace("glibc", "musl"))


def test_the_digest_follows_the_recipe_and_the_suite() -> None:
    other = replace(RECIPE, python=("torch==2.12.0",))
    assert RECIPE.digest("bookworm") != RECIPE.digest("trixie")
    assert RECIPE.digest("bookworm") != other.digest("bookworm")
    assert RECIPE.base_digest("bookworm") == other.base_digest("bookworm")


def test_the_recipe_that_ships() -> None:
    recipe = load_recipe()
    assert recipe.image == f"jupyter-dlenv/starter:{recipe.version}"
    assert any(requirement.startswith("torch==") for requirement in recipe.python)


def test_the_unpack_command_streams_a_tree_without_the_hosts_name(tmp_path: Path) -> None:
    target = tmp_path / "root"
    fake = [
        "sh",
        "-c",
        f"mkdir -p {target}/etc {target}/dev; echo h >{target}/etc/hostname; echo p >{target}/etc/passwd",
    ]
    done = subprocess.run(unpack_argv((), str(target), fake), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert sorted(tar.getnames()) == [".", "./dev", "./etc", "./etc/passwd"]
    assert not target.exists()


# With a daemon --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> DockerImages:
    engine()
    return DockerImages.connect()


@pytest.fixture
def made() -> Iterator[list[str]]:
    """Images to forget afterwards."""
    images: list[str] = []
    yield images
    for image in images:
        engine().remove_image(image, force=True)


def names() -> set[str]:
    return {name for container in engine().containers(all=True) for name in container["Names"]}


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.docker
def test_import_label_and_tag(store: DockerImages, made: list[str]) -> None:
    value = os.urandom(8).hex()
    data = archive(hello="world")
    image = store.import_tar((data[at : at + 512] for at in range(0, len(data), 512)), changes({LABEL: value}))
    made.append(image)
    assert store.find(LABEL, value) == image
    assert store.find(LABEL, "nothing") is None
    ref = f"dlenv-test/tagged:{value}"
    assert not store.has(ref)
    store.tag(image, ref)
    assert store.has(ref)
    assert engine().inspect_image(ref)["Config"]["User"] == ""


@pytest.mark.docker
def test_an_archive_that_is_none_is_an_error(store: DockerImages) -> None:
    with pytest.raises(EngineError):
        store.import_tar([b"this is no tar archive" * 100], [])


@pytest.mark.docker
def test_a_build_container_leaves_a_layer_and_nothing_else(
    store: DockerImages, made: list[str], tmp_path: Path
) -> None:
    (tmp_path / "input").write_text("from the host")
    base = image_id(base_image())
    script = ["sh", "-c", "cp /mnt/input /copied; id -u; hostname; ls /sys/class/net"]
    mounts = [Mount(str(tmp_path), WHEELS, read_only=True)]
    with store.build_container(base, script, name="dlenv-test-layer", mounts=mounts) as container:
        made.append(committed := store.commit(container.id, changes({LABEL: "test"})))
        made.append(flat := store.flatten(container.id, changes({LABEL: "test"})))
    assert "/dlenv-test-layer" not in names()
    assert container.output.splitlines()[0] == "0"
    assert container.output.splitlines()[2:] == ["lo"]
    for image, layers in ((committed, 2), (flat, 1)):
        about = engine().inspect_image(image)
        assert len(about["RootFS"]["Layers"]) == layers
        assert (about["Config"]["User"], about["Config"]["Cmd"]) == ("", ["python3"])
    with store.build_container(committed, ["sh", "-c", "cat /copied; ls /mnt"], name="dlenv-test-look") as look:
        assert look.output.strip() == "from the host"


@pytest.mark.docker
def test_a_failing_step_shows_its_last_lines_and_leaves_no_container(store: DockerImages) -> None:
    script = ["sh", "-c", "echo before; echo no space left >&2; exit 3"]
    with (
        pytest.raises(DLEnvError, match=r"exit code 3:\n(.*\n)*no space left"),
        store.build_container(base_image(), script, name="dlenv-test-fails"),
    ):
        pytest.fail("the step did not fail")
    assert "/dlenv-test-fails" not in names()


@pytest.mark.docker
def test_a_step_that_cannot_start_leaves_no_container(store: DockerImages) -> None:
    with (
        pytest.raises(DLEnvError),
        store.build_container(base_image(), ["/no/such/program"], name="dlenv-test-unstarted"),
    ):
        pytest.fail("the step did not fail")
    assert "/dlenv-test-unstarted" not in names()


@pytest.mark.docker
def test_two_builds_of_the_same_exclude_each_other_and_a_dead_one_does_not(store: DockerImages) -> None:
    running = engine().create_container(base_image(), ["sleep", "60"], name="dlenv-test-lock")
    engine().start(running)
    try:
        with pytest.raises(Conflict), store.build_container(base_image(), ["true"], name="dlenv-test-lock"):
            pytest.fail("the name was free")
        engine().kill(running)
        engine().wait(running)
        with store.build_container(base_image(), ["true"], name="dlenv-test-lock") as container:
            assert container.id != running["Id"]
    finally:
        if "/dlenv-test-lock" in names():
            engine().remove_container("dlenv-test-lock", force=True)


@pytest.mark.docker
def test_no_registry_has_an_image_of_a_registry_that_is_not_there(store: DockerImages) -> None:
    assert store.registry_has("127.0.0.1:9/nothing/here:1", timeout_s=5) is False


@pytest.mark.docker
def test_a_registry_that_never_answers_is_given_up(store: DockerImages) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []
        listener = threading.Thread(target=lambda: accepted.append(server.accept()[0]), daemon=True)
        listener.start()
        port = server.getsockname()[1]
        assert store.registry_has(f"127.0.0.1:{port}/silent/image:1", timeout_s=2) is False
        listener.join(5)
        assert accepted, "Docker never asked the registry"
        for connection in accepted:
            connection.close()


@pytest.mark.docker
def test_an_archive_that_is_not_there_is_told_and_leaves_nothing(
    store: DockerImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = {image["Id"] for image in engine().images(all=True)}
    with pytest.raises(DLEnvError, match="debootstrap ended with exit code") as caught:
        bootstrap(store, progress=print, mirror=f"file://{tmp_path}/no-archive", rebuild=True)
    assert "--mirror" in caught.value.hint
    assert {image["Id"] for image in engine().images(all=True)} == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.docker
@pytest.mark.slow
def test_the_starter_is_built_once(store: DockerImages) -> None:
    ref = bootstrap(store, progress=print)
    said: list[str] = []
    assert bootstrap(store, progress=said.append) == ref
    assert "already there" in said[0]
    assert starter(store, progress=said.append) == ref
    about = engine().inspect_image(ref)
    suite = choose_source(load_recipe(), host_source(), debootstrap_knows).suite
    assert about["Config"]["Labels"][LABEL] == load_recipe().digest(suite)
    assert engine().inspect_image("jupyter-dlenv/starter:latest")["Id"] == about["Id"]


@pytest.mark.docker
@pytest.mark.slow
def test_the_starter_runs_as_anybody_and_holds_no_trace_of_the_host(store: DockerImages) -> None:
    ref = bootstrap(store, progress=print)
    imports = "python3 -c 'import torch, sklearn, tqdm'"
    script = f"cat /etc/hostname; ls -A /mnt /dlenv 2>/dev/null; {imports}; grep -c @ /etc/apt/*.list"
    container = engine().create_container(ref, ["sh", "-c", script], user="12345:12345", network_disabled=True)
    try:
        engine().start(container)
        engine().wait(container)
        lines = engine().logs(container).decode().split()
    finally:
        engine().remove_container(container, force=True)
    assert lines[1:] == ["/mnt:", "0"]  # nothing said by the imports, no password in the archive's address
    assert lines[0] != os.uname().nodename
