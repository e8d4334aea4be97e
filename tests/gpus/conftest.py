"""What tests of GPUs share: a machine with 8 GPUs, answered for by a stand-in for NVML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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
