"""Which lock and which wheels a target takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.errors import UnusableImage
from jupyter_dlenv.images.facts import ImageFacts
from jupyter_dlenv.kernels import wheels
from jupyter_dlenv.kernels.lock_runtime import NAMES, UNWANTED, disagreements, roots
from jupyter_dlenv.kernels.manifest import merged_requirements
from jupyter_dlenv.kernels.runtime import kernel_argv, prepare


def facts_of(**changes: Any) -> ImageFacts:
    facts = ImageFacts("/usr/bin/python3", (3, 11, 2), "CPython", "x86_64", "glibc", (2, 36))
    return replace(facts, **changes)


def refuse(facts: ImageFacts, data_dir: Path) -> str:
    with pytest.raises(UnusableImage) as refusal:
        prepare(facts, image_id="", data_dir=data_dir, compile_in=lambda argv, mounts: None, progress=print)
    return str(refusal.value)


def test_platform_tags_are_those_of_the_standards() -> None:
    assert wheels.platform_tags("glibc", (2, 18), "aarch64") == [
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ]
    intel = wheels.platform_tags("glibc", (2, 17), "x86_64")
    assert intel[:2] == ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    assert intel[-2:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]
    assert wheels.platform_tags("musl", (1, 1), "x86_64") == ["musllinux_1_1_x86_64", "musllinux_1_0_x86_64"]


def test_every_minor_has_whole_locks() -> None:
    assert wheels.known_minors() == [f"3.{minor}" for minor in range(6, 15)]
    locks = sorted(wheels.LOCKS.glob("*.txt"))
    assert len(locks) == len(NAMES)
    for lock in locks:
        text = lock.read_text()
        pins = [line for line in text.splitlines() if "==" in line]
        assert wheels.floor(text) >= (1, 2)
        wanted = roots(int(lock.name[3 : lock.name.index("-")]))
        assert all(any(pin.startswith(f"{root}==") for pin in pins) for root in wanted)
        assert not any(pin.startswith(UNWANTED) for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": (3, 5, 10)}, "Python 3.5"),
        ({"version": (3, 6, 15), "libc": "musl", "libc_version": (1, 2)}, "Python 3.6 with musl"),
        ({"version": (2, 7, 18)}, "only Python is 2.7"),
        ({"machine": "ppc64le"}, "ppc64le"),
        ({"implementation": "PyPy"}, "PyPy"),
        ({"free_threaded": True}, "free-threaded"),
        ({"libc": "", "libc_version": (0, 0)}, "C library"),
        ({"libc_version": (2, 12)}, "2.12"),
        ({"libc": "musl", "libc_version": (1, 1)}, "1.1"),
    ],
)
def test_what_no_runtime_serves_is_refused_by_name(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refuse(facts_of(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_argv_starts_the_boot() -> None:
    assert kernel_argv(facts_of(version=(3, 8, 1))) == (
        "/usr/bin/python3",
        "/dlenv/runtime/boot.py",
        "-f",
        "/dlenv/run/connection.json",
    )


def test_argv_takes_away_what_the_images_python_does_not_start_with() -> None:
    argv = kernel_argv(facts_of(harmful=("PYTHONHOME", "PYTHONPATH")), "/c.json")
    assert argv[:4] == ("/bin/sh", "-c", 'unset PYTHONHOME PYTHONPATH; exec "$0" "$@"', "/usr/bin/python3")
    assert argv[-2:] == ("-f", "/c.json")


def test_requirements_are_merged_for_the_target_and_across_groups() -> None:
    metadata = {
        "alpha": ["beta>=1", "beta<3; python_version < '3.10'", "jedi>=0.16", "gamma>=7; extra == 'test'"],
        "beta": ["gamma!=2"],
        "gamma": [],
        "jedi": ["parso>=0.8"],
        "parso": [],
    }
    new = merged_requirements(metadata, wheels.Target((3, 11), "glibc", "x86_64"))
    old = merged_requirements(metadata, wheels.Target((3, 9), "glibc", "x86_64"))
    assert {name: str(wanted) for name, wanted in new.items()} == {
        "alpha": "",
        "beta": ">=1",
        "gamma": "!=2",
        "jedi": ">=0.16",
        "parso": "",
    }
    assert str(old["beta"]) == "<3,>=1"


def test_machines_agree_on_the_lower_version() -> None:
    assert disagreements([{"a": "1.10", "b": "2"}, {"a": "1.9", "b": "2"}]) == ["a<=1.9"]
    with pytest.raises(ValueError, match="different distributions"):
        disagreements([{"a": "1"}, {"a": "1", "b": "2"}])
