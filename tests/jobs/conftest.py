"""Images and environments for jobs."""

from __future__ import annotations

import docker_images
import pytest
from clients import environment

from jupyter_dlenv.engines.docker.images import DockerImages
from jupyter_dlenv.images.bootstrap import starter


@pytest.fixture(scope="session")
def torch_image() -> str:
    """The starter image, with torch; built where it is missing and no registry answers."""
    docker_images.engine()
    return starter(DockerImages.connect(), progress=print)


@pytest.fixture
def torch(torch_image: str) -> str:
    """The environment of the starter image."""
    environment("torch", image=torch_image)
    return "torch"


@pytest.fixture
def bare() -> str:
    """The environment of a bare image."""
    environment("bare", image=docker_images.base_image())
    return "bare"
