"""Which copy of a module is taken, decided over folders that look like real installations."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from importlib.metadata import DistributionFinder
from pathlib import Path
from typing import Any

import packaging
import pytest
from packaging.specifiers import SpecifierSet

from jupyter_dlenv.kernels import finder

HOST_SITE = str(Path(packaging.__file__).parents[1])
VERSIONS = ["0", "1", "1.0", "1.0.0", "1.2", "1.2.3", "1.10", "2", "2.7.4", "10.0.1", "1.2.post1", "2.9.0.post0"]
WANTED = ["1", "1.0", "1.2", "1.2.0", "1.2.3", "2", "2.7"]


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "image"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    yield folder
    sys.path_importer_cache.pop(str(folder), None)


def add_package(folder: Path, module: str, metadata: str) -> None:
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(f"WHERE = {str(folder)!r}\n")
    (folder / metadata).mkdir()


def entry(name: str, requires: str = "", *, group: str = "", exclusive: bool = False) -> dict[str, Any]:
    info = f"{name}-9.0.dist-info"
    return {"modules": [name], "requires": requires, "group": group or name, "exclusive": exclusive, "info": info}


def taken(distributions: dict[str, dict[str, Any]]) -> list[str]:
    return finder.served_by_runtime(distributions, HOST_SITE)


@pytest.mark.parametrize("operator", ["==", "!=", "<=", ">=", "<", ">"])
def test_plain_comparison_agrees_with_packaging(operator: str) -> None:
    for version, wanted in itertools.product(VERSIONS, WANTED):
        specifier = f"{operator}{wanted}"
        assert finder.plainly_meets(version, specifier) == SpecifierSet(specifier).contains(version), (
            version,
            specifier,
        )


@pytest.mark.parametrize("template", ["=={}.*", "!={}.*", "~={}"])
def test_plain_comparison_agrees_with_packaging_on_series(template: str) -> None:
    for version, wanted in itertools.product(VERSIONS, ["1.0", "1.2", "1.2.0", "2.7"]):
        specifier = template.format(wanted)
        assert finder.plainly_meets(version, specifier) == SpecifierSet(specifier).contains(version), (
            version,
            specifier,
        )


def test_plain_comparison_takes_several_clauses_and_none() -> None:
    assert finder.plainly_meets("3.0.50", "<3.1.0,>=3.0.41,!=3.0.45") is True
    assert finder.plainly_meets("3.0.40", "<3.1.0,>=3.0.41") is False
    assert finder.plainly_meets("0.1", "") is True


@pytest.mark.parametrize(
    ("version", "specifiers", "answer"),
    [
        ("2.9.0.post0", ">=2.9.post1", False),
        ("23.0rc1", ">=22", True),
        ("22.0rc1", ">=22", False),
        ("1.0+cu121", "==1.0", True),
        ("1.2", ">=1.2rc1", True),
        ("2004d", ">=1", False),
    ],
)
def test_other_versions_are_left_to_packaging(version: str, specifiers: str, answer: bool) -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "packaging"}
    assert finder.plainly_meets(version, specifiers) is None
    assert finder.meets(version, specifiers, HOST_SITE) is answer
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "packaging"}
    assert after == before
    assert sys.path[0] != HOST_SITE


def test_the_images_copy_serves_where_it_fits(image: Path) -> None:
    add_package(image, "psutil", "psutil-7.0.0.dist-info")
    add_package(image, "pygments", "Pygments-2.7.4.dist-info")
    wanted = {"psutil": entry("psutil", ">=7"), "pygments": entry("pygments", ">=2.14"), "six": entry("six")}
    assert taken(wanted) == ["pygments", "six"]


def test_the_kernel_stack_is_never_the_images(image: Path) -> None:
    add_package(image, "traitlets", "traitlets-99.0.dist-info")
    assert taken({"traitlets": entry("traitlets", exclusive=True)}) == ["traitlets"]


def test_a_group_comes_from_one_side(image: Path) -> None:
    group = {"jedi": entry("jedi", ">=0.18", group="jedi"), "parso": entry("parso", group="jedi")}
    add_package(image, "parso", "parso-0.8.4.dist-info")
    assert taken(group) == ["jedi", "parso"]
    add_package(image, "jedi", "jedi-0.19.2.dist-info")
    sys.path_importer_cache.clear()
    assert taken(group) == []


@pytest.mark.parametrize("metadata", ["typing_extensions-4.9.0.egg-info", "typing_extensions-4.9.0-py3.8.egg-info"])
def test_setuptools_metadata_names_the_version(image: Path, metadata: str) -> None:
    add_package(image, "typing_extensions", metadata)
    assert taken({"typing-extensions": entry("typing_extensions", ">=4.6")}) == []
    assert taken({"typing-extensions": entry("typing_extensions", ">=4.10")}) == ["typing-extensions"]


def test_metadata_without_a_version_in_its_name_is_read(image: Path) -> None:
    add_package(image, "decorator", "decorator.egg-info")
    assert taken({"decorator": entry("decorator")}) == ["decorator"]
    (image / "decorator.egg-info" / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: decorator\nVersion: 5.1.1\n")
    assert taken({"decorator": entry("decorator", "==5.1.1")}) == []


def test_a_copy_whose_version_is_unsure_is_not_trusted(image: Path) -> None:
    add_package(image, "six", "six-1.15.0.dist-info")
    (image / "six-1.16.0.dist-info").mkdir()
    assert taken({"six": entry("six")}) == ["six"]


def test_the_copy_that_an_import_would_find_is_the_one_judged(image: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    add_package(user, "psutil", "psutil-5.0.dist-info")
    add_package(image, "psutil", "psutil-7.0.dist-info")
    sys.path.insert(0, str(user))
    assert taken({"psutil": entry("psutil", ">=7")}) == ["psutil"]


@pytest.fixture
def installed(image: Path, tmp_path: Path) -> Iterator[finder.RuntimeFinder]:
    site = tmp_path / "site"
    for name in ("alpha_kernel", "beta_shared"):
        add_package(site, name, f"{name}-9.0.dist-info")
        (site / f"{name}-9.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 9.0\n")
        add_package(image, name, f"{name}-1.0.dist-info")
        (image / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    names = {"alpha-kernel": entry("alpha_kernel", exclusive=True), "beta-shared": entry("beta_shared", ">=1")}
    found = finder.install(str(site), names)
    yield found
    sys.meta_path.remove(found)
    finder.forget(["alpha_kernel", "beta_shared"])


def test_installed_finder_serves_modules_and_metadata(installed: finder.RuntimeFinder, image: Path) -> None:
    from importlib import import_module
    from importlib.metadata import version

    assert import_module("alpha_kernel").WHERE.endswith("site")
    assert str(image) == import_module("beta_shared").WHERE
    assert version("alpha_kernel") == version("Alpha.Kernel") == "9.0"
    assert version("beta_shared") == "1.0"
    assert installed.modules == {"alpha_kernel"}


def test_metadata_of_named_folders_is_left_alone(installed: finder.RuntimeFinder, image: Path) -> None:
    named = DistributionFinder.Context(name="alpha-kernel", path=[str(image)])
    assert list(installed.find_distributions(named)) == []
    assert len(list(installed.find_distributions(DistributionFinder.Context()))) == 1


def test_a_module_imported_too_early_is_forgotten(image: Path, tmp_path: Path) -> None:
    add_package(image, "gamma", "gamma-1.0.dist-info")
    add_package(tmp_path / "site", "gamma", "gamma-9.0.dist-info")
    early = __import__("gamma")
    found = finder.install(str(tmp_path / "site"), {"gamma": entry("gamma", ">=2")})
    try:
        assert __import__("gamma") is not early
        assert __import__("gamma").WHERE.endswith("site")
    finally:
        sys.meta_path.remove(found)
        finder.forget(["gamma"])
