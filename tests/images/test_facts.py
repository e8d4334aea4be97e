"""What the probe says of real interpreters and images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker_images import BASE, base_image, image_from
from driver import probe, run_in

from jupyter_dlenv.errors import InvalidRequest, UnusableImage
from jupyter_dlenv.images.facts import (
    FIND_PYTHON,
    PROBE_SCRIPT,
    ImageFacts,
    facts_from_text,
    facts_to_text,
    parse_facts,
)

WITHOUT_PYTHON = f"FROM {BASE}\nRUN rm -f /usr/bin/python3*\n"
VENV = f"FROM {BASE}\nRUN python3 -m venv --without-pip /opt/venv\n"


def interpreters() -> list[str]:
    """Return the Pythons of this host, old ones too."""
    versions = ["2.7", *(f"3.{minor}" for minor in range(6, 15))]
    on_path = [shutil.which(f"python{version}") for version in versions]
    managed = Path.home().glob(".pyenv/versions/*/bin/python")
    return [sys.executable, *(path for path in on_path if path and "shims" not in path), *map(str, managed)]


def find_python(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", FIND_PYTHON], env={"PATH": path}, capture_output=True, text=True)


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("python", interpreters())
def test_every_python_prints_its_facts(python: str) -> None:
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
    with open(PROBE_SCRIPT, "rb") as script:
        output = subprocess.run([python, "-"], stdin=script, capture_output=True, text=True, check=True).stdout
    facts = parse_facts(output)
    said = (version.stdout or version.stderr).split()[1]
    assert ".".join(map(str, facts.version)) == said.rstrip("+").split("rc")[0]
    assert facts.machine == os.uname().machine
    assert (facts.uid, facts.gid) == (os.getuid(), os.getgid())
    assert facts.libc in ("glibc", "musl")
    assert facts.libc_version > (0, 0)
    assert facts.passwd == Path("/etc/passwd").read_text()


def test_frameworks_and_cuda_are_read_without_importing(tmp_path: Path) -> None:
    for name in ("torch-2.5.1+cu124.dist-info", "mxnet_cu112-1.9.1.dist-info", "tensorflow_gpu-2.4.0-py3.8.egg-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "torch" / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '12.4'\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VERSION": "11.0"}
    done = subprocess.run([sys.executable, PROBE_SCRIPT], env=env, capture_output=True, text=True, check=True)
    facts = parse_facts(done.stdout)
    assert facts.frameworks["torch"] == "2.5.1+cu124"
    assert facts.frameworks["mxnet"] == "1.9.1"
    assert facts.frameworks["tensorflow"] == "2.4.0"
    assert facts.cuda == "12.4"


def test_facts_survive_the_cache_and_banners() -> None:
    output = subprocess.run([sys.executable, PROBE_SCRIPT], capture_output=True, text=True, check=True).stdout
    facts = parse_facts(f"== NVIDIA ==\n{{not ours}}\n{output}\nbye\n")
    assert facts_from_text(facts_to_text(facts)) == facts
    assert isinstance(facts, ImageFacts)


def test_an_image_that_says_nothing_is_unusable() -> None:
    with pytest.raises(UnusableImage, match="no such option"):
        parse_facts("python: no such option\n")
    with pytest.raises(InvalidRequest):
        facts_from_text('{"python": "/usr/bin/python3", "colour": "blue"}')


def test_a_python_3_is_found_before_a_python_2(tmp_path: Path) -> None:
    program(tmp_path, "python3", "exit 1")
    program(tmp_path, "python", "printf 2")
    found = find_python(f"{tmp_path}:/usr/bin:/bin")
    assert found.returncode == 0
    assert not found.stdout.startswith(str(tmp_path)) or found.stdout == f"{tmp_path}/python\n"
    program(tmp_path, "python3", "printf 3")
    assert find_python(str(tmp_path)).stdout == f"{tmp_path}/python3\n"


@pytest.mark.docker
def test_a_bare_image_has_facts() -> None:
    facts = probe(base_image())
    assert facts.python == "/usr/bin/python3"
    assert facts.version[:2] == (3, 11)
    assert (facts.implementation, facts.libc, facts.uid) == ("CPython", "glibc", 0)
    assert facts.pip
    assert facts.externally_managed
    assert facts.user_site
    assert not facts.is_venv
    assert "root:x:0:0" in facts.passwd
    assert facts.frameworks == {}


@pytest.mark.docker
def test_a_venv_off_the_path_is_not_taken_for_the_images_python() -> None:
    image = image_from(VENV, "venv")
    assert probe(image).python == "/usr/bin/python3"


@pytest.mark.docker
def test_a_venv_on_the_path_has_no_user_site() -> None:
    facts = probe(image_from(f"{VENV}ENV PATH=/opt/venv/bin:$PATH\n", "venv-on-path"))
    assert facts.python == "/opt/venv/bin/python3"
    assert facts.is_venv
    assert (facts.prefix, facts.base_prefix) == ("/opt/venv", "/usr")
    assert not facts.user_site
    assert not facts.pip


@pytest.mark.docker
def test_an_image_without_python_ends_with_127() -> None:
    image = image_from(WITHOUT_PYTHON, "no-python")
    assert run_in(image, ["/bin/sh", "-c", f"({FIND_PYTHON}); echo $?"]) == "127\n"
