"""What tests of GPUs share: a machine with 8 GPUs, answered for by a stand-in for NVML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gpu_daemon import GpuDaemon, gpu_daemon
from gpu_host import GpuHost, gpu_host
from nvml_machine import Machine, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for libnvidia-ml, compiled."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def machine(tmp_path: Path, nvml_library: Path) -> Machine:
    """A machine with 8 GPUs, for other processes."""
    return Machine(tmp_path / "machine", library=nvml_library)


@pytest.fixture
def here(machine: Machine) -> Iterator[Machine]:
    """The same machine, for this process."""
    with machine.loaded():
        yield machine


@pytest.fixture(scope="module")
def daemon() -> Iterator[GpuDaemon]:
    """A daemon with the stand-in of NVIDIA's hook."""
    with gpu_daemon() as found:
        yield found


@pytest.fixture
def host(tmp_path: Path, daemon: GpuDaemon, machine: Machine) -> Iterator[GpuHost]:
    """A host with 8 GPUs."""
    with gpu_host(tmp_path, daemon, machine) as found:
        yield found
